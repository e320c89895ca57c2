"""iptables' matches and targets, as the kernel has them in nftables' rules and in iptables' own tables.

Each is a structure of C in native byte order. Source: linux/netfilter/xt_*.h, net/netfilter/xt_*.c.
One that is not here is not understood; so is one of another revision or size.

matches            all matches by name and revision; those that ask where a packet is, and by whom
header_matches     those that ask for a packet's headers
connection_matches those that ask for its connection
stateful_matches   those that ask what was before: limits, and sets of ipset and recent
targets            what becomes of a packet
legacy_tables      the tables of iptables-legacy
"""
