"""How metrics leave the agent: by its socket, as a file for node_exporter, and over HTTP."""
