"""What single expressions do to packets, as the prover has it: also those that no ruleset of nft's has."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from msgspec.structs import replace

from qmesh.mesh.foreign.expressions import Expression
from qmesh.mesh.foreign.kernel_rules import KernelRule
from qmesh.mesh.foreign.rulesets import ListedChain
from qmesh.mesh.prover.gates import FALSE, TRUE, Gates
from qmesh.mesh.prover.rule_run import decode_name
from qmesh.mesh.prover.rulesets import build_ruleset, describe_rule, list_changes
from qmesh.mesh.prover.set_contents import SetContent, SetElement
from qmesh.mesh.prover.solver import Solver
from qmesh.mesh.prover.traveller import Traveller
from qmesh.mesh.prover.walk import Walk
from tests.support.checkout import CHECKOUT
from tests.support.foreign_cases import Fate, read_recordings, replay
from tests.support.kernel_expressions import (
    DROP,
    bitwise,
    compares,
    conntrack,
    ct,
    data,
    immediate,
    limit,
    lookup,
    meta,
    number,
    payload,
    verdict,
    xt,
)
from tests.support.prover_chain import fate, ruleset
from tests.support.prover_recordings import DATAGRAM
from tests.support.sent_packets import Judge

LEGACY = read_recordings(CHECKOUT / "tests/mesh/foreign_listings/kernel-rule-sets.json")
SYN = DATAGRAM._replace(protocol="tcp", flag="syn")
ACCEPT = verdict(1)
MANY_PORTS = struct.pack("=15H", 51820, *[0] * 14)
PORT = payload(2, 2, 2)
DIALLED = struct.pack("!H", 51820)
LOCAL_TARGET = [xt("addrtype", 1, struct.pack("=HHI", 0, 4, 0)), DROP]


def nft(name: str, **attributes: bytes) -> Expression:
    return Expression(name, {int(kind[1:]): value for kind, value in attributes.items()})


def elements(*keys: bytes, **more: Any) -> SetContent:
    return SetContent(key_length=2, elements=tuple(SetElement(key=key) for key in keys), **more)


@pytest.mark.parametrize(
    ("expected", "rules"),
    [
        ("unclear", [[nft("of tomorrow")], [ACCEPT]]),
        ("drops", [[nft("of tomorrow")], [DROP]][1:]),
        ("unclear", [[verdict(7)]]),
        ("passes", [[verdict(-1), ACCEPT]]),
        ("unclear", [[compares(b"\0\0"), DROP]]),
        ("passes", [[meta(15), compares(b"\x02"), ACCEPT], [DROP]]),
        ("unclear", [[nft("immediate", a1=b"\0\0\0\xff")], [ACCEPT]]),
        ("unclear", [[PORT, nft("cmp", a1=number(23), a2=number(0), a3=data(bytes(64))), DROP]]),
        ("unclear", [[PORT, compares(DIALLED, operator=9), DROP]]),
        ("unclear", [[PORT, bitwise(b"\xff\xff", operation=1), compares(DIALLED), DROP]]),
        ("unclear", [[payload(0, 0, 6), compares(bytes(6)), DROP]]),
        ("unclear", [[payload(0, 12, 2), compares(b"\x08\x00"), DROP]]),
        ("passes", [[payload(0, 12, 2), compares(b"\x86\xdd"), DROP]]),
        ("unclear", [[payload(2, 30, 2), compares(bytes(2)), DROP]]),
        ("unclear", [[meta(20), compares(bytes(4)), DROP]]),
        ("passes", [[meta(1), compares(b"\x86\xdd"), DROP]]),
        ("unclear", [[meta(10), compares(bytes(4)), DROP]]),
        ("passes", [[meta(7), compares(b"eth0".ljust(16, b"\0")), DROP]]),
        ("passes", [[meta(9), compares(b"\1\0"), DROP]]),
        ("unclear", [[ct(1, 0), compares(b"\0"), DROP]]),
        ("unclear", [[ct(17), compares(b"\0\0"), DROP]]),
        ("unclear", [[nft("fib", a1=number(1), a2=number(1), a3=number(1)), compares(bytes(4)), DROP]]),
        ("passes", [[nft("exthdr", a1=number(1), a2=b"\2"), compares(bytes(2)), DROP]]),  # of IPv6
        ("unclear", [[nft("exthdr", a1=number(1), a2=b"\2", a6=number(9)), compares(bytes(2)), DROP]]),
        ("passes", [[nft("exthdr", a7=number(1))]]),
        ("unclear", [[nft("socket", a1=number(1), a2=number(1)), compares(bytes(4)), DROP]]),
        ("unclear", [[PORT, nft("socket", a1=number(1), a2=number(1)), compares(bytes(2)), DROP]]),
        ("unclear", [[nft("dynset"), DROP]]),
        ("unclear", [[limit(1), DROP]]),
        ("unclear", [[nft("objref", a1=number(4)), DROP]]),
        ("drops", [[nft("objref", a1=number(1)), DROP]]),
        ("unclear", [[nft("objref", a1=number(10)), DROP]]),
        ("unclear", [[nft("objref", a1=number(9)), DROP]]),
        ("unclear", [[nft("queue")], [DROP]]),
        ("unclear", [[nft("tproxy")], [DROP]]),
        ("unclear", [[nft("dup")], [DROP]]),
        ("unclear", [[nft("dup")]]),
        ("drops", [[nft("reject")], [ACCEPT]]),
        ("unclear", [[verdict(-3, "nowhere")]]),
        ("drops", [[verdict(-3, "other")]]),
        ("unclear", [[lookup("no such set")]]),
        ("passes", [[PORT, nft("byteorder", a1=number(1), a2=number(1), a4=number(2), a5=number(2)),
                     compares(DIALLED), DROP]]),
        ("drops", [[PORT, nft("byteorder", a1=number(1), a2=number(1), a4=number(2), a5=number(2)),
                    compares(DIALLED[::-1]), DROP]]),
        ("passes", [[PORT, nft("range", a1=number(1), a2=number(1), a3=data(b"\0\1"), a4=data(DIALLED)),
                     DROP]]),
        ("passes", [[immediate(1, b"\0\x16"), nft("payload", a2=number(2), a3=number(2), a4=number(2),
                                                   a5=number(1))],
                    [PORT, compares(DIALLED), DROP]]),
        ("drops", [[immediate(1, b"\x0a\0\0\1"), nft("payload", a2=number(1), a3=number(12), a4=number(4),
                                                    a5=number(1))],
                   [payload(1, 12, 4), compares(b"\x0a\0\0\1"), DROP]]),
        ("unclear", [[nft("payload", a2=number(1), a3=number(9), a4=number(1), a5=number(1))],
                     [meta(16), compares(b"\x11"), DROP]]),
        ("unclear", [[nft("payload", a2=number(0), a3=number(0), a4=number(2), a5=number(1))],
                     [PORT, compares(DIALLED), DROP]]),
        ("unclear", [[immediate(1, b"\x0a\0\0\1"), nft("payload", a2=number(1), a3=number(16), a4=number(4),
                                                       a5=number(1))], LOCAL_TARGET]),
        ("drops", [[immediate(1, b"\x0a\0\0\1"), nft("payload", a2=number(1), a3=number(12), a4=number(4),
                                                     a5=number(1))], LOCAL_TARGET]),
        ("drops", [[payload(1, 8, 2), nft("payload", a2=number(1), a3=number(8), a4=number(2), a5=number(1))],
                   [meta(16), compares(b"\x11"), DROP]]),
        ("unclear", [[nft("payload", a2=number(0), a3=number(6), a4=number(6), a5=number(1)), DROP]]),
        ("unclear", [[nft("payload", a2=number(2), a3=number(16), a4=number(2), a5=number(1)), DROP]]),
        ("passes", [[immediate(1, b"\1"), nft("meta", a2=number(19), a3=number(1))],
                    [meta(19), compares(b"\0"), DROP]]),
        ("passes", [[nft("ct", a2=number(22), a4=number(1))], [nft("meta", a2=number(12), a3=number(1))]]),
    ],
)  # fmt: skip
def test_what_an_expression_means_is_followed_or_left_open(expected: Fate, rules: list[list[Expression]]):
    assert fate(*rules) == expected


@pytest.mark.parametrize(
    ("expected", "content", "flags"),
    [
        ("drops", elements(DIALLED), {}),
        ("passes", elements(b"\0\1"), {}),
        ("passes", elements(DIALLED), {"flags": 1}),
        ("unclear", elements(DIALLED, counts=True), {}),
        ("unclear", SetContent(key_length=2, elements=(SetElement(is_rest=True),)), {"flags": 1}),
        ("unclear", elements(b"\0\1", changes=True), {}),
        ("drops", elements(DIALLED, changes=True), {}),
        ("unclear", SetContent(key_length=2, elements=None), {}),
        ("drops", elements(b"\0\1", has_ranges=True), {}),
        ("drops", SetContent(key_length=2, elements=(SetElement(is_rest=True),)), {}),
        ("unclear", SetContent(key_length=2, elements=(SetElement(key=DIALLED, is_temporary=True),)), {}),
        ("drops", SetContent(key_length=2, elements=(SetElement(key=b"\0\1", last=b"\xff\xff"),)), {}),
    ],
)
def test_what_a_set_has_decides(expected: Fate, content: SetContent, flags: dict[str, int]):
    assert fate([PORT, lookup("s", **flags), DROP], sets={"s": content}) == expected


def test_an_element_may_have_gone_from_a_set_from_which_rules_remove_some():
    def changes(operation: int) -> list[Expression]:
        return [PORT, nft("dynset", a1=b"s\0", a3=number(operation), a4=number(1))]

    asks = [PORT, lookup("s"), DROP]
    assert fate(changes(2), asks, sets={"s": elements(DIALLED)}) == "unclear"
    assert fate(changes(0), asks, sets={"s": elements(DIALLED)}) == "drops"
    assert fate(changes(0), asks, sets={"s": elements(b"\0\1")}) == "unclear"
    assert fate(changes(2), [PORT, lookup("m", target=0)], sets={"s": elements(DIALLED)}) == "unclear"


def test_a_map_of_verdicts_or_values_decides():
    verdicts = SetContent(
        key_length=2,
        elements=(SetElement(key=DIALLED, verdict=-3, chain="other"), SetElement(is_rest=True, verdict=1)),
    )
    assert fate([PORT, lookup("m", target=0)], sets={"m": verdicts}) == "drops"
    assert (
        fate([PORT, lookup("m", target=0)], sets={"m": verdicts}, packet=DATAGRAM._replace(target_port=9))
        == "passes"
    )
    limited = replace(verdicts, counts=True)
    assert fate([PORT, lookup("m", target=0)], sets={"m": limited}) == "unclear"
    marks = SetContent(key_length=2, elements=(SetElement(key=DIALLED, value=b"\5\0\0\0"),))
    rules = [PORT, lookup("m", target=1), compares(b"\5\0\0\0"), DROP]
    assert fate(rules, sets={"m": marks}) == "drops"
    for unknown in (replace(marks, changes=True), replace(marks, elements=None)):
        assert fate(rules, sets={"m": unknown}) == "unclear"
    several = SetContent(
        key_length=8,
        fields=(2, 2),
        elements=(SetElement(key=DIALLED + b"\0\0" + b"\0\1\0\0", last=DIALLED + b"\0\0" + b"\xff\xff\0\0"),),
    )
    both = [
        PORT,
        payload(2, 0, 2, register=9),
        Expression("lookup", lookup("m").attributes | {2: number(8)}),
        DROP,
    ]
    both[0] = payload(2, 2, 2, register=8)
    assert fate(both, sets={"m": several}) == "drops"
    single = replace(several, has_ranges=True, elements=(SetElement(key=bytes(8)),))
    assert fate(both, sets={"m": single}) == "passes"


@pytest.mark.parametrize(
    ("expected", "rules"),
    [
        ("drops", [[xt("comment", 0, b""), DROP]]),
        ("unclear", [[xt("of tomorrow", 0, b""), DROP]]),
        ("unclear", [[xt("udp", 0, b""), DROP]]),
        ("drops", [[xt("udp", 0, struct.pack("=4HB", 0, 65535, 51820, 51820, 0)), DROP]]),
        ("passes", [[xt("udp", 0, struct.pack("=4HB", 0, 65535, 51820, 51820, 2)), DROP]]),
        ("passes", [[xt("udp", 0, struct.pack("=4HB", 9, 1, 51820, 51820, 0)), DROP]]),
        ("passes", [[xt("tcp", 0, struct.pack("=4H4B", 0, 65535, 0, 65535, 0, 0, 0, 0)), DROP]]),
        ("unclear", [[xt("limit", 0, b""), DROP]]),
        ("drops", [[xt("multiport", 1, b"\1\1" + MANY_PORTS + bytes(16)), DROP]]),
        ("passes", [[xt("multiport", 1, b"\2\1" + MANY_PORTS + bytes(15) + b"\1"), DROP]]),
        ("drops", [[xt("conntrack", 3, conntrack(1, states=8)), DROP]]),
        ("passes", [[xt("conntrack", 3, conntrack(1, 1, states=8)), DROP]]),
        ("unclear", [[xt("conntrack", 3, conntrack(2, states=8)), DROP]]),
        ("drops", [[xt("conntrack", 3, conntrack(0)), DROP]]),
        ("drops", [[xt("state", 0, number(8)[::-1]), DROP]]),
        ("drops", [[xt("addrtype", 1, struct.pack("=HHI", 0, 4, 0)), DROP]]),
        ("passes", [[xt("addrtype", 1, struct.pack("=HHI", 0, 4, 2)), DROP]]),
        ("passes", [[xt("addrtype", 1, struct.pack("=HHI", 4, 0, 0)), DROP]]),
        ("drops", [[xt("REJECT", 0, b"", "target")], [ACCEPT]]),
        ("drops", [[xt("LOG", 0, b"", "target")], [DROP]]),
        ("unclear", [[xt("MARK", 2, b"", "target")], [meta(3), compares(bytes(4)), DROP]]),
        ("unclear", [[xt("SET", 3, b"", "target")], [meta(3), compares(bytes(4)), DROP]]),
        ("drops", [[xt("SET", 3, b"", "target")], [PORT, compares(DIALLED), DROP]]),
        ("unclear", [[xt("socket", 3, b"")], [meta(3), compares(bytes(4)), DROP]]),
        ("unclear", [[xt("TTL", 0, b"", "target")], [payload(1, 8, 1), compares(b"\x40"), DROP]]),
        ("drops", [[xt("TTL", 0, b"", "target")], [PORT, compares(DIALLED), DROP]]),
        ("unclear", [[xt("TPROXY", 0, b"", "target")], [DROP]]),
        ("drops", [[xt("NOTRACK", 0, b"", "target")], [ct(0), compares(struct.pack("=I", 8)), DROP]]),
    ],
)  # fmt: skip
def test_what_iptables_has_put_there_is_followed_or_left_open(expected: Fate, rules: list[list[Expression]]):
    assert fate(*rules) == expected


def test_iptables_asks_for_flags_of_tcp():
    def asks(mask: int, wanted: int, option: int = 0, inverted: int = 0) -> list[Expression]:
        content = struct.pack("=4H4B", 0, 65535, 0, 65535, option, mask, wanted, inverted)
        return [xt("tcp", 0, content), DROP]

    assert fate(asks(0x17, 0x02), packet=SYN) == "drops"
    assert fate(asks(0x17, 0x02, inverted=4), packet=SYN) == "passes"
    assert fate(asks(0x02, 0x12), packet=SYN) == "passes"
    assert fate(asks(0x17, 0x02, option=2), packet=SYN) == "passes"
    assert fate(asks(0x17, 0x02, option=2), packet=SYN._replace(segment=1400)) == "drops"
    assert fate(asks(0x17, 0x02, option=2, inverted=8), packet=SYN) == "drops"
    assert fate([xt("TCPMSS", 0, b"", "target")], asks(0x17, 0x02, option=2), packet=SYN) == "unclear"
    assert fate([xt("ECN", 0, b"", "target")], asks(0x80, 0), packet=SYN) == "unclear"


NOTRACK = [nft("notrack")]
STATE_NEW = [ct(0), bitwise(struct.pack("=I", 8)), compares(bytes(4), 1), DROP]
UNTRACKED = [ct(0), compares(struct.pack("=I", 64)), DROP]
SET_CONNECTION_MARK = [immediate(1, b"\5\0\0\0"), nft("ct", a2=number(3), a4=number(1))]
MARKED = [ct(3), compares(b"\5\0\0\0"), DROP]
ZONE = [immediate(1, b"\3\0"), nft("ct", a2=number(18), a4=number(1))]
INVALID = [ct(0), compares(struct.pack("=I", 1)), DROP]
XT_NEW = [xt("state", 0, number(8)[::-1]), DROP]


@pytest.mark.parametrize(
    ("expected", "rules", "named"),
    [
        ("passes", [STATE_NEW], {"hook": "prerouting", "priority": -300}),
        ("unclear", [STATE_NEW], {"hook": "prerouting", "priority": -200}),
        ("drops", [STATE_NEW], {"hook": "prerouting", "priority": -150}),
        ("unclear", [XT_NEW], {"hook": "prerouting", "priority": -300}),
        ("passes", [[ct(3), compares(bytes(4)), DROP]], {"hook": "prerouting", "priority": -300}),
        ("unclear", [[ct(3), compares(bytes(4)), DROP]], {"hook": "prerouting", "priority": -200}),
        ("drops", [[ct(3), compares(bytes(4)), DROP]], {"hook": "prerouting", "priority": -100 - 1}),
        ("unclear", [ZONE, INVALID], {"hook": "prerouting", "priority": -300}),
        ("unclear", [ZONE, INVALID], {"hook": "prerouting", "priority": -200}),
        ("unclear", [ZONE, [ct(3), compares(bytes(4)), DROP]], {"hook": "prerouting", "priority": -300}),
        ("unclear", [[xt("CT", 2, b"", "target")], INVALID], {"hook": "prerouting", "priority": -300}),
        ("drops", [INVALID], {"hook": "prerouting", "priority": -300}),
        ("passes", [ZONE, INVALID], {"hook": "prerouting", "priority": -150}),
        ("unclear", [ZONE, NOTRACK, UNTRACKED], {"hook": "prerouting", "priority": -300}),
        ("unclear", [SET_CONNECTION_MARK, MARKED], {"hook": "prerouting", "priority": -200}),
        ("drops", [SET_CONNECTION_MARK, MARKED], {"hook": "prerouting", "priority": -150}),
        ("unclear", [[DROP]], {"hook": "prerouting", "priority": -500}),
        ("unclear", [[DROP]], {"hook": "prerouting", "priority": -100}),
        ("unclear", [[DROP]], {"hook": "prerouting", "priority": 0, "tracks": False}),
        ("drops", [[DROP]], {"hook": "input", "priority": 0, "tracks": False}),
        ("unclear", [[DROP]], {"hook": "ingress", "priority": 0, "family": "netdev"}),
        ("passes", [NOTRACK, STATE_NEW], {"hook": "prerouting", "priority": -300}),
        ("unclear", [NOTRACK, UNTRACKED], {"hook": "prerouting", "priority": -200}),
        ("unclear", [[DROP]], {"hook": "prerouting", "priority": -100, "kind": "nat"}),
        ("passes", [[ACCEPT]], {"hook": "prerouting", "priority": -100, "kind": "nat"}),
        ("passes", [[xt("DNAT", 2, bytes(44), "target")]], {"hook": "prerouting", "priority": -100,
                                                             "kind": "nat"}),
        ("passes", [[xt("REDIRECT", 0, bytes(40), "target")]], {"hook": "prerouting", "priority": -100,
                                                                 "kind": "nat"}),
        ("passes", [[xt("SNAT", 0, b"", "target")]], {"hook": "input", "priority": 100, "kind": "nat"}),
        ("passes", [[nft("masq")]], {"hook": "input", "priority": 100, "kind": "nat"}),
        ("passes", [[DROP]], {"hook": "forward"}),
        ("drops", [], {"drops": True}),
    ],
)  # fmt: skip
def test_when_a_chain_is_passed_decides(expected: Fate, rules: list[list[Expression]], named: dict[str, Any]):
    assert fate(*rules, **named) == expected


def test_what_is_untracked_before_its_pieces_are_together_may_come_in_pieces():
    packet = DATAGRAM._replace(family="ip6", source="2001:db8:1::1", target="2001:db8::2")
    drops = ruleset([PORT, compares(DIALLED), DROP])
    chain = ListedChain(family="ip6", table="u", name="c", hook="prerouting", priority=-450)
    early = replace(
        drops,
        chains={**drops.chains, ("ip6", "u"): {"c": chain}},
        rules={**drops.rules, ("ip6", "u", "c"): (KernelRule("ip6", "u", "c", 1, tuple(NOTRACK)),)},
    )
    assert Judge(early, "ip6", {"eth0": 2}).find_fate(packet) == "unclear"
    assert Judge(early, "ip", {"eth0": 2}).find_fate(DATAGRAM) == "drops"


def test_before_conntrack_there_is_no_connection_whose_mark_is_set():
    late = ruleset(MARKED)
    early = replace(
        late,
        chains={
            **late.chains,
            ("inet", "u"): {
                "c": ListedChain(family="inet", table="u", name="c", hook="prerouting", priority=-300)
            },
        },
        rules={
            **late.rules,
            ("inet", "u", "c"): (KernelRule("inet", "u", "c", 1, tuple(SET_CONNECTION_MARK)),),
        },
    )
    assert Judge(early, "ip", {"eth0": 2}).find_fate(DATAGRAM) == "passes"


def test_a_program_that_reads_a_queue_may_change_marks():
    one = ruleset([meta(3), compares(bytes(4)), DROP], priority=5)
    chain = ListedChain(family="inet", table="u", name="c", hook="input")
    queued = replace(
        one,
        chains={**one.chains, ("inet", "u"): {"c": chain}},
        rules={**one.rules, ("inet", "u", "c"): (KernelRule("inet", "u", "c", 1, (nft("queue"),)),)},
    )
    assert Judge(one, "ip", {"eth0": 2}).find_fate(DATAGRAM) == "drops"
    assert Judge(queued, "ip", {"eth0": 2}).find_fate(DATAGRAM) == "unclear"


def test_before_a_target_is_translated_no_connection_says_so():
    gates = Gates()
    found = ruleset(
        [ct(2), bitwise(struct.pack("=I", 1 << 5)), compares(bytes(4), 1), DROP],
        hook="prerouting", priority=-150,
    )  # fmt: skip
    chain = ListedChain(family="inet", table="u", name="c", hook="prerouting", kind="nat", priority=-100)
    rule = KernelRule("inet", "u", "c", 1, (nft("redir"),))
    found = replace(
        found,
        chains={**found.chains, ("inet", "u"): {"c": chain}},
        rules={**found.rules, ("inet", "u", "c"): (rule,)},
    )
    walk = Walk(gates, found, Traveller(gates, "ip", arrives=True))
    before = walk.at.target_port
    walk.pass_hook("prerouting")
    reached = [gates.equal(before, b"\0\x50"), gates.equal(walk.at.target_port, DIALLED), walk.alive]
    with Solver(gates) as solver:
        for law in walk.laws:
            solver.require(law)
        is_said = walk.at.connection.status[5]
        assert solver.is_possible([*walk.switches, *reached, walk.at.is_new, is_said])
        assert not solver.is_possible([*walk.switches, *reached, walk.at.is_new, -is_said])


def test_a_chain_beside_a_translation_may_have_seen_the_port_of_before():
    marks = [PORT, compares(b"\0\x50"), immediate(1, b"\7\0\0\0"), nft("meta", a2=number(3), a3=number(1))]
    found = ruleset(marks, hook="prerouting", priority=-100)
    gates = Gates()
    walk = Walk(gates, found, Traveller(gates, "ip", arrives=True))
    unmarked = gates.equal(walk.at.mark, bytes(4))
    walk.pass_hook("prerouting")
    marked = gates.equal(walk.at.mark, b"\7\0\0\0")
    with Solver(gates) as solver:
        assert solver.is_possible([unmarked, marked, gates.equal(walk.at.target_port, DIALLED)])


def test_rules_of_iptables_legacy_are_not_followed_and_its_policies_are():
    (recording,) = (each for name, each in LEGACY.items() if name.endswith("legacy"))
    listing, _ = replay(recording)
    found = build_ruleset(listing, {})
    assert any("iptables-legacy" in table for _, table in found.chains)
    assert Judge(found, "ip", {"eth0": 2}).find_fate(DATAGRAM) == "unclear"
    place = describe_rule(next(rule for rule in found.list_rules({"ip"}) if "legacy" in rule.table))
    assert str(place).endswith("rules of iptables-legacy, which are not followed")


def test_of_ipv6_in_pieces_the_ports_may_not_be_seen():
    packet = DATAGRAM._replace(family="ip6", source="2001:db8:1::1", target="2001:db8::2")
    drops = [PORT, compares(DIALLED), DROP]
    assert fate(drops, packet=packet) == "drops"
    assert fate(drops, packet=packet, tracks=False) == "unclear"
    assert (
        fate([xt("udp", 0, struct.pack("=4HB", 0, 65535, 0, 65535, 0)), DROP], packet=packet, tracks=False)
        == "unclear"
    )
    assert fate([xt("HL", 0, b"", "target")], drops, packet=packet) == "drops"


def test_of_ipv6_another_next_header_is_another_protocol():
    packet = DATAGRAM._replace(family="ip6", source="2001:db8:1::1", target="2001:db8::2")
    written = nft("payload", a2=number(1), a3=number(6), a4=number(1), a5=number(1))
    assert (
        fate([immediate(1, b"\6"), written], [meta(16), compares(b"\x11"), DROP], packet=packet) == "unclear"
    )


def test_chains_of_one_priority_may_change_what_others_ask_for():
    for change, asks in (
        (
            [immediate(1, bytes(4)), nft("meta", a2=number(3), a3=number(1))],
            [meta(3), compares(bytes(4)), DROP],
        ),
        ([immediate(1, bytes(4)), nft("ct", a2=number(3), a4=number(1))], [ct(3), compares(bytes(4)), DROP]),
        (NOTRACK, STATE_NEW),
        (
            [immediate(1, b"\0"), nft("meta", a2=number(19), a3=number(1))],
            [meta(19), compares(b"\0"), DROP],
        ),
        ([nft("queue")], [PORT, compares(DIALLED), DROP]),
        (ZONE, INVALID),
    ):
        place: dict[str, Any] = (
            {"hook": "prerouting", "priority": -300} if change is ZONE else {"hook": "input"}
        )
        one = ruleset(asks, **place)
        other = replace(
            one,
            chains={
                **one.chains,
                ("inet", "u"): {"c": ListedChain(family="inet", table="u", name="c", **place)},
            },
            rules={**one.rules, ("inet", "u", "c"): (KernelRule("inet", "u", "c", 1, tuple(change)),)},
        )
        assert Judge(one, "ip", {"eth0": 2}).find_fate(DATAGRAM) == "drops"
        assert Judge(other, "ip", {"eth0": 2}).find_fate(DATAGRAM) == "unclear"


@pytest.mark.parametrize(
    ("changes", "expressions"),
    [
        (set(), [nft("payload", a1=number(1))]),
        ({"headers"}, [nft("payload", a5=number(1))]),
        ({"packet type"}, [nft("meta", a2=number(19), a3=number(1))]),
        (set(), [nft("meta", a2=number(12), a3=number(1)), meta(3)]),
        ({"mark"}, [nft("meta", a2=number(3), a3=number(1))]),
        ({"connection mark", "template"}, [nft("ct", a4=number(1))]),
        (set(), [ct(0), xt("LOG", 0, b"", "target"), xt("comment", 0, b"")]),
        ({"mark"}, [xt("socket", 3, b"")]),
        ({"mark", "connection mark"}, [xt("MARK", 2, b"", "target")]),
        ({"mark", "connection mark", "headers", "tracking", "template", "packet type"}, [nft("of tomorrow")]),
    ],
)
def test_what_rules_may_change_is_known(changes: set[str], expressions: list[Expression]):
    assert list_changes(ruleset(expressions), ("inet", "t")) == changes


def test_jumps_without_end_are_not_followed():
    found = ruleset([verdict(-3, "c")])
    assert Judge(found, "ip", {"eth0": 2}).find_fate(DATAGRAM) == "unclear"


def test_more_rules_than_are_followed_are_left_open(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("qmesh.mesh.prover.walk.MOST_RULES", 1)
    assert fate([ACCEPT]) == "passes"
    assert fate([PORT, compares(b"\0\1"), ACCEPT], [DROP]) == "unclear"


def test_gates_fold_what_is_known_and_say_what_they_are():
    gates = Gates()
    one, other = gates.make_variables(2)
    assert gates.both(one, other) == gates.both(other, one)
    assert gates.both(one, -one) == FALSE
    assert gates.either(one, TRUE) == TRUE
    assert gates.choose(one, other, other) == other
    both = gates.both(one, other)
    assert gates.substitute(both, {one: TRUE}) == other
    assert gates.substitute(-both, {one: FALSE}) == TRUE
    assert gates.evaluate([both, -both, TRUE], {one, other}.__contains__) == [True, False, True]
    with Solver(gates) as solver:
        assert solver.is_possible([both])
        assert not solver.is_possible([both, -one])
        assert solver.list_reasons() <= {both, -one}
        solver.require(-one, -other)
        assert not solver.is_possible([both])


def test_a_question_can_be_interrupted(monkeypatch: pytest.MonkeyPatch):
    """Ctrl-C, while the solver thinks: what waits is Python, and the next question is answered."""

    def interrupt(*_: object) -> bool:
        raise KeyboardInterrupt

    gates = Gates()
    one, other = gates.make_variables(2)
    with Solver(gates) as solver:
        with monkeypatch.context() as patch:
            patch.setattr("clingo.solving.SolveHandle.wait", interrupt)
            with pytest.raises(KeyboardInterrupt):
                solver.is_possible([one])
        assert not solver.is_set(one)
        assert solver.is_possible([gates.both(one, -other)])
        assert solver.is_set(one)
        assert not solver.is_set(other)
        assert not solver.is_set(gates.make_variable())  # about which it was not asked


def test_a_name_of_another_program_may_be_no_text():
    assert decode_name(b"caf\xe9\0") == "caf\udce9"


def test_what_this_machine_sends_has_no_connection_before_conntrack():
    for priority, is_dropped in ((-300, False), (-150, True)):
        gates = Gates()
        walk = Walk(
            gates,
            ruleset([ct(0), compares(struct.pack("=I", 1)), DROP], hook="output", priority=priority),
            Traveller(gates, "ip", arrives=False),
        )
        walk.pass_hook("output")
        with Solver(gates) as solver:
            new = walk.at.is_new
            switches = list(walk.switches)
            assert solver.is_possible([new, *switches, walk.alive]) is is_dropped


def test_where_iptables_redirects_ipv6_is_in_a_range_of_its_own_form():
    rule = xt("REDIRECT", 0, struct.pack("=I32x", 2) + struct.pack("!HH", 22, 22), "target")
    found = ruleset([rule], hook="prerouting", priority=-100, kind="nat", family="ip6")
    gates = Gates()
    walk = Walk(gates, found, Traveller(gates, "ip6", arrives=True))
    walk.pass_hook("prerouting")
    with Solver(gates) as solver:
        begins = [walk.start.is_tcp, walk.start.is_new, walk.diversion.when, *walk.usual, *walk.switches]
        assert solver.is_possible(begins)
        assert not solver.is_possible([*begins, -gates.equal(walk.at.target_port, b"\0\x16")])
