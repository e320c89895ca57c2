"""TCP connections of this machine that are older than a rule: found, and cut.

A rule only keeps packets from a socket. Its program would go on with the connection, and keep a place
for it, until a timer tells it otherwise; cut, it is told at once. Source: sock_diag(7), and
`linux/inet_diag.h` for SOCK_DESTROY (Linux 4.5).
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
from collections.abc import Callable, Collection, Iterator
from typing import Final

import msgspec

from qmesh.errors import MachineRefused
from qmesh.host.log.events import report_event
from qmesh.host.network import links
from qmesh.host.network.netlink import translate_errors
from qmesh.host.network.netlink_messages import ACK, DUMP, HEADER, build_request, send_request
from qmesh.host.network.routes import list_own_addresses
from qmesh.host.network.sockets.listing import render_address
from qmesh.mesh.guard.access import can_reach_port
from qmesh.mesh.node_processes.observed import Connection
from qmesh.mesh.state import Guard

_SOCK_DIAG: Final = 4  # NETLINK_SOCK_DIAG
_BY_FAMILY, _DESTROY = 20, 21  # SOCK_DIAG_BY_FAMILY, SOCK_DESTROY
_ASKED: Final = struct.Struct("=BBxxI48s")  # inet_diag_req_v2: family, protocol, states, sockid
_FOUND: Final = struct.Struct("=BBxx48s")  # inet_diag_msg: family, state, sockid
_ENDS: Final = struct.Struct("!HH16s16s")  # of a sockid: ports and addresses of both ends
_LISTENING: Final = 10
_EVERY: Final = (1 << 12) - 1
_NOT_TO_CUT: Final = {_LISTENING, 6, 7}  # and TIME-WAIT and CLOSE, which have no process any more
_ANSWER_S: Final = 5.0


class Flow(msgspec.Struct, frozen=True):
    """A TCP socket. Addresses in their shortest form, IPv4 as such also on a socket of IPv6."""

    family: int
    state: int
    local: str
    port: int
    remote: str
    remote_port: int
    id: bytes


def close_disallowed_connections(guard: Guard) -> None:
    """Cut what is open at this machine's closed ports for others than the guard lets in.

    A connection that began here, at a worker's number while no worker listens there, is left alone.
    A kernel that can't tell or can't cut is no reason to fail: nothing passes the guard.
    """
    with _log_refusals():
        _close_disallowed(guard)


def _close_disallowed(guard: Guard) -> None:
    found = list(_list_flows())
    listened = {flow.port for flow in found if flow.state == _LISTENING}.intersection(guard.closed_ports)
    own = list_own_addresses() if guard.role == "control" or guard.guarded_ports else frozenset()
    link = links.read(guard.interface) if guard.mesh_ports else None
    members = [ipaddress.ip_interface(each).network for each in link.addresses] if link else []

    def is_disallowed(flow: Flow) -> bool:
        return flow.port in listened and not can_reach_port(
            guard, flow.port, flow.remote, own=own, members=members
        )

    _close_matching(found, is_disallowed)


def close_connections_from(addresses: Collection[str]) -> None:
    """Cut what is open to or from these addresses, as far as the kernel can."""
    if addresses:
        with _log_refusals():
            _close_matching(_list_flows(), lambda flow: flow.remote in addresses)


def close_connections(found: Collection[Connection]) -> None:
    """Cut these connections, as far as the kernel can."""
    ends = {(each.address, each.port, each.remote, each.remote_port) for each in found}
    if ends:
        with _log_refusals():
            _close_matching(
                _list_flows(), lambda flow: (flow.local, flow.port, flow.remote, flow.remote_port) in ends
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


def _close_matching(found: Collection[Flow] | Iterator[Flow], is_meant: Callable[[Flow], bool]) -> None:
    for flow in found:
        if flow.state not in _NOT_TO_CUT and is_meant(flow) and _destroy_socket(flow):
            report_event(
                "connection-cut",
                "cut the connection of %s port %d to port %d",
                flow.remote,
                flow.remote_port,
                flow.port,
            )


def _list_flows() -> Iterator[Flow]:
    for family in (socket.AF_INET, socket.AF_INET6):
        request = _ASKED.pack(family, socket.IPPROTO_TCP, _EVERY, bytes(48))
        with translate_errors("read the connections"):
            found = [_parse_flow(message) for message in _send_request(_BY_FAMILY, DUMP, request)]
        yield from found


def _parse_flow(message: bytes) -> Flow:
    family, state, number = _FOUND.unpack_from(message, HEADER.size)
    port, remote_port, local, remote = _ENDS.unpack_from(number)
    return Flow(
        family,
        state,
        _decode_address(family, local),
        port,
        _decode_address(family, remote),
        remote_port,
        number,
    )


def _decode_address(family: int, octets: bytes) -> str:
    return render_address(ipaddress.ip_address(octets if family == socket.AF_INET6 else octets[:4]))


def _destroy_socket(flow: Flow) -> bool:
    """Whether it was there and is no more."""
    request = _ASKED.pack(flow.family, socket.IPPROTO_TCP, 1 << flow.state, flow.id)
    with translate_errors("cut a connection"):
        try:
            _send_request(_DESTROY, ACK, request)
        except FileNotFoundError:
            return False
    return True


def _send_request(kind: int, flags: int, request: bytes) -> list[bytes]:
    """What the kernel answers; it may have changed meanwhile. Raises OSError and ValueError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as netlink:
        return send_request(netlink, build_request(kind, flags, request), timeout_s=_ANSWER_S)[0]
