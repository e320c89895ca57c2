"""TCP connections of this machine that are older than a rule: found, and cut.

A rule only keeps packets from a socket. Its program would go on with the connection, and keep a place
for it, until a timer tells it otherwise; cut, it is told at once.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Callable, Collection, Iterator
from typing import Final

from qmesh.errors import MachineRefused
from qmesh.host.log.events import report_event
from qmesh.host.network import links
from qmesh.host.network.netlink import translate_errors
from qmesh.host.network.routes import list_own_addresses
from qmesh.host.network.sockets import sock_diag
from qmesh.host.network.sockets.sock_diag import TcpSocket
from qmesh.mesh.guard.access import can_reach_port
from qmesh.mesh.node_processes.observed import Connection
from qmesh.mesh.state import Guard

_LISTENING: Final = 10
_EVERY: Final = range(12)
_NOT_TO_CUT: Final = {_LISTENING, 6, 7}  # and TIME-WAIT and CLOSE, which have no process any more


def close_disallowed_connections(guard: Guard) -> None:
    """Cut what is open at this machine's closed ports for others than the guard lets in.

    A connection that began here, at a worker's number while no worker listens there, is left alone.
    A kernel that can't tell or can't cut is no reason to fail: nothing passes the guard.
    """
    with _log_refusals():
        _close_disallowed(guard)


def _close_disallowed(guard: Guard) -> None:
    found = _list_sockets()
    listened = {each.port for each in found if each.state == _LISTENING}.intersection(guard.closed_ports)
    own = list_own_addresses() if guard.role == "control" or guard.guarded_ports else frozenset()
    link = links.read(guard.interface) if guard.mesh_ports else None
    members = [ipaddress.ip_interface(each).network for each in link.addresses] if link else []

    def is_disallowed(each: TcpSocket) -> bool:
        return each.port in listened and not can_reach_port(
            guard, each.port, each.remote, own=own, members=members
        )

    _close_matching(found, is_disallowed)


def close_connections_from(addresses: Collection[str]) -> None:
    """Cut what is open to or from these addresses, as far as the kernel can."""
    if addresses:
        with _log_refusals():
            _close_matching(_list_sockets(), lambda each: each.remote in addresses)


def close_connections(found: Collection[Connection]) -> None:
    """Cut these connections, as far as the kernel can."""
    ends = {(each.address, each.port, each.remote, each.remote_port) for each in found}
    if ends:
        with _log_refusals():
            _close_matching(
                _list_sockets(), lambda each: (each.local, each.port, each.remote, each.remote_port) in ends
            )


@contextlib.contextmanager
def _log_refusals() -> Iterator[None]:
    try:
        yield
    except MachineRefused as error:
        report_event(
            "connections-not-cut",
            "older connections could not be cut, so they end only by a timeout: %s",
            error,
        )


def _close_matching(found: Collection[TcpSocket], is_meant: Callable[[TcpSocket], bool]) -> None:
    for each in found:
        if each.state not in _NOT_TO_CUT and is_meant(each) and _destroy_socket(each):
            report_event(
                "connection-cut",
                "cut the connection of %s port %d to port %d",
                each.remote,
                each.remote_port,
                each.port,
            )


def _list_sockets() -> list[TcpSocket]:
    with translate_errors("read the connections"):
        return [sock_diag.parse_socket(each) for each in sock_diag.request_tcp_sockets(_EVERY)]


def _destroy_socket(found: TcpSocket) -> bool:
    """Whether it was there and is no more."""
    with translate_errors("cut a connection"):
        try:
            sock_diag.destroy_socket(found)
        except FileNotFoundError:
            return False
    return True
