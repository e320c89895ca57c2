"""What is not as it should be on one machine: desired, observed and surroundings in, findings out.

findings      what the answer is made of
surroundings  what is looked at besides the node's state
maintenance   keys, agent, a change that waits
guard         the guard, and what weakens it
listeners     workers that listen where they should not, or do not; ports of others that are open
tunnel        the tunnel and its peers
mtu           which packets of the tunnel its path carries
links         machines of which nothing is heard, keys that two machines use
programs      which version of the node runs
config        the node's config.yml
obstacles     files of the node's that cannot be replaced
node_keys     the node's identity, here and on the other machines
processes     the node's processes: outdated, cut off, silent, or of another machine's core
other_nodes   ports of this node that another node on the machine has
announcements what the node's network is told of the workers
parts         all of these, in order
"""
