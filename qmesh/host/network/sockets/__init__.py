"""The sockets of this machine: listed, and connections cut."""
