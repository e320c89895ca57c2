"""Which of the processes at this node's ports run another node, with a config directory of its own.

For that command lines are read, which are memory of their processes, and a directory that a user may have
mounted: in a thread that is given up, where a command asks, and that the agent never waits for.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from qmesh.agent.local import Local
from qmesh.errors import QmeshError
from qmesh.host.config_directory import ConfigDirectory
from qmesh.host.disk_timeout import run_in_time
from qmesh.host.network import ports
from qmesh.host.network.sockets.node_sockets import SocketObserver, SocketPorts
from qmesh.host.node_program.running_nodes import PROCESSES, find_other_nodes
from qmesh.host.system import heartbeat
from qmesh.mesh.inventory import list_workers
from qmesh.mesh.node_processes.observed import NodeSockets
from qmesh.mesh.node_processes.other_nodes import set_aside_other_nodes
from qmesh.mesh.node_processes.places import Place

_AGAIN_S: Final = 60.0
"""Seconds after which the agent asks again: the directory of a process may have been made since."""

_ProcessKey = tuple[int, float]
"""A process's number, and when it began."""

FindOtherNodes: TypeAlias = Callable[[ConfigDirectory, NodeSockets], dict[int, str]]
"""As `ask_other_nodes`."""


def ask_other_nodes(directory: ConfigDirectory, seen: NodeSockets) -> dict[int, str]:
    """The config directories of other nodes by the number of the process, among those that were seen.

    directory: this node's.
    """
    numbers = {number for number, _ in _list_processes(seen)}
    if not numbers:
        return {}
    with contextlib.suppress(OSError, QmeshError):
        return run_in_time(PROCESSES / "self", lambda: find_other_nodes(directory, numbers))
    return {}


class OtherNodeWatch:
    """The same for the agent, at once: of a process it is known some looks after it was first seen.

    wait_s: seconds that a look waits for what is not known yet.
    """

    def __init__(self, *, wait_s: float = 0.0) -> None:
        self._wait_s = wait_s
        self._asked: frozenset[_ProcessKey] = frozenset()
        self._asked_at = 0.0
        self._found: dict[_ProcessKey, str] = {}
        self._thread: threading.Thread | None = None

    def find(self, directory: ConfigDirectory, seen: NodeSockets) -> dict[int, str]:
        """As `ask_other_nodes`, of what was asked before; new processes are asked in a thread."""
        processes = frozenset(_list_processes(seen))
        is_due = not processes <= self._asked or time.monotonic() - self._asked_at > _AGAIN_S
        if processes and is_due and (self._thread is None or not self._thread.is_alive()):
            self._asked, self._asked_at = processes, time.monotonic()
            self._thread = threading.Thread(
                target=self._ask, args=(directory, processes), name="other nodes", daemon=True
            )
            self._thread.start()
        if self._wait_s and self._thread is not None:
            with heartbeat.allow_wait(self._wait_s):
                self._thread.join(self._wait_s)
        found = self._found
        return {key[0]: found[key] for key in processes if key in found}

    def _ask(self, directory: ConfigDirectory, processes: frozenset[_ProcessKey]) -> None:
        with contextlib.suppress(OSError):
            answer = find_other_nodes(directory, (number for number, _ in processes))
            self._found = {key: answer[key[0]] for key in processes if key[0] in answer}


def _list_processes(seen: NodeSockets) -> Iterable[_ProcessKey]:
    return ((each.process.number, each.process.started_s) for each in seen.listening if each.process)


def list_worker_listeners(here: Local, find_other: FindOtherNodes) -> frozenset[Place]:
    """Where something listens at the ports of this machine's workers, over TCP, that is no other node's.

    Whose a socket is, is looked for only where one is at another address than the worker's.
    Raises MachineRefused.
    """
    own = {
        (each.address, each.port)
        for each in list_workers(here.inventory)
        if each.machine == here.settings.name
    }
    numbers = frozenset(port for _, port in own)
    found = frozenset(each for each in ports.list_listeners() if each[1] in numbers)
    directory = here.settings.node_directory
    if directory is None or found <= own:
        return found
    seen = SocketObserver().observe_sockets(SocketPorts(tcp=numbers))
    ours = set_aside_other_nodes(seen, find_other(directory, seen))
    return frozenset((each.address, each.port) for each in ours.listening)
