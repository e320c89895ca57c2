"""Frames of Ethernet around the packets, and answers to who asks for a neighbour.

Source: RFC 826, 4861; for addresses of groups RFC 1112 and 2464.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from qmesh.mesh.drill.shots import compute_checksum

IPV4, IPV6, ARP = 0x0800, 0x86DD, 0x0806
NEIGHBOUR: Final = bytes.fromhex("02716d647201")
"""The address of whatever is beside the copy of the machine."""
_HEAD: Final = 14
_ARP: Final = struct.Struct("!HHBBH6s4s6s4s")
_REQUEST, _REPLY = 1, 2
_SOLICITATION, _ADVERTISEMENT = 135, 136
_ICMPV6: Final = 58


def render_frame(packet: bytes, link: bytes) -> bytes:
    """A frame to the interface with that address, or to whom the packet is for where that is a group."""
    if packet[0] >> 4 == 4:
        return _find_group(IPv4Address(packet[16:20]), link) + NEIGHBOUR + struct.pack("!H", IPV4) + packet
    target = packet[24:40]
    group = b"\x33\x33" + target[12:] if target[0] == 0xFF else link
    return group + NEIGHBOUR + struct.pack("!H", IPV6) + packet


def _find_group(target: IPv4Address, link: bytes) -> bytes:
    if target.is_multicast:
        return b"\x01\x00\x5e" + (int(target) & 0x7FFFFF).to_bytes(3, "big")
    return b"\xff" * 6 if int(target) == 0xFFFFFFFF else link


def read_frame(frame: bytes) -> bytes:
    """The IP packet in a frame; empty where it has none."""
    if len(frame) < _HEAD or struct.unpack_from("!H", frame, 12)[0] not in {IPV4, IPV6}:
        return b""
    return frame[_HEAD:]


def answer_question(frame: bytes) -> bytes | None:
    """The frame that says: that address is here; None where nobody is asked for."""
    kind = struct.unpack_from("!H", frame, 12)[0] if len(frame) >= _HEAD else 0
    if kind == ARP and len(frame) >= _HEAD + _ARP.size:
        link: bytes
        *_, operation, link, asking, _, asked = _ARP.unpack_from(frame, _HEAD)
        if operation != _REQUEST or asking == asked:  # the second announces itself
            return None
        return (
            link
            + NEIGHBOUR
            + struct.pack("!H", ARP)
            + _ARP.pack(1, IPV4, 6, 4, _REPLY, NEIGHBOUR, asked, link, asking)
        )
    packet = frame[_HEAD:]
    if kind == IPV6 and len(packet) >= 64 and packet[6] == _ICMPV6 and packet[40] == _SOLICITATION:
        asking, asked = packet[8:24], packet[48:64]
        if not IPv6Address(asking).is_unspecified:
            return frame[6:12] + NEIGHBOUR + struct.pack("!H", IPV6) + _render_advertisement(asked, asking)
    return None


def _render_advertisement(asked: bytes, asking: bytes) -> bytes:
    content = struct.pack("!BBHI", _ADVERTISEMENT, 0, 0, 0x60000000) + asked + b"\x02\x01" + NEIGHBOUR
    pseudo = asked + asking + struct.pack("!II", len(content), _ICMPV6)
    check = struct.pack("!H", compute_checksum(pseudo + content))
    content = content[:2] + check + content[4:]
    return struct.pack("!IHBB", 6 << 28, len(content), _ICMPV6, 255) + asked + asking + content
