"""What is added to the kernel's messages before it takes them again."""

from __future__ import annotations

import struct

import pytest

from qmesh.mesh.drill.rule_messages import (
    adjust_expressions,
    find_protocol,
    list_counters,
    list_foreign_deciders,
    list_legacy_words,
    order_elements,
)
from qmesh.mesh.foreign.attributes import parse_attributes


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def expression(name: str, *data: tuple[int, bytes]) -> bytes:
    inner = b"".join(attribute(*each) for each in data)
    return attribute(1, attribute(1, name.encode() + b"\0") + attribute(2, inner))


def u32(value: int) -> bytes:
    return struct.pack("!I", value)


def compare(value: bytes, operator: int = 0) -> bytes:
    return expression("cmp", (1, u32(1)), (2, u32(operator)), (3, attribute(1, value)))


META = expression("meta", (1, u32(1)), (2, u32(16)))
PAYLOAD = expression("payload", (1, u32(1)), (2, u32(1)), (3, u32(9)), (4, u32(1)))
ELSEWHERE = expression("payload", (1, u32(1)), (2, u32(1)), (3, u32(12)), (4, u32(4)))
MATCH = expression("match", (1, b"tcp\0"))


@pytest.mark.parametrize(
    ("content", "protocol"),
    [
        (META + compare(b"\x06"), None),
        (META + compare(b"\x06") + MATCH, (6, 0)),
        (PAYLOAD + compare(b"\x11") + MATCH, (17, 0)),
        (PAYLOAD + compare(b"\x11", 1) + MATCH, (17, 2)),
        (ELSEWHERE + compare(b"\x0a\0\0\1") + PAYLOAD + compare(b"\x06") + MATCH, (6, 0)),
        (ELSEWHERE + compare(b"\x06") + MATCH, (0, 0)),
        (META + compare(b"\x06\0") + MATCH, (0, 0)),
        (expression("target", (1, b"REDIRECT\0")), (0, 0)),
        (PAYLOAD + compare(b"\x06") + PAYLOAD + compare(b"\x11") + MATCH, (6, 0)),
    ],
)
def test_iptables_matches_are_told_the_protocol_that_the_rule_compares(content, protocol):
    found = find_protocol(content)
    assert (
        None if found is None else tuple(int.from_bytes(v, "big") for _, v in parse_attributes(found))
    ) == (protocol)


def test_of_an_expression_that_writes_an_option_the_flags_are_left_out():
    writes = expression("exthdr", (2, b"\2"), (5, u32(0)), (7, u32(1)))
    reads = expression("exthdr", (1, u32(1)), (2, b"\2"), (5, u32(1)))
    assert adjust_expressions(META + reads) == META + reads
    assert adjust_expressions(META + writes) == META + expression("exthdr", (2, b"\2"), (7, u32(1)))
    assert adjust_expressions(MATCH) == MATCH


def test_what_acts_on_the_whole_machine_is_left_out():
    quiet = META + expression("target", (1, b"LOG\0"))
    assert adjust_expressions(quiet + expression("log", (5, u32(8)))) == quiet
    assert adjust_expressions(META + expression("log", (5, u32(4)))) == META + expression("log", (5, u32(4)))
    for name in (b"AUDIT\0", b"IDLETIMER\0", b"LED\0"):
        assert adjust_expressions(quiet + expression("target", (1, name), (2, u32(1)))) == quiet
    named = META + expression("match", (1, b"LED\0"))
    assert adjust_expressions(named) == named


def test_what_a_rule_asks_that_is_not_in_the_copy_is_named():
    assert list_foreign_deciders(expression("queue")) == ["a program that reads the queue of a rule"]
    assert list_foreign_deciders(expression("match", (1, b"set\0"))) == ["a set of ipset"]
    assert list_foreign_deciders(META + compare(b"\x06") + MATCH) == []


def test_what_counts_is_named():
    assert list_counters(expression("limit")) == ["a rule with limit"]
    assert list_counters(expression("match", (1, b"hashlimit\0"))) == ["a rule with hashlimit"]
    assert list_counters(MATCH) == []


def test_names_in_a_table_of_iptables_legacy_are_found():
    block = bytes(30) + b"\x28\0" + b"NFQUEUE".ljust(29, b"\0") + b"\1" + b"limit".ljust(29, b"\0")
    assert list_legacy_words(block) == (["a program that reads the queue of a rule"], ["a rule with limit"])
    assert list_legacy_words(bytes(300)) == ([], [])


def element(key: int, *, is_end: bool = False) -> bytes:
    flags = attribute(3, u32(1)) if is_end else b""
    return attribute(1, attribute(1, u32(key)) + flags + attribute(5, bytes(8)))


def test_elements_are_sent_the_lowest_first_and_an_end_before_the_next_beginning():
    lists = [element(9, is_end=True) + element(5), element(5, is_end=True) + element(1)]
    (sent,) = order_elements(lists)
    found = [dict(parse_attributes(each)) for _, each in parse_attributes(sent)]
    assert [(int.from_bytes(each[1], "big"), 3 in each) for each in found] == [
        (1, False),
        (5, True),
        (5, False),
        (9, True),
    ]
    assert not any(5 in each for each in found), "when an element ends is not copied"


def test_many_elements_are_several_lists_and_none_is_no_list():
    sent = list(order_elements([b"".join(element(number) for number in range(5000))]))
    assert len(sent) > 1
    assert all(len(each) < 1 << 16 for each in sent)
    assert sum(len(list(parse_attributes(each))) for each in sent) == 5000
    assert list(order_elements([b""])) == []
