"""Which user of this machine a connection comes from.

Source: sock_diag(7), `linux/inet_diag.h`.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
from typing import Final

from qmesh.host.network.netlink_messages import HEADER, build_request, parse_answers

_SOCK_DIAG: Final = 4  # NETLINK_SOCK_DIAG
_BY_FAMILY: Final = 20  # SOCK_DIAG_BY_FAMILY
_ASKED: Final = struct.Struct("=BBxxI2s2s16s16sIQ")
"""inet_diag_req_v2: family, protocol, states; of the socket its ports, addresses, interface and cookie."""
_FOUND: Final = struct.Struct("=xBxx48s12xII")
"""inet_diag_msg: state; user and inode, which is 0 where no program has the socket any more."""
_LISTENING: Final = 10
_EVERY: Final = (1 << 12) - 1
_NO_COOKIE: Final = (1 << 64) - 1
_MOST_OCTETS: Final = 1 << 12


class CallerOwners:
    """Asks the kernel for one socket, which takes some 50 microseconds; to be closed."""

    def __init__(self) -> None:
        self._netlink: socket.socket | None = None
        with contextlib.suppress(OSError):  # a kernel that has no such question
            self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG)
            self._netlink.settimeout(0)  # it has answered when it has taken the question

    def close(self) -> None:
        """Ask no more."""
        if self._netlink is not None:
            self._netlink.close()

    def find_owner(self, connection: socket.socket) -> str:
        """Who has the other end: a user of this machine, or another machine by its address.

        Empty for one of this machine's that has let go of it already.
        """
        try:
            address, port = connection.getpeername()[:2]
        except OSError:
            return ""
        user = None
        with contextlib.suppress(OSError, ValueError, struct.error):
            user = self._ask(connection, address, port)
        if user is not None:
            return f"user {user}"
        return "" if ipaddress.ip_address(address).is_loopback else address

    def _ask(self, connection: socket.socket, address: str, port: int) -> int | None:
        if self._netlink is None:
            return None
        own, own_port = connection.getsockname()[:2]
        family = connection.family
        ports = (port.to_bytes(2, "big"), own_port.to_bytes(2, "big"))
        ends = (socket.inet_pton(family, address), socket.inet_pton(family, own))
        question = _ASKED.pack(family, socket.IPPROTO_TCP, _EVERY, *ports, *ends, 0, _NO_COOKIE)
        self._netlink.sendto(build_request(_BY_FAMILY, 0, question), (0, 0))
        return parse_owner(self._netlink.recv(_MOST_OCTETS))


def parse_owner(answer: bytes) -> int | None:
    """The user who has the socket that the kernel was asked for; None where nobody has.

    Raises ValueError or struct.error where it is no such answer.
    """
    ((message, code, _),) = parse_answers(answer)
    if code is not None:
        return None
    state, _, user, inode = _FOUND.unpack_from(message, HEADER.size)
    return user if inode and state != _LISTENING else None
