"""The state directory: what this machine remembers between commands."""
