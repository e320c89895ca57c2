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

from qmesh.mesh.nodeconfig.desired_settings import build_desired_settings
from qmesh.mesh.nodeconfig.document import MAX_NODES
from qmesh.mesh.nodeconfig.edit import Setting, edit_settings, read_settings
from qmesh.mesh.nodeconfig.key_location import Key
from qmesh.mesh.nodeconfig.lint import lint_config
from qmesh.mesh.nodeconfig.listen_address import find_listen_address
from qmesh.mesh.nodeconfig.minimal import build_minimal_config
from qmesh.mesh.nodeconfig.multiaddr import parse_multiaddr
from qmesh.mesh.nodeconfig.problems import ExpectedMesh, Problem
from qmesh.mesh.nodeconfig.profiles import ProfileFacts, detect_profile, profile_facts
from qmesh.mesh.nodeconfig.redaction import read_secret, redact_config
from qmesh.mesh.nodeconfig.worker_list import IgnoredList, find_ignored_lists, read_workers

__all__ = [
    "MAX_NODES",
    "ExpectedMesh",
    "IgnoredList",
    "Key",
    "Problem",
    "ProfileFacts",
    "Setting",
    "build_desired_settings",
    "build_minimal_config",
    "detect_profile",
    "edit_settings",
    "find_ignored_lists",
    "find_listen_address",
    "lint_config",
    "parse_multiaddr",
    "profile_facts",
    "read_secret",
    "read_settings",
    "read_workers",
    "redact_config",
]
