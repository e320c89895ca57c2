"""How readers ask this machine's agent: a socket below /run that answers questions, and takes no orders.

group   the number of a group, by its name
place   the directory and the socket in it, for the members of a group
server  the agent's end: who calls, what is asked, and how much of it
client  a reader's end
"""
