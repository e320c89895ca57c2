"""What other programs' rules do to the mesh's packets, by what the kernel says of them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from qmesh.mesh.foreign.expressions import Expression
from qmesh.mesh.foreign.kernel_rules import BuiltRule, KernelRule
from qmesh.mesh.foreign.lookups import MOST_QUESTIONS, Answers, Element, Lookups, Question, SetHeader
from qmesh.mesh.foreign.packet_fields import ORDER, encode_field
from qmesh.mesh.foreign.packets import Packet, UnderlayRoute, list_path_errors
from qmesh.mesh.foreign.registers import (
    Bits,
    RegisterFile,
    compare_equal,
    compare_order,
    join_bits,
    make_unknown,
    mask_bits,
)
from qmesh.mesh.foreign.rule_text import render_rule
from qmesh.mesh.foreign.rules import UNREAD, Chain, Table
from qmesh.mesh.foreign.rulesets import ListedChain, Listing, build_tables
from qmesh.mesh.foreign.walk import TOO_MANY, Budget, find_drops, walk_rulesets
from tests.support.foreign_cases import CASES, DATAGRAM, RECORDED, Fate, find_fate, read_recordings, replay
from tests.support.foreign_rules import PlainRule
from tests.support.kernel_expressions import (
    ANSWER,
    ANSWERS,
    ASKS,
    DROP,
    IS_ASKED,
    LATER,
    LOOPED,
    OF_IP6,
    REQUEST,
    SENT,
    attribute,
    bitwise,
    compares,
    conntrack,
    ct,
    data,
    fate,
    immediate,
    limit,
    lookup,
    meta,
    nat_range,
    number,
    payload,
    tables_of,
    verdict,
    xt,
)

FOLDER = Path(__file__).with_name("foreign_listings")
RECORDINGS = read_recordings(FOLDER / "kernel.json")
TOO_LARGE, TOO_LARGE6 = list_path_errors(
    (
        UnderlayRoute("eth0", "192.0.2.2", "192.0.2.1", 51820),
        UnderlayRoute("eth0", "2001:db8::2", "2001:db8::1", 51820),
    ),
    {"ip": "192.0.2.9", "ip6": "2001:db8::9"},
)


@pytest.mark.parametrize("name", CASES)
def test_a_datagram_under_a_ruleset(name: str) -> None:
    expected, _ = CASES[name]
    listing, answers = replay(RECORDINGS[name])
    drops = find_drops(
        build_tables(listing), DATAGRAM, lookups=Lookups(answers), interfaces=listing.interfaces
    )
    assert find_fate(drops) == expected


def test_every_recording_is_of_a_case_or_a_ruleset() -> None:
    assert set(RECORDINGS) == set(CASES)
    assert set(read_recordings(FOLDER / "kernel-rule-sets.json")) == set(RECORDED)


PORT = payload(2, 2, 2)
NATIVE_1 = (1).to_bytes(4, ORDER)


@pytest.mark.parametrize(
    ("expected", "packet", "rule"),
    [
        ("drops", DATAGRAM, [DROP]),
        ("passes", DATAGRAM, [verdict(-5), DROP]),
        ("passes", DATAGRAM, [verdict(-1)]),
        ("unclear", DATAGRAM, [verdict(7)]),
        ("unclear", DATAGRAM, [verdict(-3, "nowhere")]),
        ("passes", DATAGRAM, [verdict(-3, "other")]),
        ("unclear", DATAGRAM, [Expression("queue", {2: number(1)})]),
        ("unclear", DATAGRAM, [Expression("unheard-of", {}), DROP]),
        ("drops", DATAGRAM, [Expression("counter", {}), Expression("log", {}), DROP]),
        ("unclear", DATAGRAM, [Expression("cmp", {1: number(1)}), DROP]),
        ("unclear", DATAGRAM, [Expression("cmp", {1: number(1), 3: b"\1\0\1\0"}), DROP]),
        ("unclear", DATAGRAM, [Expression("match", {1: b"conntrack\0", 2: number(3), 3: b""}), DROP]),
        ("passes", DATAGRAM, [PORT, compares(b"\0\1"), Expression("cmp", {}), DROP]),
        ("unclear", DATAGRAM, [compares(b"\0\1"), DROP]),
        ("unclear", DATAGRAM, [payload(0, 0, 6), compares(bytes(6)), DROP]),
        ("drops", DATAGRAM, [payload(0, 12, 2), compares(b"\x08\0"), DROP]),
        ("unclear", DATAGRAM, [payload(2, 8, 4), compares(bytes(4)), DROP]),
        ("drops", DATAGRAM, [Expression("payload", {5: number(1)}), DROP]),
        ("drops", OF_IP6, [payload(1, 6, 1), compares(b"\6"), DROP]),
        ("drops", OF_IP6, [meta(1), compares(b"\x86\xdd"), meta(15), compares(b"\x0a"), DROP]),
        ("unclear", DATAGRAM, [PORT, bitwise(b"\0\1", operation=1), compares(b"\0\0"), DROP]),
        ("passes", DATAGRAM, [PORT, bitwise(b"\0\1"), compares(b"\0\1"), DROP]),
        (
            "drops",
            DATAGRAM,
            [
                PORT,
                Expression("range", {1: number(1), 2: number(1), 3: data(b"\0\1"), 4: data(b"\0\2")}),
                DROP,
            ],
        ),
        (
            "passes",
            DATAGRAM,
            [
                PORT,
                Expression("range", {1: number(1), 2: number(0), 3: data(b"\0\1"), 4: data(b"\0\2")}),
                DROP,
            ],
        ),
        ("drops", DATAGRAM, [meta(4), compares((2).to_bytes(4, ORDER)), DROP]),
        ("drops", SENT, [meta(4), compares(bytes(4)), DROP]),
        ("drops", DATAGRAM, [meta(25), compares(b"\0"), DROP]),
        ("unclear", DATAGRAM, [meta(23), compares(bytes(4)), DROP]),
        ("unclear", DATAGRAM, [meta(26), compares(bytes(16)), DROP]),
        ("passes", LOOPED, [meta(26), compares(bytes(16)), DROP]),
        ("drops", REQUEST, [meta(26), compares(b"tun".ljust(16, b"\0")), DROP]),
        ("drops", replace(SENT, as_root=True), [meta(10), compares(bytes(4)), DROP]),
        ("drops", DATAGRAM, [ct(7), compares(b"\2"), ct(10), compares(b"\x11"), DROP]),
        ("drops", ANSWER, [ct(2), bitwise((2).to_bytes(4, ORDER)), compares(bytes(4), 1), DROP]),
        ("unclear", ANSWER, [ct(2), bitwise((4).to_bytes(4, ORDER)), compares(bytes(4), 1), DROP]),
        ("drops", ANSWER, [ct(19, 1), compares(bytes([192, 0, 2, 1])), DROP]),
        ("drops", ANSWER, [ct(12, 0), compares(struct.pack("!H", 51820)), DROP]),
        ("passes", DATAGRAM, [ct(21, 0), compares(bytes(16)), DROP]),
        ("unclear", DATAGRAM, [ct(14, 0), compares(bytes(8)), DROP]),
        (
            "unclear",
            DATAGRAM,
            [Expression("fib", {1: number(1), 2: number(1), 3: number(2)}), compares(bytes(4)), DROP],
        ),
        (
            "drops",
            DATAGRAM,
            [
                Expression("fib", {1: number(1), 2: number(1), 3: number(9)}),
                compares((2).to_bytes(4, ORDER)),
                DROP,
            ],
        ),
        (
            "drops",
            DATAGRAM,
            [
                Expression("fib", {1: number(1), 2: number(2), 3: number(9)}),
                compares(b"eth0".ljust(16, b"\0")),
                DROP,
            ],
        ),
        (
            "drops",
            DATAGRAM,
            [Expression("fib", {1: number(1), 2: number(1), 3: number(41)}), compares(b"\1"), DROP],
        ),
        (
            "drops",
            LOOPED,
            [
                Expression("fib", {1: number(1), 2: number(3), 3: number(10)}),
                compares((2).to_bytes(4, ORDER), 1),
                DROP,
            ],
        ),
        ("unclear", DATAGRAM, [Expression("numgen", {1: number(1)}), compares(bytes(4)), DROP]),
        ("unclear", DATAGRAM, [Expression("socket", {}), DROP]),
        # their first attribute is what they ask
        *(
            (
                "unclear",
                DATAGRAM,
                [meta(1), Expression(name, {1: number(0), 2: number(1)}), compares(bytes(4)), DROP],
            )
            for name in ("hash", "socket", "tunnel")
        ),
        (
            "drops",
            DATAGRAM,
            [
                Expression("immediate", {1: number(1), 2: data(NATIVE_1)}),
                Expression("meta", {2: number(3), 3: number(1)}),
                meta(3),
                compares(NATIVE_1),
                DROP,
            ],
        ),
        (
            "unclear",
            DATAGRAM,
            [meta(20), Expression("meta", {2: number(3), 3: number(1)}), meta(3), compares(NATIVE_1), DROP],
        ),
        (
            "drops",
            DATAGRAM,
            [
                Expression("immediate", {1: number(1), 2: data(NATIVE_1)}),
                Expression("ct", {2: number(3), 4: number(1)}),
                ct(3),
                compares(NATIVE_1),
                DROP,
            ],
        ),
        ("passes", LATER, [ct(3), compares(NATIVE_1), DROP]),
        ("passes", DATAGRAM, [limit(1, over=True), DROP]),
        ("unclear", DATAGRAM, [limit(1, 60, over=True), DROP]),
        ("unclear", LATER, [limit(999, over=True), DROP]),
        ("passes", LATER, [limit(1000, over=True), DROP]),
        ("unclear", LATER, [limit(1000, over=True, in_bytes=True), DROP]),
        ("passes", DATAGRAM, [limit(1000, over=True, in_bytes=True), DROP]),
        ("drops", DATAGRAM, [limit(5), DROP]),
        ("passes", DATAGRAM, [Expression("connlimit", {1: number(256), 2: number(1)}), DROP]),
        ("unclear", DATAGRAM, [Expression("connlimit", {1: number(255), 2: number(0)}), DROP]),
        ("unclear", DATAGRAM, [Expression("quota", {}), DROP]),
        ("drops", DATAGRAM, [Expression("objref", {1: number(1)}), DROP]),
        ("unclear", DATAGRAM, [Expression("objref", {1: number(4)}), DROP]),
        ("unclear", DATAGRAM, [Expression("objref", {3: number(1)}), DROP]),
        ("drops", DATAGRAM, [Expression("dynset", {1: b"s\0", 7: attribute(1, b"counter\0")}), DROP]),
        ("unclear", DATAGRAM, [Expression("dynset", {1: b"s\0", 9: number(1)}), DROP]),
    ],
)
def test_what_a_rule_asks_of_a_packet(expected: Fate, packet: Packet, rule: list[Expression]) -> None:
    assert fate(rule, packet=packet, hook="input" if packet.iif else "output") == expected


MSS = {1: number(1), 2: b"\2", 3: number(2), 4: number(2), 6: number(1)}


@pytest.mark.parametrize(
    ("expected", "packet", "attributes", "value"),
    [
        ("passes", DATAGRAM, MSS, b"\1\xf4"),
        ("passes", REQUEST, MSS, b"\1\xf4"),
        ("unclear", REQUEST, MSS, b"\4\xd8"),
        ("passes", replace(REQUEST, is_later=True), MSS, b"\1\xf4"),
        ("drops", REQUEST, MSS | {5: number(1)}, b"\1"),
        ("unclear", REQUEST, MSS | {2: b"\3"}, b"\1\1"),
        ("passes", OF_IP6, MSS | {6: number(0)}, b"\1\1"),
        ("drops", OF_IP6, MSS | {5: number(1), 6: number(0)}, b"\0"),
        ("passes", DATAGRAM, MSS | {5: number(1), 6: number(2)}, b"\1"),
    ],
)
def test_options_of_tcp(expected: Fate, packet: Packet, attributes: dict[int, bytes], value: bytes) -> None:
    assert fate([Expression("exthdr", attributes), compares(value), DROP], packet=packet) == expected


def test_an_option_that_is_changed_is_none_that_is_asked() -> None:
    assert fate([Expression("exthdr", {7: number(1)}), DROP]) == "drops"


@pytest.mark.parametrize(
    ("expected", "packet", "attributes"),
    [
        ("passes", replace(DATAGRAM, traffic="wireguard out", iif="", oif="eth0"), {1: number(0)}),
        ("unclear", SENT, {1: number(0)}),
        ("drops", SENT, {1: number(0), 3: number(1)}),
        ("unclear", SENT, {1: number(0), 3: number(1), 4: number(2)}),
        ("unclear", REQUEST, {1: number(0), 3: number(1)}),
        ("unclear", DATAGRAM, {1: number(1)}),
        ("passes", ANSWER, {1: number(1)}),
    ],
)
def test_a_translation(expected: Fate, packet: Packet, attributes: dict[int, bytes]) -> None:
    rule = [
        Expression("immediate", {1: number(1), 2: data(bytes([192, 0, 2, 9]))}),
        Expression("nat", attributes),
    ]
    hook = "input" if packet.iif else "postrouting"
    assert fate(rule, [DROP], packet=packet, hook=hook, kind="nat") == expected
    own = [Expression("immediate", {1: number(1), 2: data(packet.packed_source)}), rule[1]]
    if attributes.get(3):
        assert fate(own, [DROP], packet=packet, hook=hook, kind="nat") == "passes"


def test_a_source_that_is_perhaps_translated() -> None:
    """The other end of the tunnel drops it: that is certain where the rule is."""
    rule = [
        immediate(1, bytes([192, 0, 2, 9])),
        Expression("nat", {1: number(0), 3: number(1)}),
    ]
    assert (
        fate([meta(20), compares(bytes(4)), *rule], packet=SENT, hook="postrouting", kind="nat") == "unclear"
    )


def queue_question(number: int) -> Question:
    return Question("queue", "", str(number), b"")


ALL_WAIT, NONE_WAITS = (
    {queue_question(7): Element(), queue_question(8): Element()},
    {queue_question(7): None, queue_question(8): None},
)
ONE_WAITS = ALL_WAIT | {queue_question(8): None}


@pytest.mark.parametrize(
    ("expected", "answers", "attributes"),
    [
        ("unclear", {}, {}),
        ("drops", NONE_WAITS, {}),
        ("passes", ALL_WAIT, {}),
        ("passes", NONE_WAITS, {3: number(1)}),  # bypass
        ("drops", NONE_WAITS, {3: number(2)}),  # fanout
        ("drops", NONE_WAITS, {2: number(2)}),
        ("passes", ALL_WAIT, {2: number(2)}),
        ("unclear", ONE_WAITS, {2: number(2)}),
        ("unclear", {queue_question(each): None for each in range(7, 71)}, {2: number(65)}),
        ("unclear", {queue_question(each): Element() for each in range(7, 71)}, {2: number(65)}),
        ("unclear", NONE_WAITS, {4: number(1)}),  # the number is looked up
    ],
)
def test_packets_for_a_program_are_dropped_where_none_waits(
    expected: Fate, answers: Answers, attributes: dict[int, bytes]
) -> None:
    rule = [Expression("queue", {1: number(7), 2: number(1), **attributes})]
    assert fate(rule, answers=answers) == expected
    perhaps = fate([meta(20), compares(bytes(4)), *rule], answers=answers)
    assert perhaps == ("passes" if expected == "passes" else "unclear")


CONTAINER = bytes([172, 17, 0, 2])
LOOPED_OUT = replace(REQUEST, traffic="loopback", iif="", oif="lo", kind="")


def sent_on(rule: list[Expression], packet: Packet = REQUEST, **named: Any) -> tuple[Fate, str]:
    """What becomes of a packet, and where it is sent on to, under a rule before an input that drops all."""
    hook = "prerouting" if packet.iif else "output"
    tables = (
        *tables_of(rule, hook=hook, kind="nat", table="nat", priority=-100, **named),
        *tables_of([DROP], hook="input", table="filter"),
    )
    drops, found = walk_rulesets(tables, packet)
    return find_fate(drops), "" if found is None else f"{found.address} {found.port}"


def dnat(**more: int) -> Expression:
    kinds = {"address": 3, "last": 4, "port": 5, "last_port": 6}
    return Expression("nat", {1: number(1), **{kinds[word]: number(value) for word, value in more.items()}})


def redirects(port: int, last: int, *, flags: int = 2) -> bytes:
    return number(1) + struct.pack("=I8x", flags) + struct.pack("!HH", port, last)


PORT_80 = immediate(9, struct.pack("!H", 80))
TO_CONTAINER = [immediate(1, CONTAINER), PORT_80, dnat(address=1, last=1, port=9, last_port=9)]


@pytest.mark.parametrize(
    ("expected", "packet", "rule"),
    [
        (("passes", "172.17.0.2 80"), REQUEST, TO_CONTAINER),
        (("passes", "172.17.0.2 51820"), REQUEST, [immediate(1, CONTAINER), dnat(address=1)]),
        (("passes", "192.0.2.2 80"), REQUEST, [PORT_80, dnat(port=9)]),
        (("passes", "172.17.0.2 80"), LOOPED_OUT, TO_CONTAINER),
        (("passes", "192.0.2.2 80"), REQUEST, [PORT_80, Expression("redir", {1: number(9)})]),
        (
            ("passes", "172.17.0.2 80"),
            REQUEST,
            [xt("DNAT", 2, nat_range(3, CONTAINER, CONTAINER, 80, 80), "target")],
        ),
        (
            ("passes", "172.17.0.2 51820"),
            REQUEST,
            [
                xt(
                    "DNAT",
                    0,
                    number(1) + struct.pack("=I", 1) + CONTAINER * 2 + struct.pack("!HH", 1, 9),
                    "target",
                )
            ],
        ),
        (("passes", "fd77::2 80"), OF_IP6, [xt("DNAT", 1, nat_range(2, b"", b"", 80, 80), "target")]),
        (("passes", "192.0.2.2 80"), REQUEST, [xt("REDIRECT", 0, redirects(80, 80), "target")]),
        (("passes", "192.0.2.2 51820"), REQUEST, [xt("REDIRECT", 0, redirects(0, 0, flags=0), "target")]),
        (("passes", "fd77::2 80"), OF_IP6, [xt("REDIRECT", 0, nat_range(2, b"", b"", 80, 80), "target")]),
        (("drops", ""), REQUEST, [xt("REDIRECT", 0, redirects(80, 90), "target")]),
        (("passes", "127.0.0.1 80"), LOOPED_OUT, [xt("REDIRECT", 0, redirects(80, 80), "target")]),
        (("passes", "127.0.0.1 80"), LOOPED_OUT, [PORT_80, Expression("redir", {1: number(9)})]),
        (
            ("passes", "::1 80"),
            replace(LOOPED_OUT, source="fd77::2", target="fd77::2"),
            [xt("REDIRECT", 0, nat_range(2, b"", b"", 80, 80), "target")],
        ),
        (("drops", ""), DATAGRAM, [xt("REDIRECT", 0, redirects(80, 80), "target")]),
        # Who answers one of several, or of an address that is not known, is not known.
        (("drops", ""), REQUEST, [immediate(1, CONTAINER), immediate(2, CONTAINER), dnat(address=1, last=2)]),
        (("drops", ""), REQUEST, [xt("DNAT", 2, nat_range(3, CONTAINER, CONTAINER, 80, 81), "target")]),
        (("drops", ""), REQUEST, [xt("DNAT", 2, nat_range(1, CONTAINER, b"", 80, 80), "target")]),
        (("drops", ""), REQUEST, [dnat(address=1)]),
        (("drops", ""), REQUEST, [meta(20), compares(bytes(4)), *TO_CONTAINER]),
        # WireGuard's own port is this machine's.
        (("drops", ""), DATAGRAM, TO_CONTAINER),
        (("drops", ""), DATAGRAM, [xt("DNAT", 2, nat_range(3, CONTAINER, CONTAINER, 80, 80), "target")]),
        (("drops", ""), LOOPED, TO_CONTAINER),
        (("drops", ""), REQUEST, [PORT, compares(b"\0\1"), *TO_CONTAINER]),
    ],
)
def test_where_a_connection_is_sent_on_to(
    expected: tuple[Fate, str], packet: Packet, rule: list[Expression]
) -> None:
    assert sent_on(rule, packet) == expected


@pytest.mark.parametrize(
    "rule", [[xt("REDIRECT", 0, redirects(80, 80), "target")], [PORT_80, Expression("redir", {1: number(9)})]]
)
def test_what_is_for_another_machine_does_not_get_there_where_it_is_sent_to_this_one(
    rule: list[Expression],
) -> None:
    """As by a proxy that takes all calls."""
    perhaps = [meta(20), compares(bytes(4)), verdict(1)]
    for sent in (SENT, replace(DATAGRAM, traffic="wireguard out", iif="", oif="eth0")):
        tables = tables_of(rule, hook="output", kind="nat", priority=-100)
        assert find_fate(walk_rulesets(tables, sent)[0]) == "drops"
        assert find_fate(walk_rulesets(tables, replace(sent, is_later=True))[0]) == "passes"
        doubtful = tables_of(perhaps, rule, hook="output", kind="nat", priority=-100)
        assert find_fate(walk_rulesets(doubtful, sent)[0]) == "unclear"


def test_a_rule_that_may_not_be_reached_sends_nothing_on_for_certain() -> None:
    perhaps = [meta(20), compares(bytes(4)), verdict(1)]
    for rule in (TO_CONTAINER, [xt("DNAT", 2, nat_range(3, CONTAINER, CONTAINER, 80, 80), "target")]):
        tables = tables_of(perhaps, rule, hook="prerouting", kind="nat")
        drops, found = walk_rulesets(tables, REQUEST)
        assert (find_fate(drops), found) == ("unclear", None)


def test_bytes_are_turned_as_the_kernel_does() -> None:
    turned = {1: number(1), 2: number(1), 3: number(0)}
    swap = Expression("byteorder", turned | {4: number(4), 5: number(2)})
    rule = [payload(2, 0, 4), swap, compares(struct.pack("<HH", 51820, 51820)), DROP]
    assert fate(rule) == "drops"
    less = Expression("byteorder", turned | {4: number(1), 5: number(2)})
    assert fate([meta(16), less, compares(b"\x11"), DROP]) == "drops"
    assert fate([payload(1, 1, 2), swap, compares(bytes(4)), DROP]) == "unclear"


HEADER = {"s": SetHeader(2), "limited": SetHeader(2, counts=True)}
ASKED = Question("inet", "t", "s", struct.pack("!H", 51820))


def test_a_set_is_asked_for_a_value_and_both_ways_are_followed_until_it_is_known() -> None:
    lookups = Lookups()
    rule = [PORT, lookup("s"), DROP]
    assert find_fate(find_drops(tables_of(rule, sets=HEADER), DATAGRAM, lookups=lookups)) == "unclear"
    assert lookups.open == {ASKED}
    for element, flags, expected in (
        (Element(), 0, "drops"), (None, 0, "passes"), (Element(), 1, "passes"), (None, 1, "drops"),
    ):  # fmt: skip
        rule = [PORT, lookup("s", flags=flags), DROP]
        assert fate(rule, answers={ASKED: element}, sets=HEADER) == expected
    assert fate([PORT, lookup("nowhere"), DROP], sets=HEADER) == "unclear"
    assert fate([payload(2, 4, 2), lookup("s"), DROP], sets=HEADER) == "unclear"
    limited = replace(ASKED, collection="limited")
    assert fate([PORT, lookup("limited"), DROP], answers={limited: Element()}, sets=HEADER) == "unclear"


def test_a_map_has_verdicts_or_values() -> None:
    rule = [PORT, lookup("s", target=0)]
    assert fate(rule, sets=HEADER) == "unclear"
    for element, expected in (
        (Element(verdict=0), "drops"), (Element(verdict=-3, chain="other"), "passes"), (None, "passes"),
    ):  # fmt: skip
        assert fate(rule, answers={ASKED: element}, sets=HEADER) == expected
    rule = [PORT, lookup("s", target=1), compares(b"\7"), DROP]
    assert fate(rule, answers={ASKED: Element(value=b"\7")}, sets=HEADER) == "drops"
    assert fate(rule, sets=HEADER) == "unclear"


def test_there_are_only_so_many_questions() -> None:
    lookups = Lookups(
        {replace(ASKED, key=bytes([n >> 16, n >> 8 & 255, n & 255])): None for n in range(MOST_QUESTIONS)}
    )
    assert lookups.find_element(ASKED) == (False, None)
    assert lookups.open == set()


def test_a_limit_of_a_set_that_remembers_is_one() -> None:
    counts = attribute(1, b"limit\0") + attribute(2, b"".join(
        attribute(kind, content) for kind, content in limit(1, 3600, over=True).attributes.items()
    ))  # fmt: skip
    for attributes in ({7: counts}, {10: attribute(1, counts)}):
        (drop,) = find_drops(tables_of([Expression("dynset", {1: b"s\0", **attributes}), DROP]), DATAGRAM)
        assert (drop.is_certain, drop.is_limit) == (False, True)


def test_the_rule_that_drops_beyond_a_limit_is_named_and_not_the_limit() -> None:
    slow = limit(1, 3600)
    (drop,) = find_drops(tables_of([slow, verdict(1)], [PORT, DROP]), DATAGRAM)
    assert drop.is_limit
    assert drop.rule is not None
    assert drop.rule.handle == 1
    (drop,) = find_drops(tables_of([slow, verdict(1)], drops=True), DATAGRAM)
    assert (drop.is_limit, drop.rule) == (True, None)
    (drop,) = find_drops(tables_of([limit(1, 3600, over=True), DROP], [DROP]), DATAGRAM)
    assert drop.is_certain
    assert drop.rule is not None
    assert drop.rule.handle == 1
    (drop,) = find_drops(tables_of([slow, meta(20), compares(bytes(4)), DROP]), DATAGRAM)
    assert not drop.is_limit


NOTRACK = [Expression("notrack", {})]


def test_a_packet_belongs_to_no_connection_before_it_is_tracked() -> None:
    early: dict[str, Any] = {"hook": "prerouting", "priority": -300}
    invalid = [ct(0), bitwise((1).to_bytes(4, ORDER)), compares(bytes(4), 1), DROP]
    assert fate(invalid, **early) == "drops"
    assert fate(invalid, hook="prerouting", priority=-150) == "passes"
    assert fate([ct(19, 0), compares(bytes(4)), DROP], **early) == "passes"
    assert fate(invalid, packet=LOOPED, **early) == "passes"
    assert (
        fate([meta(15), compares(b"\5"), DROP], family="netdev", hook="ingress", devices=("eth0",)) == "drops"
    )
    assert fate([DROP], family="netdev", hook="ingress", devices=("eth1", "et*"), packet=REQUEST) == "drops"
    assert fate([DROP], family="netdev", hook="ingress", devices=("eth1",)) == "passes"
    # and afterwards it has one again
    tables = (*tables_of([verdict(1)], **early), *tables_of(invalid, table="u"))
    assert find_fate(find_drops(tables, DATAGRAM)) == "passes"


def test_a_packet_that_is_not_tracked_meets_the_guard_as_none_of_the_mesh() -> None:
    reply = [ct(1), compares(b"\1"), verdict(1)]
    (guard,) = tables_of(reply, [DROP], table="guard", hook="prerouting", priority=-150)
    guard = replace(guard, is_own=True)
    for rules, expected in (
        ([NOTRACK], "drops"), ([[meta(20), compares(bytes(4)), *NOTRACK]], "passes"), ([[DROP]], "drops"),
        ([[verdict(1)]], "passes"),
    ):  # fmt: skip
        early = tables_of(*rules, hook="prerouting", priority=-300)
        assert find_fate(find_drops((*early, guard), ANSWER)) == expected
        late = tables_of(*rules, hook="prerouting", priority=-199)
        assert find_fate(find_drops((*late, guard), ANSWER)) == ("drops" if rules == [[DROP]] else "passes")
    (drop,) = find_drops((*tables_of(NOTRACK, hook="prerouting", priority=-300), guard), ANSWER)
    assert (drop.table.name, drop.chain) == ("t", "c")
    assert drop.rule is not None
    assert drop.rule.text == "notrack"
    assert find_fate(find_drops([guard], DATAGRAM)) == "passes"  # the guard's own audit tells of it
    # a first packet that is not tracked comes to no translation
    nat = tables_of([DROP], table="n", kind="nat")
    assert (
        find_fate(find_drops((*tables_of(NOTRACK, hook="prerouting", priority=-300), *nat), DATAGRAM))
        == "passes"
    )


def test_what_was_not_tracked_for_sure_is_not_known_to_be_tracked() -> None:
    perhaps = [meta(20), compares(bytes(4)), *NOTRACK]
    tables = (
        *tables_of(perhaps, hook="prerouting", priority=-300),
        *tables_of([ct(0), compares((8).to_bytes(4, ORDER)), DROP], table="u"),
    )
    assert find_fate(find_drops(tables, DATAGRAM)) == "unclear"


def test_a_connections_mark_is_what_its_first_packet_was_given() -> None:
    marks = [
        Expression("immediate", {1: number(1), 2: data(NATIVE_1)}),
        Expression("ct", {2: number(3), 4: number(1)}),
    ]
    of_others = [payload(2, 2, 2), compares(b"\0\1"), *marks]
    asks = [ct(3), compares(NATIVE_1), DROP]
    for rules, expected in (([marks, asks], "drops"), ([of_others, asks], "passes")):
        for packet in (LATER, DATAGRAM):
            assert fate(*rules, packet=packet) == expected
    unclear = [meta(20), Expression("ct", {2: number(3), 4: number(1)})]
    assert fate(unclear, asks, packet=LATER) == "unclear"
    assert ANSWER.first_of_connection.target == DATAGRAM.source


ICMPV6_TYPE = [meta(16), compares(b"\x3a"), payload(2, 0, 1)]


@pytest.mark.parametrize(
    ("expected", "packet", "rule"),
    [
        ("drops", ANSWERS, [*ICMPV6_TYPE, compares(b"\x88")]),
        ("passes", IS_ASKED, [*ICMPV6_TYPE, compares(b"\x88")]),
        ("passes", OF_IP6, [meta(16), compares(b"\x3a")]),
        ("drops", ASKS, [payload(1, 7, 1), compares(b"\xff")]),
        ("unclear", OF_IP6, [payload(1, 7, 1), compares(b"\xff")]),
        ("drops", IS_ASKED, [payload(1, 24, 13), compares(bytes.fromhex("ff0200000000000000000001ff"))]),
        ("drops", IS_ASKED, [meta(19), compares(b"\2")]),
        ("drops", ASKS, [meta(19), compares(b"\0")]),
        ("drops", ANSWERS, [ct(0), bitwise((64).to_bytes(4, ORDER)), compares(bytes(4), 1)]),
        ("passes", ANSWERS, [ct(1), compares(b"\0")]),
        ("passes", ASKS, [meta(10), compares(bytes(4))]),
        ("drops", ANSWERS, [xt("icmp6", 0, b"\x88\0\xff\0")]),
        ("passes", ANSWERS, [xt("icmp6", 0, b"\x88\1\xff\0")]),
        ("drops", IS_ASKED, [xt("icmp6", 0, b"\x88\0\xff\1")]),
        ("passes", OF_IP6, [xt("icmp6", 0, b"\x88\0\xff\1")]),
        ("drops", ANSWERS, [xt("hl", 0, b"\0\xff")]),
        ("passes", ANSWERS, [xt("hl", 0, b"\1\xff")]),
        ("passes", ANSWERS, [xt("hl", 0, b"\2\xff")]),
        ("drops", ANSWERS, [xt("hl", 0, b"\3\x80")]),
        ("unclear", DATAGRAM, [xt("ttl", 0, b"\0\x40")]),
        ("drops", IS_ASKED, [xt("addrtype", 1, struct.pack("=HHI", 2, 32, 0))]),
        ("passes", ANSWERS, [xt("addrtype", 1, struct.pack("=HHI", 0, 32, 0))]),
        ("drops", ANSWERS, [xt("addrtype", 1, struct.pack("=HHI", 2, 2 | 4, 0))]),
        ("passes", IS_ASKED, [xt("addrtype", 1, struct.pack("=HHI", 0, 4, 0))]),
        ("passes", IS_ASKED, [xt("addrtype", 1, struct.pack("=HHI", 0, 2, 0))]),
        ("drops", IS_ASKED, [xt("pkttype", 0, struct.pack("=ii", 2, 0))]),
        ("passes", ASKS, [xt("owner", 1, struct.pack("=4IBB", 0, 0, 0, 0, 1, 0))]),
        ("drops", ASKS, [xt("owner", 1, struct.pack("=4IBB", 0, 0, 0, 0, 1, 1))]),
    ],
)
def test_neighbour_discovery_under_a_rule(expected: Fate, packet: Packet, rule: list[Expression]) -> None:
    hook = "input" if packet.iif else "output"
    assert fate([*rule, DROP], packet=packet, hook=hook) == expected


@pytest.mark.parametrize(
    ("expected", "packet", "rule"),
    [
        ("drops", TOO_LARGE, [meta(16), compares(b"\x01"), payload(2, 0, 1), compares(b"\x03")]),
        ("drops", TOO_LARGE, [payload(2, 1, 1), compares(b"\x04")]),
        ("passes", TOO_LARGE, [payload(2, 0, 1), compares(b"\x08")]),
        ("drops", TOO_LARGE6, [meta(16), compares(b"\x3a"), payload(2, 0, 2), compares(b"\x02\x00")]),
        ("unclear", TOO_LARGE6, [payload(1, 7, 1), compares(b"\xff")]),
        ("drops", TOO_LARGE, [ct(0), bitwise((4).to_bytes(4, ORDER)), compares(bytes(4), 1)]),
        ("passes", TOO_LARGE, [ct(0), bitwise((2 | 8).to_bytes(4, ORDER)), compares(bytes(4), 1)]),
        ("unclear", TOO_LARGE, [ct(1), compares(b"\0")]),
        ("drops", TOO_LARGE, [xt("icmp", 0, b"\x03\x04\x04\0")]),
        ("drops", TOO_LARGE, [xt("icmp", 0, b"\x03\0\xff\0")]),
        ("drops", TOO_LARGE, [xt("icmp", 0, b"\xff\0\xff\0")]),
        ("drops", TOO_LARGE, [xt("icmp", 0, b"\x08\0\xff\1")]),
        ("passes", TOO_LARGE, [xt("icmp", 0, b"\x03\0\x03\0")]),
        ("passes", TOO_LARGE, [xt("icmp6", 0, b"\x03\0\xff\0")]),
        ("drops", TOO_LARGE6, [xt("icmp6", 0, b"\x02\0\0\0")]),
        ("passes", TOO_LARGE6, [xt("icmp6", 0, b"\xff\0\xff\0")]),
        ("passes", DATAGRAM, [xt("icmp", 0, b"\xff\0\xff\0")]),
    ],
)
def test_what_routers_say_of_large_packets_under_a_rule(
    expected: Fate, packet: Packet, rule: list[Expression]
) -> None:
    assert fate([*rule, DROP], packet=packet, hook="input") == expected


def test_what_routers_say_belongs_to_the_connection_that_it_is_about() -> None:
    assert fate([DROP], packet=TOO_LARGE, hook="input", kind="nat") == "passes"
    marks = Table(program="nft", family="inet", name="m", chains={}, marks_connections=True)
    base = Chain(name="c", hook="input", rules=(PlainRule("drop", verdict="drop"),))
    drops = Table(program="nft", family="inet", name="d", chains={"c": base})
    assert find_fate(find_drops([marks, drops], TOO_LARGE)) == "drops"


def test_neighbour_discovery_has_no_connection_that_is_translated_and_is_shown_in_words() -> None:
    assert fate([DROP], packet=ASKS, hook="output", kind="nat") == "passes"
    assert fate([DROP], packet=replace(SENT, protocol="udp"), hook="output", kind="nat") == "drops"
    rule = [*ICMPV6_TYPE, compares(b"\x88"), DROP]
    words = render_rule([(each.name, each.attributes) for each in rule])
    assert words == "meta l4proto ipv6-icmp icmpv6 type 136 drop"


FORWARDED = replace(REQUEST, oif="docker0", target="172.17.0.2")


@pytest.mark.parametrize(
    ("expected", "rule"),
    [
        ("drops", [ct(2), bitwise((32).to_bytes(4, ORDER)), compares(bytes(4), 1), DROP]),
        ("passes", [ct(2), bitwise((2).to_bytes(4, ORDER)), compares(bytes(4), 1), DROP]),
        ("drops", [xt("conntrack", 3, conntrack(1, states=128)), DROP]),
        ("passes", [xt("conntrack", 3, conntrack(1, states=2)), DROP]),
        ("drops", [meta(7), compares(b"docker0".ljust(16, b"\0")), DROP]),
        ("drops", [payload(1, 16, 4), compares(CONTAINER), DROP]),
    ],
)
def test_a_packet_that_was_sent_on_is_known_as_one(expected: Fate, rule: list[Expression]) -> None:
    assert fate(rule, packet=FORWARDED, hook="forward") == expected
    assert fate(rule, packet=FORWARDED, hook="input") == "passes"


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_rulesets_are_judged_as_the_kernel_did(name: str) -> None:
    listing, answers = replay(read_recordings(FOLDER / "kernel-rule-sets.json")[name])
    tables = build_tables(listing)
    packets = [DATAGRAM, ANSWER, LATER, REQUEST, OF_IP6, SENT, LOOPED]
    fates = {
        find_fate(find_drops(tables, packet, lookups=Lookups(answers), interfaces=listing.interfaces))
        for packet in packets
    }
    assert fates <= {"passes", "drops", "unclear"}
    for table in tables:
        for chain in table.chains.values():
            assert all(rule.text for rule in chain.rules)


def test_whose_command_changes_a_table() -> None:
    for family, table, chain, expressions, program in (
        ("ip", "filter", "INPUT", [PORT, DROP], "iptables"),
        ("ip", "filter", "INPUT", [ct(0), DROP], "nft"),
        ("ip", "filter", "incoming", [DROP], "nft"),
        ("ip", "mine", "INPUT", [DROP], "nft"),
        ("inet", "filter", "INPUT", [DROP], "nft"),
        ("ip6", "raw", "OUTPUT", [], "iptables"),
    ):
        (found,) = build_tables(
            Listing(
                tables=((family, table),),
                chains=(ListedChain(family=family, table=table, name=chain, hook="input"),),
                rules=(KernelRule(family, table, chain, 1, tuple(expressions)),),
            )
        )
        assert found.program == program
    (empty,) = build_tables(Listing(tables=(("ip", "filter"),)))
    assert empty.program == "nft"


def test_bits_that_are_not_known() -> None:
    half = Bits(b"\x10\x00", b"\xf0\x00")
    assert compare_equal(half, b"\x10\x00") is None
    assert compare_equal(half, b"\x20\x00") is False
    assert compare_order(half, b"\x20\x00") == (True, False)
    assert compare_order(half, b"\x10\x01") == (None, None)
    assert compare_order(half, b"\x0f\xff") == (False, True)
    assert mask_bits(half, b"\xf0\x00", b"\x01\x01") == Bits(b"\x11\x01")
    assert mask_bits(half, b"\xff\x00", b"\x00\x00") == Bits(b"\x10\x00", b"\xf0\xff")
    assert join_bits(Bits(b"a"), make_unknown(1)) == Bits(b"a\0", b"\xff\0")
    assert half.reverse() == Bits(b"\x00\x10", b"\x00\xf0")
    with pytest.raises(ValueError, match="have none"):
        half.take(0, 3)


def test_registers_overlap_as_the_kernels_do() -> None:
    registers = RegisterFile()
    registers.load(1, Bits(b"abcdefgh"))
    assert registers.read(1, 4) == Bits(b"abcd")
    registers.load(9, Bits(b"xy"))
    assert registers.read(8, 8) == Bits(b"abcdefgh")
    registers.load(8, Bits(b"z"))
    assert registers.read(1, 8) == Bits(b"z\0\0\0xy\0\0")
    assert registers.read(1, 6) == Bits(b"z\0\0\0xy")
    registers.load(1, Bits(b"abcdefgh"))
    assert registers.read(9, 4) == make_unknown(4)
    for beyond in (65, 1 << 90):
        with pytest.raises(ValueError, match="no register has"):
            registers.read(1, beyond)
        with pytest.raises(ValueError, match="no register has"):
            make_unknown(beyond)


def test_what_has_no_form_is_refused() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        encode_field("ct odd", "x", {})
    with pytest.raises(KeyError):
        encode_field("meta iif", "eth9", {})
    assert fate([meta(4), compares(bytes(4)), DROP], packet=REQUEST, hook="input") == "passes"


def test_jumps_that_multiply_are_given_up_and_told() -> None:
    names = [f"c{place}" for place in range(30)]
    chains = {
        name: Chain(name=name, rules=(PlainRule("jump", "jump", following),) * 9)
        for name, following in zip(names, [*names[1:], "end"], strict=True)
    }
    base = Chain(name="base", hook="input", rules=(PlainRule("jump", "jump", "c0"),))
    table = Table(
        program="nft", family="inet", name="t", chains={**chains, "base": base, "end": Chain(name="end")}
    )
    (drop,) = find_drops([table], DATAGRAM, budget=Budget(1000))
    assert not drop.is_certain
    assert drop.rule is TOO_MANY


def test_a_chain_that_leads_to_itself_is_given_up() -> None:
    chain = Chain(name="c", hook="input", rules=(PlainRule("jump", "jump", "c"),))
    (drop,) = find_drops([Table(program="iptables", family="ip", name="t", chains={"c": chain})], DATAGRAM)
    assert not drop.is_certain


def test_a_rule_that_could_not_be_read_may_do_anything() -> None:
    chain = Chain(name="c", hook="input", rules=(UNREAD,))
    (drop,) = find_drops([Table(program="nft", family="inet", name="t", chains={"c": chain})], DATAGRAM)
    assert (drop.is_certain, drop.rule) == (False, UNREAD)


class Odd:
    """A rule that raises."""

    text: ClassVar = "odd"
    handle: ClassVar = None

    def judge(self, at: object) -> Any:
        raise TypeError(at)


def test_a_rule_that_raises_is_not_understood() -> None:
    chain = Chain(name="c", hook="input", rules=(Odd(),))
    (drop,) = find_drops([Table(program="nft", family="inet", name="t", chains={"c": chain})], DATAGRAM)
    assert not drop.is_certain


EXPRESSIONS = st.builds(
    Expression,
    st.sampled_from(
        [
            "cmp",
            "range",
            "bitwise",
            "payload",
            "meta",
            "ct",
            "fib",
            "lookup",
            "dynset",
            "limit",
            "match",
            "target",
            "immediate",
            "nat",
            "redir",
            "exthdr",
            "objref",
            "byteorder",
            "connlimit",
            "x",
        ]
    ),
    st.dictionaries(
        st.integers(0, 10),
        st.binary(max_size=12)
        | st.integers(0, 20).map(number)
        | st.sampled_from([data(b"\1"), b"conntrack\0", b"multiport\0", b"CT\0", b"MARK\0"]),
    ),
)


@given(st.lists(EXPRESSIONS, max_size=4))
def test_law_whatever_a_rule_is_it_is_asked_and_shown(expressions: list[Expression]) -> None:
    fate([*expressions, DROP], sets=HEADER)
    rule = BuiltRule(KernelRule("inet", "t", "c", 1, tuple(expressions)))
    assert rule.text


def shown(*expressions: Expression) -> str:
    return render_rule([(each.name, each.attributes) for each in expressions])


def test_a_rule_is_shown_in_words_like_nfts() -> None:
    udp = [meta(16), compares(b"\x11")]
    assert shown(*udp, PORT, compares(struct.pack("!H", 51820)), DROP) == "udp dport 51820 drop"
    assert shown(*udp, PORT, lookup("s"), DROP) == "meta l4proto udp udp dport @s drop"
    assert shown(PORT, lookup("s", flags=1), DROP) == "th dport != @s drop"
    assert shown(PORT, lookup("s", target=0)) == "th dport vmap @s"
    assert shown(payload(1, 12, 4), compares(bytes([192, 0, 2, 0]), 1), DROP) == "ip saddr != 192.0.2.0 drop"
    assert shown(payload(1, 12, 3), compares(bytes([192, 0, 2]))) == "ip saddr 192.0.2.0/24"
    assert shown(payload(1, 8, 16), compares(bytes(16))) == "ip6 saddr ::"
    assert shown(payload(0, 6, 6), compares(b"\1")) == "@0,6,6 1"
    assert shown(meta(6), compares(b"eth0".ljust(16, b"\0"))) == "iifname eth0"
    assert shown(meta(6), compares(b"eth")) == "iifname eth*"
    assert shown(ct(0), bitwise(bytes(4)), compares((10).to_bytes(4, ORDER))) == "ct state established,new"
    assert shown(ct(0), compares(bytes(4))) == "ct state 0"
    assert shown(ct(99), meta(99), meta(3), compares(NATIVE_1)) == "meta mark 1"
    assert shown(payload(1, 9, 1), compares(b"\x63")) == "ip protocol 99"
    ends = {1: number(1), 2: number(0), 3: data(b"\0\1"), 4: data(b"\0\2")}
    assert shown(PORT, Expression("range", ends)) == "th dport 1-2"
    assert shown(PORT, Expression("range", ends | {2: number(1)})) == "th dport != 1-2"
    assert (
        shown(Expression("fib", {1: number(1), 2: number(1), 3: number(1)}), compares(b"\1"))
        == "fib saddr oif 1"
    )
    assert shown(meta(26), compares(b"wireguard".ljust(16, b"\0")), DROP) == "meta iifkind wireguard drop"
    kind_of_target = Expression("fib", {1: number(1), 2: number(3), 3: number(2)})
    assert shown(kind_of_target, compares((2).to_bytes(4, ORDER))) == "fib daddr type local"
    assert shown(kind_of_target, compares((9).to_bytes(4, ORDER))) == "fib daddr type 9"
    assert shown(limit(5, 60, over=True), limit(5, 7)) == "limit rate over 5/minute limit rate 5/?"
    assert shown(xt("conntrack", 3, b""), xt("LOG", 0, b"", "target")) == "xt match conntrack xt target LOG"
    assert shown(verdict(-3, "other")) == "jump other"
    assert shown(verdict(99)) == "verdict"
    assert (
        shown(Expression("dynset", {1: b"s\0"}), Expression("log", {}), Expression("cmp", {}))
        == "update @s log cmp"
    )
    assert shown(Expression("counter", {})) == "a rule without a condition"
    assert shown(PORT, *udp, PORT, compares(b"\0\1")) == "udp dport 1"


def test_where_a_prefix_of_a_network_is_written_by_a_mask() -> None:
    rule = [payload(1, 12, 4), bitwise(bytes([255, 255, 255, 0])), compares(bytes([192, 0, 2, 0])), DROP]
    assert fate(rule) == "drops"
