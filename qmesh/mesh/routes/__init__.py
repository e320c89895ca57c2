"""Which way a packet goes by rules and tables, and what of that keeps it out of the tunnel.

tables      rules and routes as values
lookup      the walk through them, as the kernel's
detours     packets to members that do not go into the tunnel: why, and the command
overlaps    what else has addresses of the tunnel's network
"""
