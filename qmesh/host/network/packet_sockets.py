"""Packets past the kernel's own IP, to addresses that it takes for none. Source: packet(7)."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Final, Self

from qmesh.mesh.links.address_conflicts import AddressConflict, build_arp_probe, read_conflict

_ETH_P_IP, _ETH_P_IPV6, _ETH_P_ARP = 0x0800, 0x86DD, 0x0806
_ETHERNET: Final = 1  # ARPHRD_ETHER
_EVERYBODY: Final = b"\xff" * 6
_LARGEST: Final = 2048
_MOST_AT_ONCE: Final = 1000


def send_packet(interface: str, packet: bytes) -> None:
    """Send an IP packet out by that interface, whatever routes and rules say. Raises OSError."""
    protocol = _ETH_P_IPV6 if packet[0] >> 4 == 6 else _ETH_P_IP
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as sending:
        sending.sendto(packet, (interface, protocol))


def find_address_conflict(interface: str, address: str, *, wait_s: float) -> AddressConflict | None:
    """Another machine that answers for an IPv4 address of this one in that time. Raises OSError."""
    until = time.monotonic() + wait_s
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as asking:
        asking.bind((interface, _ETH_P_ARP))
        _, _, _, kind, own = asking.getsockname()
        if kind != _ETHERNET:
            return None
        asking.sendto(build_arp_probe(own, address), (interface, _ETH_P_ARP, 0, kind, _EVERYBODY))
        while (left_s := until - time.monotonic()) > 0:
            asking.settimeout(left_s)
            with contextlib.suppress(TimeoutError):
                found = read_conflict(asking.recv(_LARGEST), own, address)
                if found is not None:
                    return found
    return None


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
