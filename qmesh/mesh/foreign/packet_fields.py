"""What the kernel's rules load of a packet: from its headers, and from what the kernel knows of it."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Mapping
from typing import Final, Literal

from qmesh.mesh.foreign.packets import OPENING, PROTOCOL_NUMBERS, Packet
from qmesh.mesh.foreign.registers import Bits, join_bits, make_unknown
from qmesh.mesh.foreign.values import Value

ORDER: Final[Literal["little", "big"]] = "little" if struct.pack("=H", 1)[0] else "big"
"""Of what is no header: a rule comes to the machine that it is for."""
LEAST_MSS: Final = 0x0400
"""Of the tunnel's connections the MSS is 1220 to 1380: these are its highest bits."""
_ADDRESS_TYPES: Final = {"unicast": 1, "local": 2, "multicast": 5}
_DISCOVERY_HOPS: Final = 255
"""Of neighbour discovery: it was passed on by no router."""
_INTERFACE_TYPES: Final = {"ether": 1, "none": 0xFFFE, "loopback": 772}
_ANY_CHECKSUM: Final = b"\xa5\x3c"
"""Stands for whichever it is: rules may take it for a port."""
PACKET_TYPES: Final = {"host": 0, "multicast": 2}
"""Source: linux/if_packet.h."""
STATES: Final = {"invalid": 1, "established": 2, "related": 4, "new": 8, "untracked": 64}
"""Source: linux/netfilter/nf_conntrack_common.h."""
DIRECTIONS: Final = {"original": 0, "reply": 1}
SEEN_REPLY, ASSURED, CONFIRMED, TRANSLATED = 2, 4, 8, 32
"""IPS_*."""
_HALF_UNKNOWN: Final = struct.Struct("=I").pack((1 << 32) - 1 - ASSURED - 0x180)
"""Of a connection's status: whether it lasts and what was set up for it, nobody can tell before."""


def encode_native(value: int, length: int) -> Bits:
    """A number as the kernel has it in a register."""
    return Bits(value.to_bytes(length, ORDER))


def encode_name(name: str) -> Bits:
    """An interface's name: 16 bytes."""
    return Bits(name.encode("utf-8", "surrogateescape")[:16].ljust(16, b"\0"))


_WORDS: Final[Mapping[str, tuple[Mapping[str, int], int]]] = {
    "meta nfproto": ({"ipv4": 2, "ipv6": 10, "netdev": 5}, 1),
    "meta l4proto": (PROTOCOL_NUMBERS, 1),
    "meta pkttype": (PACKET_TYPES, 1),
    "ct state": (STATES, 4),
    "ct direction": (DIRECTIONS, 1),
    "ct protocol": (PROTOCOL_NUMBERS, 1),
    "ct l3proto": ({"ip": 2, "ip6": 10}, 1),
    "fib type daddr": (_ADDRESS_TYPES, 4),
    "fib type saddr": (_ADDRESS_TYPES, 4),
    "fib type daddr . iif": (_ADDRESS_TYPES, 4),
}
"""Fields that are words: the kernel's numbers for them, and their length in bytes."""


def encode_field(field: str, value: Value, interfaces: Mapping[str, int]) -> Bits:
    """A field of `Packet.fields` as a rule loads it. interfaces: numbers by name.

    Raises KeyError or ValueError for what has no such form.
    """
    if field in _WORDS:
        numbers, length = _WORDS[field]
        return encode_native(numbers[str(value)], length)
    match field:
        case "meta iif" | "meta oif":
            return encode_native(interfaces[str(value)] if value else 0, 4)
        case "meta iifname" | "meta oifname" | "meta iifkind" | "meta oifkind":
            return encode_name(str(value))
        case "meta iiftype" | "meta oiftype":
            assert isinstance(value, tuple)
            return encode_native(_INTERFACE_TYPES[value[-1]], 2)
        case "meta protocol":
            return Bits(b"\x08\x00" if value == "ip" else b"\x86\xdd")
        case "meta secpath":
            return encode_native(0, 1)
        case "ct status":
            status = 0 if value == () else TRANSLATED if value == ("dnat",) else SEEN_REPLY | CONFIRMED
            return Bits(encode_native(status, 4).value, _HALF_UNKNOWN)
    return encode_native(int(str(value)), 4)


def build_headers(packet: Packet) -> tuple[Bits, Bits]:
    """The network's and the transport's header of a packet, as far as it is known before there is one."""
    source, target = (ipaddress.ip_address(each).packed for each in (packet.source, packet.target))
    protocol = bytes([PROTOCOL_NUMBERS[packet.protocol]])
    if packet.family == "ip":
        network = join_bits(
            Bits(b"\x45"), make_unknown(5),
            Bits(b"\0\0", b"\xbf\xff"),  # it is whole; whether it may be taken apart is not known
            make_unknown(1), Bits(protocol), make_unknown(2), Bits(source), Bits(target),
        )  # fmt: skip
    else:
        network = join_bits(
            Bits(b"\x60", b"\xf0"),
            make_unknown(5),
            Bits(protocol),
            make_unknown(1) if packet.has_connection else Bits(bytes([_DISCOVERY_HOPS])),
            Bits(source),
            Bits(target),
        )
    if packet.protocol in {"icmp", "icmpv6"}:
        kind = bytes([packet.icmp_type, packet.icmp_code])
        return network, join_bits(Bits(kind + _ANY_CHECKSUM), make_unknown(20))
    ports = Bits(struct.pack("!HH", packet.source_port, packet.target_port))
    if packet.protocol == "udp":
        return network, join_bits(ports, make_unknown(4))
    flags = Bits(bytes([packet.tcp_flags]))
    numbers = join_bits(make_unknown(4), Bits(bytes(4)) if packet.tcp_flags == OPENING else make_unknown(4))
    length = Bits(b"\0", b"\x0e")  # its reserved bits are 0
    return network, join_bits(ports, numbers, length, flags, make_unknown(4), Bits(b"\0\0"))
