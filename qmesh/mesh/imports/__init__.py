"""A cluster that runs without qmesh, read from what describes it, and how it becomes a mesh.

Text in, values out. The layers, from below:

listed        one machine as a worker list or a file of lines has it
worker_list   the entries of a config.yml -> machines
lines         lines of `[user@]ip[:port][/workers]` -> machines
order         machines -> their order, and the port of core 1
proposal      machines, and the mesh where there is one -> what is proposed, with notes
commands      a proposal -> what to type
"""
