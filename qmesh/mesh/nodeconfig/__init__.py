"""The node's config.yml: profiles, surgical edit.

Text in, text out. The layers, from below:

document       YAML text -> tree of nodes that know their place; refuses what is damaged
profiles       what the format was in each node version
multiaddr      the one kind of address that a data worker has
worker_list    tree -> where the worker list is, and lists that the node would ignore
place          text + core -> address and port of that core's worker
layout         lines, indentation, exchanged spans
edit           text + wanted list -> text
secret_values  text -> text without secrets
least          wanted list + secrets -> a new text
"""

from qmesh.mesh.nodeconfig.edit import with_workers
from qmesh.mesh.nodeconfig.least import least
from qmesh.mesh.nodeconfig.multiaddr import listen_address
from qmesh.mesh.nodeconfig.place import place_of
from qmesh.mesh.nodeconfig.profiles import Facts, detect, facts
from qmesh.mesh.nodeconfig.secret_values import redacted, secret
from qmesh.mesh.nodeconfig.worker_list import Misplaced, misplaced, workers_in

__all__ = [
    "Facts",
    "Misplaced",
    "detect",
    "facts",
    "least",
    "listen_address",
    "misplaced",
    "place_of",
    "redacted",
    "secret",
    "with_workers",
    "workers_in",
]
