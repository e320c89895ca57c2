"""How metrics leave the agent by themselves: as a file for node_exporter, and over HTTP."""
