"""At which addresses and ports the node's own network reaches a mesh.

public_host     text -> a host that anybody can reach, or why it is none
announcements   inventory -> where other nodes are told to find each worker
open_ports      inventory -> which ports have to be open to the internet, by machine
"""
