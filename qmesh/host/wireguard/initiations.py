"""Datagrams that begin a handshake with this machine's WireGuard, heard beside it. Source: raw(7)."""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
from collections.abc import Iterator
from typing import Final, Self

from qmesh.mesh.endpoints import INITIATION
from qmesh.mesh.links.handshakes import INITIATION_TYPE

_ATTACH_FILTER: Final = 26  # SO_ATTACH_FILTER
_SHORT, _BYTE, _ABSOLUTE, _BEHIND_HEADER, _HEADER_LENGTH = 0x08, 0x10, 0x20, 0x40, 0xB1  # linux/bpf_common.h
_RETURN, _IF_EQUAL = 0x06, 0x15
_UDP_HEADER: Final = 8
_MOST_AT_ONCE: Final = 32
"""Each takes two exchanges of keys to read, a tenth of a millisecond."""
_LARGEST: Final = 512


class InitiationReceiver:
    """Hears what was let in for that UDP port, of both IP versions, from when it is made. To be closed.

    Raises OSError where none can be heard.
    """

    def __init__(self, port: int) -> None:
        self._sockets: list[tuple[socket.socket, bool]] = []
        try:
            self._open(socket.AF_INET, port)
            with contextlib.suppress(OSError):  # a kernel without IPv6
                self._open(socket.AF_INET6, port)
        except BaseException:
            self.close()
            raise

    def _open(self, family: socket.AddressFamily, port: int) -> None:
        is_ipv6 = family == socket.AF_INET6
        hearing = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_UDP)
        self._sockets.append((hearing, is_ipv6))
        code = _build_filter(port, is_ipv6=is_ipv6)
        held = ctypes.create_string_buffer(code, len(code))
        hearing.setsockopt(
            socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("@HP", len(code) // 8, ctypes.addressof(held))
        )

    def close(self) -> None:
        """Hear nothing more."""
        for hearing, _ in self._sockets:
            hearing.close()
        self._sockets.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def receive_messages(self) -> Iterator[bytes]:
        """WireGuard's messages that came since, some at most; it waits for nothing."""
        for hearing, is_ipv6 in self._sockets:
            for _ in range(_MOST_AT_ONCE):
                try:
                    datagram = hearing.recv(_LARGEST)
                except OSError:
                    break
                header = 0 if is_ipv6 else 4 * (datagram[0] & 15)
                yield datagram[header + _UDP_HEADER :]


def _build_filter(port: int, *, is_ipv6: bool) -> bytes:
    """A classic BPF program that takes nothing else: of IPv4 it sees IP's header too, of IPv6 UDP's alone."""
    asked = ((_SHORT, 2, port), (_SHORT, 4, INITIATION + _UDP_HEADER), (_BYTE, _UDP_HEADER, INITIATION_TYPE))
    steps = [] if is_ipv6 else [(_HEADER_LENGTH, 0, 0)]
    for load, offset, wanted in asked:
        steps += [(load | (_ABSOLUTE if is_ipv6 else _BEHIND_HEADER), 0, offset), (_IF_EQUAL, 1, wanted)]
    steps += [(_RETURN, 0, _LARGEST), (_RETURN, 0, 0)]
    last = len(steps) - 1
    return b"".join(
        struct.pack("=HBBI", code, 0, (last - at - 1) * is_question, value)
        for at, (code, is_question, value) in enumerate(steps)
    )
