"""A cluster that runs without qmesh, read from what describes it, and how it becomes a mesh.

Text in, values out. The layers, from below:

listed        one machine as a worker list or a file of lines has it
worker_list   the entries of a config.yml -> machines
lines         lines of `[user@]ip[:port][/workers]` -> machines
order         machines -> their order, and the port of core 1
proposal      machines, and the mesh where there is one -> what is proposed, with notes
commands      a proposal -> what to type
"""

from qmesh.mesh.imports.commands import ScriptOptions, command_lines, render_script
from qmesh.mesh.imports.lines import parse_machine_lines
from qmesh.mesh.imports.machine import ImportedMachines, ListedMachine
from qmesh.mesh.imports.proposal import (
    ExistingMachine,
    ExistingMesh,
    Proposal,
    ProposedMachine,
    build_proposal,
)
from qmesh.mesh.imports.worker_list import find_machines_in_list, list_config_notes, uses_master_proxy

__all__ = [
    "ExistingMachine",
    "ExistingMesh",
    "ImportedMachines",
    "ListedMachine",
    "Proposal",
    "ProposedMachine",
    "ScriptOptions",
    "build_proposal",
    "command_lines",
    "find_machines_in_list",
    "list_config_notes",
    "parse_machine_lines",
    "render_script",
    "uses_master_proxy",
]
