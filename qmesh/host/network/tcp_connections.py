"""TCP connections of this machine that are older than a rule: found, and cut.

A rule only keeps packets from a socket. Its program would go on with the connection, and keep a place
for it, until a timer tells it otherwise; cut, it is told at once. Source: sock_diag(7), and
`linux/inet_diag.h` for SOCK_DESTROY (Linux 4.5).
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import socket
import struct
from collections.abc import Callable, Collection, Iterator
from typing import Final

import msgspec

from qmesh.errors import MachineRefused
from qmesh.host.network.netlink import build_kernel_error, translate_errors
from qmesh.host.network.netlink_messages import HEADER, parse_messages
from qmesh.host.network.routes import list_own_addresses
from qmesh.host.network.sockets import render_address
from qmesh.mesh.guard import can_reach_workers
from qmesh.mesh.state import Guard

log = logging.getLogger("qmesh")

_SOCK_DIAG: Final = 4  # NETLINK_SOCK_DIAG
_BY_FAMILY, _DESTROY = 20, 21  # SOCK_DIAG_BY_FAMILY, SOCK_DESTROY
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_ERROR, _DONE = 2, 3
_ASKED: Final = struct.Struct("=BBxxI48s")  # inet_diag_req_v2: family, protocol, states, sockid
_FOUND: Final = struct.Struct("=BBxx48s")  # inet_diag_msg: family, state, sockid
_ENDS: Final = struct.Struct("!HH16s16s")  # of a sockid: ports and addresses of both ends
_CODE: Final = struct.Struct("=i")
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
    """Cut what is open to this machine's workers for others than the guard lets in.

    A connection that began here, at a worker's number while no worker listens there, is left alone.
    A kernel that can't tell or can't cut is no reason to fail: nothing passes the guard.
    """
    with _log_refusals():
        _close_disallowed(guard)


def _close_disallowed(guard: Guard) -> None:
    found = list(_list_flows())
    listened = {flow.port for flow in found if flow.state == _LISTENING}.intersection(guard.ports)
    own = list_own_addresses() if guard.role == "control" else frozenset()

    def is_disallowed(flow: Flow) -> bool:
        return flow.port in listened and not can_reach_workers(guard, flow.remote, own)

    _close_matching(found, is_disallowed)


def close_connections_from(addresses: Collection[str]) -> None:
    """Cut what is open to or from these addresses, as far as the kernel can."""
    if addresses:
        with _log_refusals():
            _close_matching(_list_flows(), lambda flow: flow.remote in addresses)


@contextlib.contextmanager
def _log_refusals() -> Iterator[None]:
    try:
        yield
    except MachineRefused as error:
        log.warning("older connections could not be cut, so they end only by a timeout: %s", error)


def _close_matching(found: Collection[Flow] | Iterator[Flow], is_meant: Callable[[Flow], bool]) -> None:
    for flow in found:
        if flow.state not in _NOT_TO_CUT and is_meant(flow) and _destroy_socket(flow):
            log.info("cut the connection of %s port %d to port %d", flow.remote, flow.remote_port, flow.port)


def _list_flows() -> Iterator[Flow]:
    for family in (socket.AF_INET, socket.AF_INET6):
        request = _ASKED.pack(family, socket.IPPROTO_TCP, _EVERY, bytes(48))
        for kind, message in _send_request(_BY_FAMILY, _DUMP, request, "read the connections"):
            with translate_errors("read the connections"):
                if kind == _ERROR:
                    raise build_kernel_error(_parse_errno(message), "read the connections")
                found = _parse_flow(message)
            yield found


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
        ((_, message),) = _send_request(_DESTROY, _ACK, request, "cut a connection")
        code = _parse_errno(message)
    if code not in {0, errno.ENOENT}:
        raise build_kernel_error(code, "cut a connection")
    return code == 0


def _parse_errno(message: bytes) -> int:
    """The errno of an answer; 0 for none."""
    return -int(_CODE.unpack_from(message, HEADER.size)[0])


def _send_request(kind: int, flags: int, request: bytes, doing: str) -> Iterator[tuple[int, bytes]]:
    with translate_errors(doing), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as asking:
        asking.settimeout(_ANSWER_S)
        asking.send(HEADER.pack(HEADER.size + len(request), kind, _REQUEST | flags, 1, 0) + request)
        while True:
            for answered, _, message in parse_messages(asking.recv(1 << 16)):
                if answered == _DONE:
                    return
                yield answered, message
                if answered == _ERROR:
                    return
