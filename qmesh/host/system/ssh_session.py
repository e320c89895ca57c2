"""The SSH session that a process was started from, if any. Source: proc(5), ssh(1)."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from qmesh.errors import MachineRefused
from qmesh.host.disk_timeout import run_in_time
from qmesh.host.network.sockets.sock_diag import render_address
from qmesh.host.network.sockets.socket_lists import ESTABLISHED, select_tcp_sockets
from qmesh.host.system import processes
from qmesh.mesh.ssh_lockout import Session

_PROCESSES: Final = Path("/proc")
_MOST_ANCESTORS: Final = 64
_MOST_OCTETS: Final = 4 << 20
"""More than the kernel takes of a program's environment by default. Source: execve(2), limits."""
_VARIABLE: Final = re.compile(rb"(?:\A|(?<=\0))SSH_CONNECTION=([^\0]*)")


def find_session(process: int) -> Session | None:
    """The session of a process, by its ancestors: sudo takes the variable away, but only from its child.

    One that is told of and not connected any more is none: a terminal multiplexer outlives the
    session that started it, and keeps its environment.
    """
    told: list[Session] = []

    def read() -> None:
        for each in _list_ancestors(process):
            told.extend(_read_sessions(each))

    with contextlib.suppress(MachineRefused):
        run_in_time(_PROCESSES, read)
    connected = frozenset(_list_connections())
    return next((session for session in told if session in connected), None)


def _list_ancestors(process: int) -> Iterator[int]:
    """A process and those that it descends from, the nearest first."""
    for _ in range(_MOST_ANCESTORS):
        yield process
        found = processes.read_stat(process)
        if found is None or found.parent == 0:
            return
        process = found.parent


def _read_sessions(process: int) -> Iterator[Session]:
    """What a process was told of its session when it was started.

    That is its memory: its user may have mapped there what has no end, or never answers.
    """
    with contextlib.suppress(OSError), (_PROCESSES / str(process) / "environ").open("rb") as file:
        yield from parse_sessions(file.read(_MOST_OCTETS))


def parse_sessions(environment: bytes) -> Iterator[Session]:
    """The sessions that an environment tells of. It is its user's, who may have put anything there."""
    for value in _VARIABLE.findall(environment):
        with contextlib.suppress(ValueError):
            client, client_port, server, server_port = value.decode("ascii", "replace").split()
            yield Session(
                _normalize_address(client), int(client_port), _normalize_address(server), int(server_port)
            )


def _normalize_address(text: str) -> str:
    return render_address(ipaddress.ip_address(text.partition("%")[0]))


def _list_connections() -> Iterator[Session]:
    """The TCP connections of this machine, seen as those of a server."""
    for each in select_tcp_sockets({ESTABLISHED}):
        yield Session(each.remote, each.remote_port, each.local, each.port)
