"""What this machine's guard is proved to do."""
