"""Another machine of the same network with an address of this one, as its copy has. Source: RFC 826, 5227."""

from __future__ import annotations

import ipaddress
import struct
from typing import Final

import msgspec

_ARP: Final = struct.Struct("!HHBBH6s4s6s4s")
_OF_IPV4: Final = (1, 0x0800, 6, 4)
"""Ethernet and IPv4, with the lengths of their addresses."""
_REQUEST: Final = 1


class AddressConflict(msgspec.Struct, frozen=True):
    """An address of this machine, and the link-layer address of the other one that has it too."""

    address: str
    other: str


def build_arp_probe(own: bytes, address: str) -> bytes:
    """The question who has an address. It has no sender's, so that nobody notes anything. own: six octets."""
    wanted = ipaddress.IPv4Address(address).packed
    return _ARP.pack(*_OF_IPV4, _REQUEST, own, bytes(4), bytes(6), wanted)


def read_conflict(packet: bytes, own: bytes, address: str) -> AddressConflict | None:
    """What an ARP packet says of that; None where it says nothing of it. own: as of `build_arp_probe`."""
    if len(packet) < _ARP.size:
        return None
    *kinds, _, sender, has, _, _ = _ARP.unpack_from(packet)
    if tuple(kinds) != _OF_IPV4 or has != ipaddress.IPv4Address(address).packed or sender == own:
        return None
    return AddressConflict(address, sender.hex(":"))
