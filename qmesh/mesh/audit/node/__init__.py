"""What an audit says of the node: its program, files, keys and processes.

programs      which version of the node runs
config        the node's config.yml
obstacles     files of the node's that cannot be replaced
node_keys     the node's identity, here and on the other machines
processes     the node's processes: outdated, cut off, silent, or of another machine's core
other_nodes   ports of this node that another node on the machine has
silence       workers that do not answer, and why
announcements what the node's network is told of the workers
"""
