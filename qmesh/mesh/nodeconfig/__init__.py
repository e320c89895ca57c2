"""The node's config.yml: profiles, surgical edit, lint.

Text in, text out, or what was parsed already, so that one text is parsed once. The layers, from below:

characters     a character -> what to type in its place
document       a tree of nodes that know their place
composer       YAML events -> that tree; refuses what no node's config has
parse          a file -> tree and oddities; refuses what is damaged
key_location   tree -> where a key is, and what it holds
known_keys     the one table of keys: versions, and the form of each value
profiles       what the format was in each node version
multiaddr      the one kind of address that a data worker has
worker_list    the list as it stands, and lists that the node would ignore
listen_address text + core -> address and port of that core's worker; text -> ports that are open to everyone
control_process text -> where workers call the control process, and where it has its store
edit           text + settings -> text, by topic
redaction      text -> text without secrets
minimal        settings + secrets -> a new text
lint           text + mesh -> problems, by subject
render         inventory + a machine's name -> settings; with a config -> the config as the mesh wants it
"""

from qmesh.mesh.nodeconfig.control_process import find_stream_address, read_store_path
from qmesh.mesh.nodeconfig.document import ParsedConfig
from qmesh.mesh.nodeconfig.edit.config import edit_settings, read_settings, read_settings_as_node
from qmesh.mesh.nodeconfig.edit.settings import Setting
from qmesh.mesh.nodeconfig.key_location import Key
from qmesh.mesh.nodeconfig.lint.config import lint_config
from qmesh.mesh.nodeconfig.lint.problems import ExpectedMesh, Problem
from qmesh.mesh.nodeconfig.listen_address import find_listen_address, list_wide_ports
from qmesh.mesh.nodeconfig.minimal import build_minimal_config
from qmesh.mesh.nodeconfig.multiaddr import parse_multiaddr
from qmesh.mesh.nodeconfig.parse import decode_config, parse_config, refuse_oddities, scan_config
from qmesh.mesh.nodeconfig.profiles import (
    MASTER_PROXY,
    ProfileFacts,
    detect_profile,
    list_possible_profiles,
    profile_facts,
)
from qmesh.mesh.nodeconfig.redaction import read_secret, redact_config
from qmesh.mesh.nodeconfig.render import (
    build_desired_settings,
    build_expected_mesh,
    build_worker_settings,
    keep_announced_entries,
    list_worker_multiaddrs,
    refuse_broken_config,
    refuse_new_config,
    refuse_newer_config,
    render_config,
    render_config_for,
    tunnel_addresses_by_name,
)
from qmesh.mesh.nodeconfig.worker_list import IgnoredList, find_ignored_lists, read_workers

__all__ = [
    "MASTER_PROXY",
    "ExpectedMesh",
    "IgnoredList",
    "Key",
    "ParsedConfig",
    "Problem",
    "ProfileFacts",
    "Setting",
    "build_desired_settings",
    "build_expected_mesh",
    "build_minimal_config",
    "build_worker_settings",
    "decode_config",
    "detect_profile",
    "edit_settings",
    "find_ignored_lists",
    "find_listen_address",
    "find_stream_address",
    "keep_announced_entries",
    "lint_config",
    "list_possible_profiles",
    "list_wide_ports",
    "list_worker_multiaddrs",
    "parse_config",
    "parse_multiaddr",
    "profile_facts",
    "read_secret",
    "read_settings",
    "read_settings_as_node",
    "read_store_path",
    "read_workers",
    "redact_config",
    "refuse_broken_config",
    "refuse_new_config",
    "refuse_newer_config",
    "refuse_oddities",
    "render_config",
    "render_config_for",
    "scan_config",
    "tunnel_addresses_by_name",
]
