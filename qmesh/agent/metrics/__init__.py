"""Metrics of this machine: gathered in one place, and handed out at several.

collector  what the agent knows, and what is looked at for metrics alone -> the text
directory  where the file for node_exporter belongs
outlets    the file for node_exporter, and where Prometheus asks, as the machine's settings say
"""
