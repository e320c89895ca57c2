"""What an audit says of the network: the guard, and the way between machines.

guard         the guard, and what weakens it
listeners     workers that listen where they should not, or do not; ports of others that are open
tunnel        the tunnel and its peers
mtu           which packets of the tunnel its path carries
links         machines of which nothing is heard, keys that two machines use
"""
