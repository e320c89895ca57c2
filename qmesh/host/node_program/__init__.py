"""The node's program on this machine: what runs, and what it tells of itself."""
