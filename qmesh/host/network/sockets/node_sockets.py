"""The sockets of the node's processes: the kernel's lists, and which process has which.

Nothing is asked of a process or read of its memory, so that none can make a look wait or tell it lies.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

import msgspec

from qmesh.host.network.sockets.socket_lists import (
    ESTABLISHED,
    LISTENING,
    UNCONNECTED,
    Socket,
    select_tcp_sockets,
    select_udp_sockets,
)
from qmesh.host.system import processes
from qmesh.mesh.node_processes.observed import Connection, ListeningSocket, NodeProcess, NodeSockets
from qmesh.mesh.printable import escape_line

_TICKS: Final = os.sysconf("SC_CLK_TCK")


class SocketPorts(msgspec.Struct, frozen=True, kw_only=True):
    """Which sockets to look at, by port: those of all others are left out.

    tcp, udp: listening. at: this machine's end of a connection; to: the other end. workers: of all workers of
    the mesh, of whom there may be tens of thousands: as tcp and at; called: as to.
    """

    tcp: frozenset[int]
    udp: frozenset[int] = frozenset()
    at: frozenset[int] = frozenset()
    to: frozenset[int] = frozenset()
    workers: range = range(0)
    called: range = range(0)


class SocketObserver:
    """Looks at sockets. Whose a socket is, is looked for once, among all of the machine's processes."""

    def __init__(self) -> None:
        self._owners: dict[str, NodeProcess | None] = {}

    def observe_sockets(self, wanted: SocketPorts) -> NodeSockets:
        """The sockets at these ports, with their processes. Raises KernelRefused."""
        found = [*_select_tcp(wanted), *_select_udp(wanted)]
        owners = self._owners = self._find_owners(each.inode for each in found)
        listening = [
            ListeningSocket(
                "udp" if each.protocol == "udp" else "tcp",
                each.local,
                each.port,
                each.user,
                owners[each.inode],
            )
            for each in found
            if each.state != ESTABLISHED
        ]
        connections = [
            Connection(each.local, each.port, each.remote, each.remote_port, _number(owners[each.inode]))
            for each in found
            if each.state == ESTABLISHED
        ]
        return NodeSockets(tuple(listening), tuple(connections))

    def _find_owners(self, inodes: Iterable[str]) -> dict[str, NodeProcess | None]:
        numbers = set(map(_number, self._owners.values()))
        gone = {number for number in numbers if not _is_there(number)}
        before = {
            inode: each
            for inode, each in self._owners.items()
            if _number(each) not in gone
            and not (each is not None and each.stands_still)  # it may go on by now
        }
        known = {inode: before.get(inode) for inode in inodes}
        found = processes.find_socket_owners(known.keys() - before.keys())
        begun = {number: read_process(number) for number in set(found.values())}
        return {**known, **{inode: begun[number] for inode, number in found.items()}}


def read_process(number: int) -> NodeProcess | None:
    """A process as the kernel knows it; None where there is none any more. Raises MachineRefused."""
    found = processes.read_stat(number)
    if found is None:
        return None
    name = escape_line(processes.read_process_name(number))
    return NodeProcess(
        number,
        name,
        found.started / _TICKS,
        processes.read_unit(number),
        found.is_stopped,
        escape_line(processes.find_frozen_group(number)),
    )


def _select_tcp(wanted: SocketPorts) -> Iterable[Socket]:
    def is_wanted(state: str, port: int, remote_port: int) -> bool:
        if state == LISTENING:
            return port in wanted.tcp or port in wanted.workers
        return (
            port in wanted.at
            or port in wanted.workers
            or remote_port in wanted.to
            or remote_port in wanted.called
        )

    return select_tcp_sockets({LISTENING, ESTABLISHED}, is_wanted)


def _select_udp(wanted: SocketPorts) -> Iterable[Socket]:
    if not wanted.udp:
        return ()
    return select_udp_sockets(lambda state, port, _: state == UNCONNECTED and port in wanted.udp)


def _is_there(number: int) -> bool:
    """Whether a process is there still; 0 is one that is not shown here."""
    return number == 0 or os.access(f"/proc/{number}", os.F_OK)


def _number(process: NodeProcess | None) -> int:
    return 0 if process is None else process.number
