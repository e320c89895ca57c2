"""What is fired at a copy of this machine, what should become of it, and what that comes to."""
