"""`join`: through the network, or by files."""
