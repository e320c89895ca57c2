"""What takes packets besides a firewall's rules: IPsec, XDP, filters of tc, a mark, a unit's filter."""
