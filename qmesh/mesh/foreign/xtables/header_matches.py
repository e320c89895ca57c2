"""Matches that ask for a packet's headers: addresses, ports, flags, types, hops."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

from qmesh.mesh.foreign.packet_fields import LEAST_MSS
from qmesh.mesh.foreign.packets import Protocol
from qmesh.mesh.foreign.registers import compare_equal, compare_order
from qmesh.mesh.foreign.rules import Evaluation
from qmesh.mesh.foreign.values import Truth, all_of, negate
from qmesh.mesh.foreign.xtables.match_types import NO, Match, MatchBuilder

_TYPES: Final = {"unicast": 2, "local": 4, "multicast": 32}
_ROUTED_TYPES: Final = 4 | 16 | 128 | 256
"""Of IPv6 those that the kernel asks its routes for: local, anycast, unreachable, prohibited."""
_ANY_TYPE: Final = 0xFF
"""Of ICMP, not of ICMPv6. Source: linux/netfilter/ip_tables.h."""


def _build_address_type(_: int, content: bytes) -> Match:
    source, target, flags = struct.unpack_from("=HHI", content)

    def match(at: Evaluation) -> Truth:
        truths = []
        for wanted, field, is_inverted in (
            (source, "fib type saddr", flags & 1), (target, "fib type daddr", flags & 2),
        ):  # fmt: skip
            if wanted:
                is_meant = _has_address_type(str(at.fields[field]), wanted, at.packet.family)
                truths.append(negate(is_meant, is_inverted))
        return all_of(truths)

    return match


def _has_address_type(found: str, wanted: int, family: str) -> bool:
    """Of IPv6 every kind that is wanted must fit, and an own address is unicast too."""
    if family == "ip":
        return bool(_TYPES[found] & wanted)
    kinds = _TYPES[found] | (_TYPES["unicast"] if found == "local" else 0)
    return (
        not wanted & _TYPES["unicast"] & ~kinds
        and not wanted & _TYPES["multicast"] & ~kinds
        and (not wanted & _ROUTED_TYPES or bool(wanted & kinds & _ROUTED_TYPES))
    )


def _build_multiport(_: int, content: bytes) -> Match:
    kind, count = content[:2]
    ports = struct.unpack_from("=15H", content, 2)
    begins, is_inverted = content[32:47], content[47]
    spans = [
        (port, ports[at + 1] if begins[at] else port)
        for at, port in enumerate(ports[:count])
        if at == 0 or not begins[at - 1]
    ]

    def match(at: Evaluation) -> Truth:
        asked = {0: (at.packet.source_port,), 1: (at.packet.target_port,)}
        both = (at.packet.source_port, at.packet.target_port)
        return negate(_is_one_in(asked.get(kind, both), spans), is_inverted)

    return match


def _is_one_in(ports: tuple[int, ...], spans: list[tuple[int, int]]) -> bool:
    return any(first <= port <= last for port in ports for first, last in spans)


def _build_tcp(_: int, content: bytes) -> Match:
    *ports, option, mask, wanted, inverted = struct.unpack_from("=4H4B", content)

    def match(at: Evaluation) -> Truth:
        if at.packet.protocol != "tcp":
            return False
        flags = negate(at.packet.tcp_flags & mask == wanted, inverted & 4)
        return all_of([*_match_ports(at, ports, inverted), flags, *([None] if option else [])])

    return match


def _build_udp(_: int, content: bytes) -> Match:
    *ports, inverted = struct.unpack_from("=4HB", content)
    return lambda at: at.packet.protocol == "udp" and all_of(_match_ports(at, ports, inverted))


def _match_ports(at: Evaluation, ports: list[int], inverted: int) -> list[Truth]:
    first, last, first_target, last_target = ports
    return [
        negate(first <= at.packet.source_port <= last, inverted & 1),
        negate(first_target <= at.packet.target_port <= last_target, inverted & 2),
    ]


def _build_range(_: int, content: bytes) -> Match:
    first, last, first_target, last_target = (content[start : start + 16] for start in range(0, 64, 16))
    flags = content[64]

    def match(at: Evaluation) -> Truth:
        source, target = at.packet.packed_source, at.packet.packed_target
        return all_of(
            [
                not flags & 1 or negate(_is_between(source, first, last), flags & 0x10),
                not flags & 2 or negate(_is_between(target, first_target, last_target), flags & 0x20),
            ]
        )

    return match


def _is_between(address: bytes, first: bytes, last: bytes) -> bool:
    return first[: len(address)] <= address <= last[: len(address)]


def _build_icmp(protocol: Protocol) -> MatchBuilder:
    def build(_: int, content: bytes) -> Match:
        kind, first_code, last_code, inverted = content[:4]
        is_any = protocol == "icmp" and kind == _ANY_TYPE

        def match(at: Evaluation) -> Truth:
            packet = at.packet
            is_meant = is_any or (packet.icmp_type == kind and first_code <= packet.icmp_code <= last_code)
            return packet.protocol == protocol and negate(is_meant, inverted & 1)

        return match

    return build


def _build_hops(_: int, content: bytes) -> Match:
    """A header's TTL or hop limit. Source: linux/netfilter_ipv6/ip6t_hl.h: is, is not, less, greater."""
    mode, wanted = content[:2]

    def match(at: Evaluation) -> Truth:
        is_ipv6 = at.packet.family == "ip6"
        found = at.headers[0].take(7 if is_ipv6 else 8, 1)
        less, greater = compare_order(found, bytes([wanted]))
        is_same = compare_equal(found, bytes([wanted]))
        return (is_same, negate(is_same), less, greater)[mode]

    return match


def _build_segment_size(_: int, content: bytes) -> Match:
    first, last, is_inverted = struct.unpack_from("=HHB", content)

    def match(at: Evaluation) -> Truth:
        if at.packet.protocol != "tcp" or not at.packet.opens:
            return negate(NO, is_inverted) if at.packet.protocol == "tcp" else False
        most = 2 * LEAST_MSS - 1
        truth: Truth = True if first <= LEAST_MSS and last >= most else None
        truth = False if last < LEAST_MSS or first > most else truth
        return negate(truth, is_inverted)

    return match


HEADER_MATCHES: Final[Mapping[tuple[str, int], MatchBuilder]] = {
    ("addrtype", 1): _build_address_type, ("multiport", 1): _build_multiport, ("tcp", 0): _build_tcp,
    ("udp", 0): _build_udp, ("iprange", 1): _build_range, ("tcpmss", 0): _build_segment_size,
    ("icmp6", 0): _build_icmp("icmpv6"), ("icmp", 0): _build_icmp("icmp"), ("hl", 0): _build_hops,
    ("ttl", 0): _build_hops,
}  # fmt: skip
