"""What the processes that live long import at their start, though most of the time they have no use for it.

An upgrade replaces the files below them, and restarts them some time later: minutes, where a package is one
of many. What they imported meanwhile would be of the new version, in a process of the old one. Commands end
soon, and go on importing on use.

An agent has what its machine needs: most are worker machines, which have no registry and serve nobody. Where
its machine comes to need more, as the next control node does, the agent begins anew and has all.
"""

from __future__ import annotations

import importlib
import importlib.abc
import os
import sys
from collections.abc import Callable
from typing import Final

from qmesh.errors import QmeshError
from qmesh.host.log.events import report_event
from qmesh.host.state.directory import State

_OF_ALL: Final = (
    "cryptography.hazmat.backends.openssl.backend",  # which the library imports when a key is used first
    "qmesh.agent.audit.foreign_firewalls",
    "qmesh.host.api.client",
    "qmesh.host.api.packet_probe",
    "qmesh.host.firewall.drop_counters",
    "qmesh.mesh.node_keys.key_store",
    "qmesh.mesh.printable_json",
)
_OF_METRICS: Final = ("qmesh.host.metrics.http_server",)
_OF_NOTIFICATIONS: Final = ("qmesh.agent.notifications.notifier",)
_OF_CONTROL: Final = (
    "qmesh.agent.audit.collection",
    "qmesh.agent.daemon.membership.api",
    "qmesh.host.api.collection",
    "qmesh.host.api.server",
    "qmesh.host.registry",
    "qmesh.mesh.protocol.backup_file",
)
"""What the agent's modules import within functions, by who has a use for it."""
_EVERYTHING: Final = (*_OF_ALL, *_OF_METRICS, *_OF_NOTIFICATIONS, *_OF_CONTROL)
_LACKED: Final = "QMESH_AGENT_LACKED"
"""In the environment of an agent that has begun anew: the module that the one before it lacked."""


def load_modules() -> None:
    """Import all that is left, whatever the machine is."""
    _import_modules(_EVERYTHING)


def load_needed_modules(state: State, *, begin_anew: Callable[[], None]) -> None:
    """Import what is left of what this machine's agent needs; from then on nothing of qmesh is imported.

    begin_anew: called where something is asked for all the same; executes the agent, which then has all.
    """
    lacked = os.environ.pop(_LACKED, "")
    if lacked:
        report_event("agent-extended", "this machine needs more than its agent had loaded: %s", lacked)
        load_modules()
    else:
        _import_modules(_list_needed(state))
        sys.meta_path.insert(0, _ImportRefusal(begin_anew))


def _list_needed(state: State) -> tuple[str, ...]:
    try:
        settings, notifies = state.settings(), state.notify_settings.exists()
    except QmeshError:  # the machine may be anything
        return _EVERYTHING
    if settings.control:
        return _EVERYTHING
    return (*_OF_ALL, *(_OF_METRICS if settings.metrics else ()), *(_OF_NOTIFICATIONS if notifies else ()))


def _import_modules(names: tuple[str, ...]) -> None:
    for name in names:
        importlib.import_module(name)


class _ImportRefusal(importlib.abc.MetaPathFinder):
    """Python asks it first for each module that is not there yet; of qmesh there is to be none."""

    def __init__(self, begin_anew: Callable[[], None]) -> None:
        self._begin_anew = begin_anew

    def find_spec(self, name: str, _path: object, _target: object = None) -> None:
        if name.startswith("qmesh."):
            os.environ[_LACKED] = name
            self._begin_anew()
