"""A cluster that runs without qmesh, read from what describes it, and how it becomes a mesh.

Text in, values out. The layers, from below:

listed        one machine as a worker list or a file of lines has it
worker_list   the entries of a config.yml -> machines
lines         lines of `[user@]ip[:port][/workers]` -> machines
order         machines -> their order, and the port of core 1
proposal      machines, and the mesh where there is one -> what is proposed, with notes
commands      a proposal -> what to type
"""

from qmesh.mesh.imports.commands import Options, command_lines, script
from qmesh.mesh.imports.lines import machines_in_lines
from qmesh.mesh.imports.machine import Listed, Reading
from qmesh.mesh.imports.proposal import Joined, Mesh, Proposal, Proposed, propose
from qmesh.mesh.imports.worker_list import machines_in_list

__all__ = [
    "Joined",
    "Listed",
    "Mesh",
    "Options",
    "Proposal",
    "Proposed",
    "Reading",
    "command_lines",
    "machines_in_lines",
    "machines_in_list",
    "propose",
    "script",
]
