"""iptables' matches and targets about one field: what becomes of a packet, as the kernel decides it."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from qmesh.mesh.foreign.expressions import Expression
from tests.support.foreign_cases import Fate
from tests.support.kernel_expressions import DROP, compares, ct, meta, xt
from tests.support.prover_chain import fate
from tests.support.prover_recordings import DATAGRAM

DATAGRAM_IPV6 = DATAGRAM._replace(family="ip6", source="2001:db8:1::7", target="2001:db8::2")


def mark(value: int, mask: int = 0xFFFFFFFF, inverted: int = 0) -> bytes:
    return struct.pack("=IIB", value, mask, inverted)


def set_mark(value: int, mask: int = 0xFFFFFFFF) -> list[Expression]:
    return [xt("MARK", 2, struct.pack("=II", value, mask), "target")]


def connmark(mode: int, value: int = 0, mask: int = 0xFFFFFFFF, shift: int = 0) -> list[Expression]:
    content = struct.pack("=IIIBBB", value, mask, 0xFFFFFFFF, 0, shift, mode)
    return [xt("CONNMARK", 2, content, "target")]


def addresses(flags: int, *ends: bytes) -> bytes:
    return b"".join(end.ljust(16, b"\0") for end in ends).ljust(64, b"\0") + bytes([flags])


LOW, HIGH, OWN = bytes([192, 0, 2, 0]), bytes([192, 0, 2, 9]), bytes([192, 0, 2, 2])


@pytest.mark.parametrize(
    ("expected", "rules"),
    [
        ("drops", [[xt("mark", 1, mark(0)), DROP]]),
        ("passes", [[xt("mark", 1, mark(0, inverted=1)), DROP]]),
        ("drops", [set_mark(0x15), [xt("mark", 1, mark(0x5, 0xF)), DROP]]),
        ("passes", [set_mark(0x15), [xt("mark", 1, mark(0x5)), DROP]]),
        ("drops", [set_mark(0xFF), set_mark(0x1, 0xF), [xt("mark", 1, mark(0xF1)), DROP]]),
        ("drops", [set_mark(5), [meta(3), compares(struct.pack("=I", 5)), DROP]]),
        ("passes", [[xt("connmark", 1, mark(5)), DROP]]),
        ("drops", [connmark(0, 5), [xt("connmark", 1, mark(5)), DROP]]),
        ("drops", [set_mark(5), connmark(1), [xt("connmark", 1, mark(5)), DROP]]),
        ("drops", [connmark(0, 5), connmark(2), [xt("mark", 1, mark(5)), DROP]]),
        ("unclear", [connmark(0, 5, shift=3), [xt("connmark", 1, mark(5)), DROP]]),
        ("drops", [[xt("ttl", 0, b"\0\x40"), DROP]]),
        ("passes", [[xt("ttl", 0, b"\1\x40"), DROP]]),
        ("drops", [[xt("ttl", 0, b"\2\x41"), DROP]]),
        ("drops", [[xt("ttl", 0, b"\3\x3f"), DROP]]),
        ("passes", [[xt("ttl", 0, b"\3\x40"), DROP]]),
        ("drops", [[xt("pkttype", 0, struct.pack("=ii", 0, 0)), DROP]]),
        ("passes", [[xt("pkttype", 0, struct.pack("=ii", 0, 1)), DROP]]),
        ("passes", [[xt("pkttype", 0, struct.pack("=ii", 2, 0)), DROP]]),
        ("drops", [[xt("iprange", 1, addresses(1, LOW, HIGH)), DROP]]),
        ("passes", [[xt("iprange", 1, addresses(17, LOW, HIGH)), DROP]]),
        ("drops", [[xt("iprange", 1, addresses(2, LOW, LOW, OWN, HIGH)), DROP]]),
        ("passes", [[xt("iprange", 1, addresses(3, HIGH, HIGH, OWN, HIGH)), DROP]]),
        ("passes", [[xt("iprange", 1, addresses(1, HIGH, LOW)), DROP]]),
        ("passes", [[xt("icmp", 0, b"\x08\x00\xff\x00"), DROP]]),
        ("drops", [[xt("icmp", 0, b"\x08\x00\xff\x01"), DROP]]),
        ("drops", [[xt("icmp", 0, b"\xff\x00\xff\x00"), DROP]]),
        ("drops", [[xt("icmp", 0, b"\xca\x00\xff\x00"), DROP]]),
        ("passes", [[xt("icmp", 0, b"\xca\x01\x00\x00"), DROP]]),
    ],
)
def test_one_field_is_asked_or_changed(expected: Fate, rules: list[list[Expression]]):
    assert fate(*rules) == expected  # of port 51820, whose first octet is 0xca and the second 0x6c


@pytest.mark.parametrize(
    ("expected", "rule"),
    [
        ("drops", [xt("hl", 0, b"\0\x40"), DROP]),
        ("passes", [xt("icmp6", 0, b"\xff\x00\xff\x00"), DROP]),
        (
            "drops",
            [xt("iprange", 1, addresses(1, bytes.fromhex("20010db800010000"), b"\x20\x01\x0d\xb9")), DROP],
        ),
    ],
)
def test_of_ipv6_too(expected: Fate, rule: list[Expression]):
    assert fate(rule, packet=DATAGRAM_IPV6) == expected


def test_what_a_connection_has_is_not_known_before_conntrack():
    early: dict[str, Any] = {"hook": "prerouting", "priority": -300}
    assert fate([xt("connmark", 1, mark(0)), DROP], **early) == "unclear"
    assert fate(connmark(2), [xt("mark", 1, mark(5)), DROP], **early) == "unclear"


def test_no_connection_begins_behind_a_rule_that_says_so():
    untracked = [ct(0), compares(struct.pack("=I", 64)), DROP]
    early: dict[str, Any] = {"hook": "prerouting", "priority": -300}
    none = [xt("CT", 2, struct.pack("=HH", 1, 0) + bytes(40), "target")]
    other = [xt("CT", 2, struct.pack("=HH", 0, 7) + bytes(40), "target")]
    assert fate(none, untracked, **early) == "drops"
    assert fate(untracked, **early) == "passes"
    assert fate(other, untracked, **early) == "unclear"
