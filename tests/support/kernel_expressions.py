"""Expressions of nftables' rules as the kernel has them, made in few words; and what becomes of a packet."""

from __future__ import annotations

import struct
from typing import Any

from msgspec.structs import replace

from qmesh.mesh.foreign.expressions import Expression
from qmesh.mesh.foreign.kernel_rules import KernelRule
from qmesh.mesh.foreign.lookups import Lookups, SetHeader
from qmesh.mesh.foreign.packets import SOLICITATION, Packet, UnderlayRoute, list_required_packets
from qmesh.mesh.foreign.rules import Table
from qmesh.mesh.foreign.rulesets import ListedChain, Listing, build_tables
from qmesh.mesh.foreign.walk import find_drops
from tests.support import factories
from tests.support.foreign_cases import DATAGRAM, Fate, find_fate

ANSWER = replace(DATAGRAM, is_reply=True)
LATER = replace(DATAGRAM, is_later=True)
REQUEST = replace(DATAGRAM, protocol="tcp", traffic="tunnel in", kind="tun")
SENT = replace(REQUEST, traffic="tunnel out", iif="", oif="qmesh0", source="192.0.2.2", target="192.0.2.1")
OF_IP6 = replace(REQUEST, source="fd77::1", target="fd77::2")
ASKS, ANSWERS, IS_ASKED = (
    packet
    for packet in list_required_packets(
        factories.guard(),
        factories.tunnel(),
        (),
        (UnderlayRoute("eth0", "2001:db8::2", "2001:db8::1", 51820, "2001:db8::1"),),
    )
    if packet.protocol == "icmpv6" and (packet.iif or packet.icmp_type == SOLICITATION)
)
"""Neighbour discovery: what goes out, its answer, and what comes in."""
LOOPED = replace(DATAGRAM, traffic="loopback", iif="lo")


def attribute(kind: int, content: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(content), kind) + content + bytes(-len(content) % 4)


def number(value: int) -> bytes:
    return struct.pack("!I", value)


def data(content: bytes) -> bytes:
    return attribute(1, content)


def verdict(code: int, chain: str = "") -> Expression:
    found = attribute(1, struct.pack("!i", code)) + (attribute(2, chain.encode() + b"\0") if chain else b"")
    return Expression("immediate", {1: number(0), 2: attribute(2, found)})


DROP = verdict(0)


def meta(key: int, register: int = 1) -> Expression:
    return Expression("meta", {1: number(register), 2: number(key)})


def ct(key: int, direction: int | None = None) -> Expression:
    found = {1: number(1), 2: number(key)}
    return Expression("ct", found if direction is None else found | {3: bytes([direction])})


def payload(base: int, offset: int, length: int, register: int = 1) -> Expression:
    places = {2: base, 3: offset, 4: length}
    return Expression(
        "payload", {1: number(register)} | {kind: number(each) for kind, each in places.items()}
    )


def compares(value: bytes, operator: int = 0, register: int = 1) -> Expression:
    return Expression("cmp", {1: number(register), 2: number(operator), 3: data(value)})


def bitwise(mask: bytes, **more: int) -> Expression:
    found = {1: number(1), 2: number(1), 3: number(len(mask)), 4: data(mask), 5: data(bytes(len(mask)))}
    return Expression("bitwise", found | {6: number(more.get("operation", 0))})


def lookup(name: str, **more: int) -> Expression:
    found = {1: name.encode() + b"\0", 2: number(1)}
    kinds = {"target": 3, "flags": 5}
    return Expression("lookup", found | {kinds[word]: number(value) for word, value in more.items()})


def limit(rate: int, unit: int = 1, *, over: bool = False, in_bytes: bool = False) -> Expression:
    counts = {1: struct.pack("!Q", rate), 2: struct.pack("!Q", unit), 3: number(5)}
    return Expression("limit", counts | {4: number(in_bytes), 5: number(over)})


def xt(name: str, revision: int, content: bytes, kind: str = "match") -> Expression:
    return Expression(kind, {1: name.encode() + b"\0", 2: number(revision), 3: content})


def tables_of(
    *rules: list[Expression], sets: dict[str, SetHeader] | None = None, **named: Any
) -> tuple[Table, ...]:
    """A table with one base chain of these rules."""
    family, table = named.pop("family", "inet"), named.pop("table", "t")
    chain = {"hook": "input", "kind": "filter", **named}
    return build_tables(
        Listing(
            tables=((family, table),),
            chains=(
                ListedChain(family=family, table=table, name="c", **chain),
                ListedChain(family=family, table=table, name="other"),
                ListedChain(family=family, table="asleep", name="c"),
            ),
            rules=tuple(
                KernelRule(family, table, "c", place, tuple(expressions))
                for place, expressions in enumerate(rules)
            ),
            sets={(family, table, name): header for name, header in (sets or {}).items()},
            interfaces={"eth0": 2},
        )
    )


def fate(*rules: list[Expression], packet: Packet = DATAGRAM, answers: Any = None, **named: Any) -> Fate:
    lookups = Lookups(answers)
    return find_fate(find_drops(tables_of(*rules, **named), packet, lookups=lookups, interfaces={"eth0": 2}))


def immediate(register: int, content: bytes) -> Expression:
    return Expression("immediate", {1: number(register), 2: data(content)})


def nat_range(flags: int, first: bytes, last: bytes, *ports: int) -> bytes:
    """Of revision 1 and later. Source: linux/netfilter/nf_nat.h."""
    return struct.pack("=I16s16s", flags, first, last) + struct.pack("!HH", *ports)


CT3 = struct.Struct("=128sIIHHHHHHHHH")


def conntrack(flags: int, inverted: int = 0, **more: Any) -> bytes:
    addresses = more.get("addresses", b"").ljust(128, b"\0")
    return CT3.pack(
        addresses,
        0,
        0,
        more.get("protocol", 0),
        0,
        0,
        0,
        0,
        flags,
        inverted,
        more.get("states", 0),
        more.get("status", 0),
    )
