"""What takes packets besides a firewall's rules: IPsec, XDP, tc, marks, units, checks of sources."""
