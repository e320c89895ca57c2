"""The TCP sockets of this machine, asked of the kernel by state. Source: sock_diag(7), linux/inet_diag.h.

/proc/net/tcp has them as well; but for that the kernel goes through a table that is as large as the machine's
memory wants it, where here it goes through none for sockets that listen.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterable
from typing import Final

import msgspec

from qmesh.host.network.netlink_messages import ACK, DUMP, HEADER, build_request, send_request

SOCK_DIAG: Final = 4
"""NETLINK_SOCK_DIAG."""
_BY_FAMILY, _DESTROY = 20, 21  # SOCK_DIAG_BY_FAMILY, SOCK_DESTROY
_ASKED: Final = struct.Struct("=BBxxI48s")  # inet_diag_req_v2: family, protocol, states, sockid
_FOUND: Final = struct.Struct("=BBxx48s12xII")  # inet_diag_msg: family, state, sockid; user, inode
_OUTLINE: Final = struct.Struct("!xBxxHH")  # of the same: state, ports
_ENDS: Final = struct.Struct("!HH16s16s")  # of a sockid: ports and addresses of both ends
_ANSWER_S: Final = 5.0


class TcpSocket(msgspec.Struct, frozen=True):
    """One socket. Addresses in their shortest form, IPv4 as such also on a socket of IPv6.

    state: as net/tcp_states.h numbers it. id: by which the kernel knows it. user: the number of who made it.
    inode: what a process's descriptor of it names.
    """

    family: int
    state: int
    local: str
    port: int
    remote: str
    remote_port: int
    id: bytes
    user: int
    inode: int


def request_tcp_sockets(states: Iterable[int]) -> list[bytes]:
    """The kernel's messages about sockets in these states, of both families. Raises OSError or ValueError."""
    flags = sum(1 << state for state in set(states))
    return [
        message
        for family in (socket.AF_INET, socket.AF_INET6)
        for message in _send_request(_BY_FAMILY, DUMP, family, flags)
    ]


def parse_outline(message: bytes) -> tuple[int, int, int]:
    """The state of a socket, its port, and that of its other end. Raises struct.error."""
    state, port, remote_port = _OUTLINE.unpack_from(message, HEADER.size)
    return state, port, remote_port


def parse_socket(message: bytes) -> TcpSocket:
    """A socket. Raises struct.error."""
    family, state, number, user, inode = _FOUND.unpack_from(message, HEADER.size)
    port, remote_port, local, remote = _ENDS.unpack_from(number)
    return TcpSocket(
        family,
        state,
        _decode_address(family, local),
        port,
        _decode_address(family, remote),
        remote_port,
        number,
        user,
        inode,
    )


def destroy_socket(found: TcpSocket) -> None:
    """End a connection (Linux 4.5). Raises OSError: FileNotFoundError where it is gone."""
    _send_request(_DESTROY, ACK, found.family, 1 << found.state, found.id)


def render_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """An address as text, one of IPv4 as such also where it is written as one of IPv6."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _decode_address(family: int, octets: bytes) -> str:
    return render_address(ipaddress.ip_address(octets if family == socket.AF_INET6 else octets[:4]))


def _send_request(kind: int, flags: int, family: int, states: int, id_: bytes = bytes(48)) -> list[bytes]:
    request = build_request(kind, flags, _ASKED.pack(family, socket.IPPROTO_TCP, states, id_))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, SOCK_DIAG) as netlink:
        return send_request(netlink, request, timeout_s=_ANSWER_S)[0]
