"""iptables' matches, targets and old tables: what they do to the mesh's packets."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from msgspec.structs import replace

from qmesh.mesh.foreign.lookups import Element, Lookups, Question
from qmesh.mesh.foreign.packet_fields import LEAST_MSS
from qmesh.mesh.foreign.packets import Packet
from qmesh.mesh.foreign.rules import Evaluation, Table
from qmesh.mesh.foreign.walk import find_drops
from qmesh.mesh.foreign.xtables.legacy_tables import LegacyBlock, parse_legacy_table
from qmesh.mesh.foreign.xtables.matches import build_match
from qmesh.mesh.foreign.xtables.targets import build_target
from tests.support.foreign_cases import DATAGRAM, Fate, find_fate
from tests.support.kernel_expressions import (
    ANSWER,
    DROP,
    LATER,
    REQUEST,
    SENT,
    compares,
    conntrack,
    fate,
    meta,
    nat_range,
    tables_of,
    verdict,
    xt,
)


def network(address: bytes, mask: bytes) -> bytes:
    return address.ljust(16, b"\0") + mask.ljust(16, b"\0")


SOURCE = network(bytes([192, 0, 2, 0]), bytes([255, 255, 255, 0]))
FROM_SOURCE, TO_TARGET = (
    network(each, b"\xff" * 4) for each in (DATAGRAM.packed_source, DATAGRAM.packed_target)
)
UDP = struct.Struct("=4HB")
TCP = struct.Struct("=4H4B")
ANY = (0, 65535)


@pytest.mark.parametrize(
    ("expected", "packet", "name", "revision", "content"),
    [
        ("drops", DATAGRAM, "conntrack", 3, conntrack(1, states=8)),
        ("passes", DATAGRAM, "conntrack", 3, conntrack(1, 1, states=8)),
        ("drops", DATAGRAM, "conntrack", 3, conntrack(2, protocol=17)),
        ("drops", ANSWER, "conntrack", 3, conntrack(0x1000, 0x1000)),
        ("drops", ANSWER, "conntrack", 3, conntrack(64, status=2)),
        ("unclear", ANSWER, "conntrack", 3, conntrack(64, status=4)),
        ("passes", DATAGRAM, "conntrack", 3, conntrack(64, status=6)),
        ("drops", DATAGRAM, "conntrack", 3, conntrack(4, addresses=SOURCE)),
        ("passes", DATAGRAM, "conntrack", 3, conntrack(4, 4, addresses=SOURCE)),
        ("drops", DATAGRAM, "conntrack", 3, conntrack(16, addresses=bytes(64) + TO_TARGET)),
        ("drops", DATAGRAM, "conntrack", 3, conntrack(32, addresses=bytes(96) + FROM_SOURCE)),
        ("passes", DATAGRAM, "conntrack", 3, conntrack(16, addresses=bytes(64) + FROM_SOURCE)),
        ("passes", DATAGRAM, "conntrack", 3, conntrack(32, addresses=bytes(96) + TO_TARGET)),
        ("drops", DATAGRAM, "conntrack", 3, conntrack(8, addresses=bytes(32) + TO_TARGET)),
        ("unclear", DATAGRAM, "conntrack", 3, conntrack(128)),
        ("drops", DATAGRAM, "conntrack", 1, conntrack(1)[:146] + struct.pack("=HHBB", 1, 0, 8, 0)),
        ("unclear", DATAGRAM, "conntrack", 9, b""),
        ("drops", DATAGRAM, "state", 0, struct.pack("=I", 8)),
        ("drops", DATAGRAM, "addrtype", 1, struct.pack("=HHI", 2, 4, 0)),
        ("passes", DATAGRAM, "addrtype", 1, struct.pack("=HHI", 0, 4, 2)),
        ("passes", DATAGRAM, "addrtype", 1, struct.pack("=HHI", 4, 0, 0)),
        (
            "drops",
            DATAGRAM,
            "multiport",
            1,
            struct.pack("=BB15H15sB", 1, 2, *(51000, 52000, *13 * [0]), b"\1", 0),
        ),
        ("passes", DATAGRAM, "multiport", 1, struct.pack("=BB15H15sB", 2, 2, *(51820, 1, *13 * [0]), b"", 1)),
        ("passes", DATAGRAM, "multiport", 1, struct.pack("=BB15H15sB", 0, 1, *(22, *14 * [0]), b"", 0)),
        ("drops", DATAGRAM, "mark", 1, struct.pack("=IIB", 0, 255, 0)),
        ("drops", replace(SENT, mark=0x8001), "mark", 1, struct.pack("=IIB", 0x8000, 0x8000, 0)),
        ("passes", replace(SENT, mark=0x8001), "mark", 1, struct.pack("=IIB", 0x8000, 0xFFFF, 0)),
        ("passes", DATAGRAM, "connmark", 1, struct.pack("=IIB", 1, 255, 0)),
        ("drops", REQUEST, "tcp", 0, TCP.pack(*ANY, 51820, 51820, 0, 0x17, 0x02, 0)),
        ("passes", REQUEST, "tcp", 0, TCP.pack(*ANY, *ANY, 0, 0x17, 0x02, 4)),
        ("unclear", REQUEST, "tcp", 0, TCP.pack(*ANY, *ANY, 7, 0, 0, 0)),
        ("passes", DATAGRAM, "tcp", 0, TCP.pack(*ANY, *ANY, 0, 0, 0, 0)),
        ("passes", DATAGRAM, "udp", 0, UDP.pack(1, 2, *ANY, 0)),
        ("drops", DATAGRAM, "udp", 0, UDP.pack(1, 2, *ANY, 1)),
        ("passes", REQUEST, "udp", 0, UDP.pack(*ANY, *ANY, 0)),
        ("drops", DATAGRAM, "comment", 0, b"x"),
        ("passes", DATAGRAM, "icmp", 0, bytes(4)),
        ("drops", DATAGRAM, "limit", 0, struct.pack("=I", 10_000)),
        ("unclear", DATAGRAM, "limit", 0, struct.pack("=I", 200_000)),
        ("passes", DATAGRAM, "hashlimit", 1, struct.pack("=16xII", 0x10, 100)),
        ("unclear", DATAGRAM, "hashlimit", 1, struct.pack("=16xII", 0x10, 100_000)),
        ("passes", DATAGRAM, "hashlimit", 3, struct.pack("=256xQ8xI", 1000, 0x10)),
        ("passes", DATAGRAM, "hashlimit", 3, struct.pack("=256xQ8xI", 1_000_000, 0x10)),
        ("unclear", LATER, "hashlimit", 3, struct.pack("=256xQ8xI", 1000, 0x30)),
        ("passes", DATAGRAM, "connlimit", 1, struct.pack("=16xII", 256, 0)),
        ("drops", DATAGRAM, "connlimit", 1, struct.pack("=16xII", 256, 1)),
        ("unclear", DATAGRAM, "connlimit", 1, struct.pack("=16xII", 20, 0)),
        ("drops", DATAGRAM, "recent", 0, struct.pack("=IIBB200sB", 0, 0, 2, 0, b"x", 0)),
        ("unclear", DATAGRAM, "recent", 0, struct.pack("=IIBB200sB", 30, 6, 4, 0, b"x", 0)),
        ("passes", DATAGRAM, "recent", 0, struct.pack("=IIBB200sB", 1, 6, 4, 0, b"x", 0)),
        ("unclear", DATAGRAM, "recent", 0, struct.pack("=IIBB200sB", 1, 0, 1, 0, b"x", 0)),
        ("unclear", DATAGRAM, "set", 4, struct.pack("=HBB", 1, 1, 2)),
        ("drops", replace(SENT, as_root=True), "owner", 1, struct.pack("=4IBB", 0, 0, 0, 0, 3, 0)),
        ("passes", replace(SENT, as_root=True), "owner", 1, struct.pack("=4IBB", 1, 9, 0, 0, 1, 0)),
        ("unclear", SENT, "owner", 1, struct.pack("=4IBB", 1, 9, 0, 0, 5, 0)),
        ("unclear", REQUEST, "owner", 1, struct.pack("=4IBB", 1, 9, 0, 0, 1, 0)),
        ("drops", DATAGRAM, "pkttype", 0, struct.pack("=ii", 0, 0)),
        ("passes", DATAGRAM, "pkttype", 0, struct.pack("=ii", 1, 0)),
        (
            "drops",
            DATAGRAM,
            "iprange",
            1,
            struct.pack("=4s12x4s12x32xB", bytes([192, 0, 2, 0]), bytes([192, 0, 2, 9]), 1),
        ),
        (
            "passes",
            DATAGRAM,
            "iprange",
            1,
            struct.pack("=32x4s12x4s12xB", bytes([192, 0, 2, 0]), bytes([192, 0, 2, 9]), 0x22),
        ),
        ("passes", DATAGRAM, "rpfilter", 0, b"\x08"),
        ("drops", DATAGRAM, "rpfilter", 0, b"\0"),
        ("passes", DATAGRAM, "policy", 0, bytes(32) + struct.pack("=HH", 1, 0)),
        ("drops", DATAGRAM, "policy", 0, bytes(32) + struct.pack("=HH", 5, 0)),
        ("passes", DATAGRAM, "physdev", 0, bytes(66)),
        ("unclear", DATAGRAM, "physdev", 0, bytes(64) + b"\1\1"),
        ("passes", DATAGRAM, "tcpmss", 0, struct.pack("=HHB", 1, 500, 1)),
        ("passes", REQUEST, "tcpmss", 0, struct.pack("=HHB", 1, 500, 0)),
        ("passes", REQUEST, "tcpmss", 0, struct.pack("=HHB", 536, 65535, 1)),
        ("unclear", REQUEST, "tcpmss", 0, struct.pack("=HHB", 536, 1300, 1)),
        ("passes", REQUEST, "tcpmss", 0, struct.pack("=HHB", 2 * LEAST_MSS, 65535, 0)),
        ("unclear", REQUEST, "tcpmss", 0, struct.pack("=HHB", 2 * LEAST_MSS - 1, 65535, 0)),
        ("drops", replace(REQUEST, is_later=True), "tcpmss", 0, struct.pack("=HHB", 536, 65535, 1)),
    ],
)
def test_a_match_of_iptables(
    expected: Fate, packet: Packet, name: str, revision: int, content: bytes
) -> None:
    hook = "input" if packet.iif else "output"
    assert fate([xt(name, revision, content), DROP], packet=packet, hook=hook) == expected


def test_matches_of_connections_where_there_is_none_or_it_is_not_known() -> None:
    early: dict[str, Any] = {"hook": "prerouting", "priority": -300}
    assert fate([xt("conntrack", 3, conntrack(1, states=1)), DROP], **early) == "drops"
    assert fate([xt("conntrack", 3, conntrack(64, status=1)), DROP], **early) == "passes"
    at = Evaluation(DATAGRAM, Lookups(), {})
    at.fields = {}
    for name, revision, content in (
        ("conntrack", 3, conntrack(1, states=8)), ("conntrack", 3, conntrack(64, status=8)),
        ("conntrack", 3, conntrack(0x1000)), ("mark", 1, struct.pack("=IIB", 0, 1, 0)),
    ):  # fmt: skip
        assert build_match(name, revision, content)(at) is None


def test_sets_of_ipset_and_lists_of_addresses_are_asked() -> None:
    lookups = Lookups()
    content = struct.pack("=IIBB200sB", 1, 0, 1, 0, b"x", 1)
    rules = [[xt("recent", 0, content), DROP], [xt("set", 4, struct.pack("=HBB", 7, 2, 2)), DROP]]
    assert find_fate(find_drops(tables_of(*rules), DATAGRAM, lookups=lookups)) == "unclear"
    key = struct.pack("!BBHHB", 2, 2, 51820, 51820, 17) + DATAGRAM.packed_source + DATAGRAM.packed_target
    recent, ipset = Question("recent", "", "x", DATAGRAM.packed_target), Question("ipset", "eth0", "7", key)
    assert lookups.open == {recent, ipset}
    build_match("set", 4, struct.pack("=HBB", 8, 3, 0x0A))(Evaluation(DATAGRAM, lookups, {}))
    assert Question("ipset", "eth0", "8", b"\x03\x0a" + key[2:]) in lookups.open
    for answers, expected in (
        ({recent: None, ipset: None}, "passes"), ({recent: Element(), ipset: None}, "drops"),
        ({recent: None, ipset: Element()}, "drops"),
    ):  # fmt: skip
        assert fate(*rules, answers=answers) == expected


@pytest.mark.parametrize(
    ("expected", "name", "revision", "content"),
    [
        ("passes", "ACCEPT", 0, b""),
        ("drops", "REJECT", 0, b""),
        ("passes", "MASQUERADE", 0, b""),
        ("unclear", "SNAT", 1, b""),
        ("unclear", "DNAT", 1, b""),
        ("drops", "LOG", 0, b""),
        ("drops", "CT", 2, b"\0\0"),
    ],
)
def test_a_target_of_iptables(expected: Fate, name: str, revision: int, content: bytes) -> None:
    rules = [[xt(name, revision, content, "target")], [DROP]]
    if name == "ACCEPT":
        rules = [[verdict(1)], [DROP]]
    assert fate(*rules, packet=REQUEST) == expected


@pytest.mark.parametrize(
    ("expected", "revision", "content"),
    [
        ("drops", 0, struct.pack("=H", 7)),
        ("drops", 1, struct.pack("=HH", 7, 2)),
        ("drops", 2, struct.pack("=HHH", 7, 2, 0)),
        ("passes", 2, struct.pack("=HHH", 7, 2, 1)),
        ("passes", 3, struct.pack("=HHH", 7, 2, 3)),
        ("unclear", 3, struct.pack("=HHH", 7, 3, 0)),
        ("unclear", 3, b""),
    ],
)
def test_packets_for_a_program_of_iptables(expected: Fate, revision: int, content: bytes) -> None:
    """Of the queues 7 and 8 none has a program."""
    nobody = {Question("queue", "", number, b""): None for number in ("7", "8")}
    assert fate([xt("NFQUEUE", revision, content, "target")], answers=nobody) == expected


OTHERS = nat_range(1, bytes([192, 0, 2, 9]), bytes([192, 0, 2, 9]), 0, 0)


@pytest.mark.parametrize(
    ("expected", "packet", "content"),
    [
        ("passes", DATAGRAM, OTHERS),
        ("drops", SENT, OTHERS),
        ("unclear", REQUEST, OTHERS),
        ("passes", SENT, nat_range(0, bytes(4), bytes(4), 1, 9)),
        ("passes", SENT, nat_range(1, SENT.packed_source, SENT.packed_source, 0, 0)),
        ("unclear", SENT, nat_range(1, bytes(4), bytes([255] * 4), 0, 0)),
        ("unclear", SENT, b""),
    ],
)
def test_a_source_that_is_translated_by_iptables(expected: Fate, packet: Packet, content: bytes) -> None:
    """WireGuard's own packets may have any; the other end of the tunnel drops all but one."""
    rule = [xt("SNAT", 1, content, "target")]
    where = {"hook": "input" if packet.iif else "postrouting", "kind": "nat"}
    assert fate(rule, packet=packet, **where) == expected
    perhaps = fate([meta(20), compares(bytes(4)), *rule], packet=packet, **where)
    assert perhaps == ("passes" if expected == "passes" else "unclear")
    if content:
        older = struct.pack("=I", 1) + content[:8] + content[20:24] + content[36:]
        assert fate([xt("SNAT", 0, older, "target")], packet=packet, **where) == expected


def test_marks_of_iptables() -> None:
    marked = [xt("mark", 1, struct.pack("=IIB", 1, 1, 0)), DROP]
    sets = [xt("MARK", 2, struct.pack("=II", 1, 1), "target")]
    perhaps = [meta(20), compares(bytes(4)), *sets]
    assert fate(sets, marked) == "drops"
    turned = [xt("MARK", 2, struct.pack("=II", 1, 0), "target")]  # --xor-mark 1
    assert [fate(turned, marked), fate(sets, turned, marked)] == ["drops", "passes"]
    assert fate(perhaps, marked) == "unclear"
    assert fate(perhaps, sets, marked) == "unclear"
    for mode, expected in ((2, "passes"), (0, "passes"), (1, "passes")):
        changes = [xt("CONNMARK", 1, struct.pack("=IIIB", 1, 1, 0, mode), "target")]
        assert fate(changes, marked) == expected
    restores = [xt("CONNMARK", 1, struct.pack("=IIIB", 1, 1, 0, 2), "target")]
    assert fate(sets, restores, marked) == "unclear"
    assert (
        fate(
            [xt("CONNMARK", 1, bytes(13), "target")], [xt("connmark", 1, struct.pack("=IIB", 1, 1, 0)), DROP]
        )
        == "unclear"
    )


def test_targets_that_untrack() -> None:
    for name, content in (("CT", b"\1\0"), ("NOTRACK", b"")):
        rule = [xt(name, 2, content, "target")]
        tables = tables_of(
            rule, [xt("conntrack", 3, conntrack(1, states=256)), DROP], hook="prerouting", priority=-300
        )
        assert find_fate(find_drops(tables, DATAGRAM)) == "drops"
    assert build_target("TARPIT", 0, b"")(Evaluation(DATAGRAM, Lookups(), {}), is_certain=True) == "unclear"


def legacy_entry(target: str, content: bytes, **more: Any) -> bytes:
    """An entry of IPv4. matches: name and content."""
    head = bytearray(112)
    for place, value in more.get("head", {}).items():
        head[place : place + len(value)] = value
    matches = b"".join(
        struct.pack("=H29sB", 32 + len(each), name.encode(), 0) + each
        for name, each in more.get("matches", ())
    )
    end = struct.pack("=H29sB", 32 + len(content), target.encode(), 0) + content
    struct.pack_into("=HH", head, 88, 112 + len(matches), 112 + len(matches) + len(end))
    return bytes(head) + matches + end


def standard(code: int) -> bytes:
    return struct.pack("=i4x", code)


ACCEPT, DROPPED, BACK = standard(-2), standard(-1), standard(-5)
JUMP_SIZE = 112 + 40


def legacy(
    *rules: bytes, policy: bytes = ACCEPT, user: tuple[bytes, ...] = (), name: str = "filter"
) -> Table:
    """A table with the chain INPUT, and a chain `mine`."""
    base = b"".join(rules)
    end = legacy_entry("", policy)
    head = legacy_entry("ERROR", b"mine".ljust(32, b"\0"))
    block = (
        base
        + end
        + head
        + b"".join(user)
        + legacy_entry("", BACK)
        + legacy_entry("ERROR", b"ERROR".ljust(32, b"\0"))
    )
    info = struct.pack("=32sI5I5III", name.encode(), 2, 0, 0, 0, 0, 0, 0, len(base), 0, 0, 0, 9, len(block))
    return parse_legacy_table(LegacyBlock("ip", info, block))


def test_a_table_of_iptables_legacy() -> None:
    assert find_fate(find_drops([legacy()], DATAGRAM)) == "passes"
    (drop,) = find_drops([legacy(policy=DROPPED)], DATAGRAM)
    assert (drop.chain, drop.rule) == ("INPUT", None)
    assert legacy(name="nat").chains["INPUT"].priority == 100
    assert legacy(name="nat").chains["INPUT"].kind == "nat"
    assert find_fate(find_drops([legacy(legacy_entry("", ACCEPT), policy=DROPPED)], DATAGRAM)) == "passes"


def place_of_mine(rules: int) -> int:
    return (rules + 1) * JUMP_SIZE + 112 + 64


@pytest.mark.parametrize(
    ("expected", "flags", "user"),
    [
        ("drops", 0, legacy_entry("", DROPPED)), ("passes", 0, legacy_entry("", ACCEPT)),
        ("drops", 0, legacy_entry("", BACK)), ("passes", 2, legacy_entry("", BACK)),
    ],
)  # fmt: skip
def test_a_jump_of_iptables_legacy(expected: Fate, flags: int, user: bytes) -> None:
    jump = legacy_entry("", standard(place_of_mine(2)), head={82: bytes([flags])})
    last = legacy_entry("", DROPPED)
    assert find_fate(find_drops([legacy(jump, last, user=(user,))], DATAGRAM)) == expected


@pytest.mark.parametrize(
    ("expected", "head"),
    [
        ("drops", {80: struct.pack("=H", 17)}),
        ("passes", {80: struct.pack("=H", 6)}),
        ("passes", {80: struct.pack("=H", 17), 83: b"\x40"}),
        ("drops", {0: bytes([192, 0, 2, 1]), 8: b"\xff" * 4}),
        ("passes", {4: bytes([192, 0, 2, 1]), 12: b"\xff" * 4}),
        ("passes", {83: b"\x08"}),
        ("passes", {83: b"\x10"}),
        ("drops", {16: b"eth", 48: b"\xff" * 3}),
        ("passes", {16: b"eth1\0", 48: b"\xff" * 5}),
        ("passes", {32: b"eth0\0", 64: b"\xff" * 5}),
        ("passes", {82: b"\1"}),
        ("drops", {82: b"\1", 83: b"\x20"}),
    ],
)
def test_what_a_rule_of_iptables_legacy_asks_of_the_header(expected: Fate, head: dict[int, bytes]) -> None:
    rule = legacy_entry("", DROPPED, head=head)
    assert find_fate(find_drops([legacy(rule)], DATAGRAM)) == expected


def test_matches_and_targets_of_iptables_legacy() -> None:
    udp = ("udp", UDP.pack(*ANY, 51820, 51820, 0).ljust(16, b"\0"))
    slow = ("limit", struct.pack("=I", 36_000_000))
    unknown = ("string", b"")
    for matches, expected in (
        ([udp], "drops"),
        ([("tcp", TCP.pack(*ANY, *ANY, 0, 0, 0, 0)), udp], "passes"),
        ([unknown], "unclear"),
        ([slow, unknown], "unclear"),
    ):
        assert (
            find_fate(find_drops([legacy(legacy_entry("", DROPPED, matches=matches))], DATAGRAM)) == expected
        )
    (drop,) = find_drops([legacy(legacy_entry("", ACCEPT, matches=[slow]), policy=DROPPED)], DATAGRAM)
    assert (drop.is_limit, drop.rule) == (True, None)
    assert find_fate(find_drops([legacy(legacy_entry("REJECT", bytes(8)))], DATAGRAM)) == "drops"
    assert (
        find_fate(find_drops([legacy(legacy_entry("", standard(JUMP_SIZE)), policy=DROPPED)], DATAGRAM))
        == "drops"
    )
    assert find_fate(find_drops([legacy(legacy_entry("", standard(-77)))], DATAGRAM)) == "unclear"
    odd = [legacy_entry("", standard(7)), legacy_entry("", DROPPED, matches=[("conntrack", b"")])]
    for rule in odd:
        assert find_fate(find_drops([legacy(rule)], DATAGRAM)) in {"unclear", "drops"}


def test_a_rule_of_iptables_legacy_is_shown_in_its_words() -> None:
    head = {80: struct.pack("=H", 17), 16: b"eth0\0", 32: b"eth1\0"}
    one = ("udp", UDP.pack(*ANY, 53, 53, 0))
    span, every = ("udp", UDP.pack(*ANY, 53, 54, 0)), ("tcp", TCP.pack(*ANY, *ANY, 0, 0, 0, 0))
    rule = legacy_entry("", DROPPED, head=head, matches=[one, span, every, ("comment", b"")])
    table = legacy(rule, legacy_entry("LOG", b""), legacy_entry("", standard(7)))
    texts = [each.text for each in table.chains["INPUT"].rules]
    assert texts == [
        "-p 17 -i eth0 -o eth1 -m udp --dport 53 -m udp --dport 53:54 -m tcp -m comment -j DROP",
        "-j LOG",
        "-j ?",
    ]


@pytest.mark.parametrize("block", [struct.pack("=88xHH20x", 0, 0), legacy_entry("x", b"")[:112] + bytes(40)])
def test_a_block_that_is_no_table_is_refused(block: bytes) -> None:
    info = struct.pack("=32sI5I5III", b"filter", 2, *12 * [0])
    with pytest.raises((ValueError, LookupError, struct.error)):
        parse_legacy_table(LegacyBlock("ip", info, block))
