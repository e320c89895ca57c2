"""The node on this machine: its file, its workers, and what has to be restarted."""
