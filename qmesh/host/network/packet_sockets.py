"""Packets past the kernel's own IP, to addresses that it takes for none. Source: packet(7)."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Final, Self

_ETH_P_IP, _ETH_P_IPV6 = 0x0800, 0x86DD
_LARGEST: Final = 2048
_MOST_AT_ONCE: Final = 1000


def send_packet(interface: str, packet: bytes) -> None:
    """Send an IP packet out by that interface, whatever routes and rules say. Raises OSError."""
    protocol = _ETH_P_IPV6 if packet[0] >> 4 == 6 else _ETH_P_IP
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as sending:
        sending.sendto(packet, (interface, protocol))


class PacketReceiver:
    """Hears what comes in by an interface, of one IP version. To be closed. Raises OSError."""

    def __init__(self, interface: str, *, is_ipv6: bool) -> None:
        protocol = _ETH_P_IPV6 if is_ipv6 else _ETH_P_IP
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        try:
            self._socket.bind((interface, protocol))
            self._socket.setblocking(False)  # noqa: FBT003 - a method of the library
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        """Hear nothing more."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def receive_packets(self) -> Iterator[bytes]:
        """What has come in since; it waits for nothing. Raises OSError, as where the interface is gone."""
        for _ in range(_MOST_AT_ONCE):
            with contextlib.suppress(BlockingIOError):
                yield self._socket.recv(_LARGEST)
                continue
            return
