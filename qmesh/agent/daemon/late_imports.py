"""What the processes that live long import at their start, though most of the time they have no use for it.

An upgrade replaces the files below them, and restarts them some time later: minutes, where a package is one
of many. What they imported meanwhile would be of the new version, in a process of the old one. Commands end
soon, and go on importing on use.
"""

from __future__ import annotations

import importlib
from typing import Final

_ON_USE: Final = (
    "qmesh.agent.audit.foreign_firewalls",
    "qmesh.host.api.client",
    "qmesh.host.api.packet_probe",
    "qmesh.host.firewall.drop_counters",
    "qmesh.mesh.node_keys.key_store",
    "qmesh.mesh.protocol.backup_file",
)
"""What the agent's modules import within functions."""


def load_modules() -> None:
    """Import all that is left."""
    for name in _ON_USE:
        importlib.import_module(name)
