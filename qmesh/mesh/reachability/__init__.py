"""At which addresses and ports the node's own network reaches a mesh.

public_host          text -> a host that anybody can reach, or why it is none
announcements        inventory -> where other nodes are told to find each worker
unsupported_options  inventory -> options with which a node does no work
open_ports           inventory -> ports that have to be open to the internet, by machine
"""
