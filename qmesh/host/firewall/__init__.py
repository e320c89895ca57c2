"""nftables: the guard loaded, held and kept; and the rules of others read."""
