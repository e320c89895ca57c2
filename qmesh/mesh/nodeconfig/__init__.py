"""The node's config.yml: profiles, surgical edit, lint.

Text in, text out. The layers, from below:

document       YAML text -> tree of nodes that know their place; refuses what is damaged
place          tree -> where a key is, and what it holds
profiles       what the format was in each node version
multiaddr      the one kind of address that a data worker has
worker_list    the list as it stands, and lists that the node would ignore
core_place     text + core -> address and port of that core's worker
layout         lines, indentation, exchanged spans
edit           text + settings -> text
wanted         inventory + a machine's name -> settings
secret_values  text -> text without secrets
least          settings + secrets -> a new text
list_names     what the worker lists are called, and what people call them
problems       what lint answers with
lint           text + mesh -> problems; by lint_keys, lint_lists, lint_mesh
"""

from qmesh.mesh.nodeconfig.desired_settings import wanted_settings
from qmesh.mesh.nodeconfig.document import MAX_NODES
from qmesh.mesh.nodeconfig.edit import Setting, settings_in, with_settings, with_workers
from qmesh.mesh.nodeconfig.key_location import Key
from qmesh.mesh.nodeconfig.lint import lint
from qmesh.mesh.nodeconfig.listen_address import place_of
from qmesh.mesh.nodeconfig.minimal import least
from qmesh.mesh.nodeconfig.multiaddr import listen_address
from qmesh.mesh.nodeconfig.problems import Mesh, Problem
from qmesh.mesh.nodeconfig.profiles import Facts, detect, facts
from qmesh.mesh.nodeconfig.redaction import redacted, secret
from qmesh.mesh.nodeconfig.worker_list import Misplaced, misplaced, workers_in

__all__ = [
    "MAX_NODES",
    "Facts",
    "Key",
    "Mesh",
    "Misplaced",
    "Problem",
    "Setting",
    "detect",
    "facts",
    "least",
    "lint",
    "listen_address",
    "misplaced",
    "place_of",
    "redacted",
    "secret",
    "settings_in",
    "wanted_settings",
    "with_settings",
    "with_workers",
    "workers_in",
]
