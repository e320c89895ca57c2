"""The node's processes on one machine: what the kernel says of their sockets in, what is wrong with them out.

observed   processes and sockets, as the kernel has them
expected   where they should listen, and what they should connect to
readings   what each reads of config.yml, and when that changed last
record     what the agent remembers of them between two looks
workers    the state of each core's worker, and workers of cores that are another machine's
control    the state of the control process
other_nodes sockets of another node on the same machine
restart    how to restart what is wrong, in words
"""
