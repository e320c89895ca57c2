"""What systemd is told: the units, what they may do, and which of the node's restart."""
