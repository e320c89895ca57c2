"""What `status` prints: what is wrong, then a line for each machine, as wide and as long as there is room."""
