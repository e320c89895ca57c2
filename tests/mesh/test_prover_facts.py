"""What rules ask beside a packet's fields: options, whose an address is, who sends it, and the way back."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from msgspec.structs import replace

from qmesh.mesh.foreign.expressions import Expression
from qmesh.mesh.foreign.kernel_rules import KernelRule
from qmesh.mesh.foreign.packet_fields import ORDER
from qmesh.mesh.foreign.rulesets import ListedChain
from qmesh.mesh.prover.claims.claim_list import build_cases
from qmesh.mesh.prover.decide import decide_each
from qmesh.mesh.prover.examples import OwnInterface
from qmesh.mesh.prover.gates import Gates
from qmesh.mesh.prover.rulesets import ProvedRuleset
from qmesh.mesh.prover.solver import Solver
from qmesh.mesh.prover.traveller import Traveller
from qmesh.mesh.prover.walk import Walk
from qmesh.mesh.prover.way_back import MOST_ROUTES, asks_routes
from qmesh.mesh.routes.detours import RoutingTables
from qmesh.mesh.routes.tables import PolicyRule, TableRoute
from tests.support.foreign_cases import Fate
from tests.support.kernel_expressions import DROP, compares, conntrack, immediate, number, verdict, xt
from tests.support.prover_chain import fate, ruleset
from tests.support.prover_recordings import DATAGRAM, GUARDS, read_prover_recordings

SYN = DATAGRAM._replace(protocol="tcp", flag="syn", segment=1400)
OVER_IP6 = SYN._replace(family="ip6", source="2001:db8::9", target="2001:db8::2")
LOCAL, UNICAST, MULTICAST, BROADCAST = 2, 1, 5, 3


def option(kind: int, octet: int, length: int, *, operation: int = 1, flags: int = 0) -> Expression:
    return Expression(
        "exthdr",
        {1: number(1), 2: bytes([kind])}
        | {place: number(each) for place, each in enumerate((octet, length, flags, operation), start=3)},
    )


def fib(result: int, flags: int) -> Expression:
    return Expression("fib", {1: number(1), 2: number(result), 3: number(flags)})


def chooses(count: int, first: int = 0) -> Expression:
    return Expression("numgen", {1: number(1), 2: number(count), 4: number(first)})


def is_kind(kind: int, flags: int = 2) -> list[Expression]:
    return [fib(3, flags), compares(kind.to_bytes(4, ORDER)), DROP]


@pytest.mark.parametrize(
    ("expected", "rule", "packet"),
    [
        ("drops", [option(2, 2, 2), compares(b"\x05\x78"), DROP], SYN),  # 1400
        ("passes", [option(2, 2, 2), compares(b"\x05\x79"), DROP], SYN),
        ("passes", [option(2, 2, 3), compares(b"\x05\x78\0"), DROP], SYN),  # it is not so long
        ("passes", [option(2, 2, 2), compares(b"\x05\x78"), DROP], SYN._replace(segment=None)),
        ("drops", [option(2, 0, 1, flags=1), compares(b"\1"), DROP], SYN),
        ("passes", [option(3, 0, 1, flags=1), compares(b"\1"), DROP], SYN),
        ("passes", [option(2, 0, 1, flags=1), compares(b"\1"), DROP], DATAGRAM),
        ("passes", [option(43, 0, 1, operation=0), compares(b"\0"), DROP], OVER_IP6),
        ("passes", [option(43, 0, 1, operation=0), compares(b"\0"), DROP], SYN),
        ("passes", [option(7, 0, 1, operation=2), compares(b"\0"), DROP], OVER_IP6),
        ("drops", is_kind(LOCAL), SYN),
        ("passes", is_kind(LOCAL, 1), SYN),
        ("drops", is_kind(UNICAST, 1), SYN),
        ("passes", is_kind(MULTICAST, 1), SYN),
        ("drops", is_kind(BROADCAST, 1), SYN._replace(source="0.0.0.1")),
        ("drops", is_kind(MULTICAST, 1), SYN._replace(source="224.0.0.1")),
        ("drops", is_kind(LOCAL, 2 | 8), SYN),
        ("drops", is_kind(UNICAST, 2 | 8), SYN._replace(target="10.77.0.2")),  # another interface's
        ("passes", is_kind(LOCAL, 1 | 8), SYN),
        ("unclear", is_kind(UNICAST, 2 | 16), SYN),
        ("unclear", [chooses(2), compares(bytes(4)), DROP], SYN),
        ("passes", [chooses(2, 1), compares(bytes(4)), DROP], SYN),
        ("drops", [chooses(0), compares(bytes(4)), DROP], SYN),
    ],
)  # fmt: skip
def test_options_and_kinds_of_addresses_are_facts_of_a_packet(expected: Fate, rule: Any, packet: Any):
    assert fate(rule, packet=packet) == expected


def test_an_option_that_a_rule_has_written_is_not_known():
    writes = [
        immediate(1, b"\1\0"),
        Expression("exthdr", {7: number(1), 2: b"\2", 3: number(2), 4: number(2)}),
    ]
    asks = [option(2, 2, 2), compares(b"\x05\x78"), DROP]
    assert fate(writes, asks, packet=SYN) == "unclear"
    for match in (tcp_segment(0, 65535), routing_header()):
        assert fate(writes, [match, DROP], packet=OVER_IP6) == "unclear"


def test_a_fact_is_the_same_each_time_that_it_is_asked():
    """Whatever it is: who asks for the option and for its contrary lets nothing through."""
    absent = [option(3, 0, 1, flags=1), compares(b"\0"), DROP]
    present = [option(3, 0, 1, flags=1), compares(b"\1"), DROP]
    gates = Gates()
    walk = Walk(gates, ruleset(absent, present), Traveller(gates, "ip", arrives=True))
    walk.pass_hook("input")
    with Solver(gates) as solver:
        assert solver.is_possible(list(walk.switches))
        assert not solver.is_possible([walk.alive, *walk.switches])
        assert solver.is_possible([walk.alive])


def tcp_segment(least: int, most: int, *, inverted: bool = False) -> Expression:
    return xt("tcpmss", 0, struct.pack("=HHB3x", least, most, inverted))


def routing_header() -> Expression:
    return xt("rt", 0, bytes(16))


def kinds(source: int = 0, target: int = 0, flags: int = 0) -> Expression:
    return xt("addrtype", 1, struct.pack("=HHI", source, target, flags))


@pytest.mark.parametrize(
    ("expected", "match", "packet"),
    [
        ("drops", tcp_segment(1000, 1400), SYN),
        ("passes", tcp_segment(1, 536), SYN),
        ("passes", tcp_segment(536, 1), SYN),
        ("drops", tcp_segment(1, 536, inverted=True), SYN),
        ("passes", tcp_segment(1, 65535), SYN._replace(segment=None)),
        ("drops", tcp_segment(1, 65535, inverted=True), SYN._replace(segment=None)),
        ("passes", routing_header(), OVER_IP6),
        ("drops", kinds(target=1 << LOCAL), SYN),
        ("passes", kinds(target=1 << UNICAST | 1 << MULTICAST), SYN),
        ("drops", kinds(source=1 << UNICAST, target=1 << LOCAL), SYN),
        ("drops", kinds(source=1 << LOCAL, flags=1), SYN),
        ("unclear", kinds(target=1 << LOCAL, flags=4), SYN),
        ("drops", kinds(target=1 << LOCAL), OVER_IP6),
        ("drops", kinds(target=1 << LOCAL | 1 << UNICAST), OVER_IP6),
        ("passes", kinds(target=1 << MULTICAST), OVER_IP6),
        ("drops", kinds(source=1 << MULTICAST, flags=1), OVER_IP6),
        ("passes", kinds(source=1 << UNICAST), OVER_IP6._replace(source="::ffff:10.0.0.1")),
        ("unclear", kinds(target=1 << BROADCAST), OVER_IP6),
        ("passes", xt("conntrack", 3, conntrack(1, states=128)), SYN),
        ("drops", xt("conntrack", 3, conntrack(1, 1, states=64)), SYN),
        ("drops", xt("conntrack", 3, conntrack(1, states=8 | 128)), SYN),
        ("unclear", xt("owner", 1, struct.pack("=4I2B", 0, 0, 0, 0, 1, 0)), SYN),  # it is not sent
    ],
)  # fmt: skip
def test_what_iptables_asks_beside_fields_is_followed(expected: Fate, match: Expression, packet: Any):
    assert fate([match, DROP], packet=packet) == expected


def test_before_conntrack_it_is_not_known_whether_an_address_is_translated():
    rule = [xt("conntrack", 3, conntrack(1, states=128)), DROP]
    assert fate(rule, hook="prerouting", priority=-300, packet=SYN) == "unclear"


@pytest.mark.parametrize(
    ("asked", "inverted", "user", "group", "has_socket", "is_meant"),
    [
        (1, 0, 1005, 7, True, True),
        (1, 0, 999, 7, True, False),
        (1, 1, 999, 7, True, True),
        (3, 0, 1005, 50, True, True),
        (3, 0, 1005, 51, True, False),
        (2, 0, 0, 50, True, True),
        (1, 0, 1005, 50, False, False),
        (1, 1, 1005, 50, False, True),
        (3, 1, 1005, 50, False, False),
    ],
)
def test_iptables_asks_whose_socket_it_is(asked, inverted, user, group, has_socket, is_meant):
    rule = [xt("owner", 1, struct.pack("=4I2B2x", 1000, 1010, 50, 50, asked, inverted)), DROP]
    gates = Gates()
    walk = Walk(gates, ruleset(rule, hook="output"), Traveller(gates, "ip", arrives=False))
    walk.pass_hook("output")
    at = walk.start
    who = [gates.equal(at.user, user.to_bytes(4, ORDER)), gates.equal(at.group, group.to_bytes(4, ORDER))]
    known = [*who, at.has_socket if has_socket else -at.has_socket, *walk.switches]
    with Solver(gates) as solver:
        assert solver.is_possible([*known, walk.alive]) is not is_meant
        assert solver.is_possible([*known, -walk.alive]) is is_meant


def test_groups_of_a_program_beside_its_first_are_not_known():
    rule = [xt("owner", 1, struct.pack("=4I2B2x", 0, 0, 50, 50, 2 | 8, 0)), DROP]
    gates = Gates()
    walk = Walk(gates, ruleset(rule, hook="output"), Traveller(gates, "ip", arrives=False))
    walk.pass_hook("output")
    assert set(walk.unknowns.doubts) & set(gates.list_cone([walk.alive]))


RULES = tuple(
    PolicyRule(priority=priority, action="lookup", table=table)
    for priority, table in ((0, 255), (32766, 254), (32767, 253))
)


def tables(*routes: TableRoute, rules: tuple[PolicyRule, ...] = RULES, **more: Any) -> Any:
    found = RoutingTables(rules, routes, **more)
    return {"ip": found, "ip6": found}


def route(network: str, interface: str | None = "eth0", **more: Any) -> TableRoute:
    return TableRoute(network=network, interface=interface, **more)


def mark_rule(table: int = 9, **more: Any) -> tuple[PolicyRule, ...]:
    rule: dict[str, Any] = {"priority": 5, "action": "lookup", "table": table, "mark": 4, "mask": 0xFF}
    return (PolicyRule(**(rule | more)), *RULES)


SAME, ELSE = route("192.0.2.0/24"), route("192.0.2.0/24", "eth1")
OTHER_TABLE = route("192.0.2.0/24", table=9)
MARKED = [immediate(1, (4).to_bytes(4, ORDER)), Expression("meta", {2: number(3), 3: number(1)})]
BACK, BACK_BY_MARK = 1 | 8 | 32, 1 | 4 | 8 | 32
UNSET = SYN._replace(source="0.0.0.1", target="255.255.255.255")
OF_LINK = OVER_IP6._replace(source="fe80::9")
LINKS = (route("fe80::/64"), route("fe80::/64", "eth1"))


@pytest.mark.parametrize(
    ("is_back", "routes", "packet"),
    [
        (True, tables(SAME), SYN),
        (False, tables(ELSE), SYN),
        (False, tables(), SYN),
        (True, tables(ELSE, route("192.0.2.0/28")), SYN),
        (False, tables(SAME, route("192.0.2.0/28", "eth1")), SYN),
        (True, tables(route("0.0.0.0/0")), SYN),
        (False, tables(SAME, route("192.0.2.1/32", kind="local", table=255)), SYN),
        (True, tables(route("192.0.2.1/32", kind="broadcast", table=255)), SYN),
        (False, tables(SAME, route("192.0.2.0/25", None, kind="blackhole")), SYN),
        (True, tables(SAME, route("192.0.2.0/25", None, kind="throw", table=255)), SYN),
        (True, tables(replace(ELSE, metric=5), SAME), SYN),
        (None, tables(SAME, ELSE), SYN),  # which is taken, is not known
        (None, tables(route("192.0.2.0/24", None)), SYN),
        (None, tables(replace(SAME, nexthop=3)), SYN),
        (None, tables(SAME, is_whole=False), SYN),
        (None, {}, SYN),
        (None, tables(*[SAME] * (MOST_ROUTES + 1)), SYN),
        (True, tables(), UNSET),
        (False, tables(), UNSET._replace(target="192.0.2.2")),
        (True, tables(ELSE, OTHER_TABLE, rules=mark_rule(mark=0, mask=0)), SYN),
        (False, tables(ELSE, OTHER_TABLE, rules=mark_rule()), SYN),  # it has no mark
        (True, tables(ELSE, OTHER_TABLE, rules=mark_rule(is_inverted=True)), SYN),
        (False, tables(ELSE, OTHER_TABLE, rules=mark_rule(mask=0, mark=0, suppress=24)), SYN),
        (False, tables(SAME, rules=mark_rule(mark=0, mask=0, action="unreachable")), SYN),
        (True, tables(SAME, rules=mark_rule(mark=0, mask=0, action="nop")), SYN),
        (None, tables(SAME, rules=mark_rule(mark=0, mask=0, action="goto", target=9)), SYN),
        (None, tables(ELSE, OTHER_TABLE, rules=mark_rule(source="192.0.2.0/24")), SYN),
        (True, tables(route("2001:db8::/32")), OVER_IP6),
        (False, tables(route("2001:db8::/32"), route("2001:db8::9/128", kind="anycast")), OVER_IP6),
        (True, tables(*LINKS), OF_LINK),
        (False, tables(LINKS[1]), OF_LINK),
        (False, tables(*LINKS, route("fe80::9/128", kind="local")), OF_LINK),
        (None, tables(*LINKS, replace(LINKS[1], nexthop=2)), OF_LINK),
    ],
)  # fmt: skip
@pytest.mark.parametrize("asks", ["fib", "rpfilter"])
def test_the_way_back_is_known_by_the_routes(is_back, routes, packet, asks):
    drops = [fib(1, BACK), compares(b"\0"), DROP] if asks == "fib" else [xt("rpfilter", 0, b"\x08"), DROP]
    kinds_of_routes = {each.kind for found in routes.values() for each in found.routes}
    if asks == "rpfilter" and "broadcast" in kinds_of_routes:
        is_back = False  # it takes no other kind than unicast
    named = {"hook": "prerouting", "priority": -150, "routes": routes}
    expected = "unclear" if is_back is None else "passes" if is_back else "drops"
    assert fate(drops, packet=packet, **named) == expected
    assert asks_routes(KernelRule("inet", "t", "c", 1, tuple(drops)))


@pytest.mark.parametrize(
    ("expected", "rules"),
    [
        ("passes", [MARKED, [fib(1, BACK_BY_MARK), compares(b"\0"), DROP]]),
        ("drops", [[fib(1, BACK_BY_MARK), compares(b"\0"), DROP]]),
        ("drops", [MARKED, [fib(1, BACK), compares(b"\0"), DROP]]),
        ("passes", [MARKED, [xt("rpfilter", 0, b"\x0a"), DROP]]),
        ("drops", [MARKED, [fib(1, BACK_BY_MARK & ~32), compares((2).to_bytes(4, ORDER)), DROP]]),
        ("drops", [MARKED, [fib(2, BACK_BY_MARK & ~32), compares(b"eth0".ljust(16, b"\0")), DROP]]),
        ("passes", [[fib(2, BACK & ~32), compares(b"eth0".ljust(16, b"\0")), DROP]]),
        ("passes", [[fib(1, 2 | 8 | 32), compares(b"\1"), DROP]]),  # of the target, which is here
        ("unclear", [[xt("rpfilter", 0, b"\1"), DROP]]),
        ("unclear", [[fib(1, 1), compares(bytes(4)), DROP]]),
    ],
)  # fmt: skip
def test_the_way_back_is_asked_with_a_mark_and_without(expected: Fate, rules: list[list[Expression]]):
    here = route("192.0.2.2/32", kind="local", table=255)
    named = {
        "hook": "prerouting",
        "priority": -150,
        "routes": tables(ELSE, OTHER_TABLE, here, rules=mark_rule()),
    }
    assert fate(*rules, packet=SYN, **named) == expected


def test_of_what_is_sent_nobody_asks_for_the_way_back():
    gates = Gates()
    rules = ([fib(1, BACK), compares(b"\0"), DROP], [fib(3, 2 | 8), compares(bytes(4)), DROP])
    walk = Walk(gates, ruleset(*rules, hook="output", routes=tables()), Traveller(gates, "ip", arrives=False))
    walk.pass_hook("output")
    assert set(walk.unknowns.doubts) & set(gates.list_cone([walk.alive]))


def test_what_comes_by_loopback_is_on_its_way_back_before_it_is_routed():
    for hook, priority in (("prerouting", -150), ("input", 0)):
        gates = Gates()
        drops = [fib(1, BACK), compares(b"\0"), DROP]
        walk = Walk(gates, ruleset(drops, hook=hook, priority=priority, routes=tables()),
                    Traveller(gates, "ip", arrives=True))  # fmt: skip
        walk.pass_hook(hook)
        with Solver(gates) as solver:
            may_drop = solver.is_possible([walk.start.is_looped, -walk.alive, *walk.switches])
        assert may_drop is (hook == "input")


OWN = {
    "eth0": OwnInterface(None, True, ("192.0.2.2/24", "2001:db8::2/64")),
    "qmesh0": OwnInterface("wireguard", False, ("10.77.0.2/20",)),
}
PORTS_ALONE = [Expression("meta", {1: number(1), 2: number(16)}), compares(b"\x06", operator=1), DROP]


@pytest.mark.parametrize(
    ("rule", "own", "answer"),
    [
        (is_kind(LOCAL), OWN, "not proved"),
        (is_kind(LOCAL, 2 | 8), OWN, "refuted"),  # at the address of another interface
        (is_kind(UNICAST, 2 | 8), OWN, "refuted"),
        (is_kind(UNICAST, 1), OWN, "refuted"),  # by a program of this machine
        (is_kind(LOCAL, 1), OWN, "refuted"),
        (is_kind(LOCAL, 1), {}, "refuted"),
        (is_kind(LOCAL, 2 | 8), {}, "refuted"),
        ([option(2, 0, 1, flags=1), compares(b"\1"), DROP], OWN, "refuted"),
        ([option(2, 0, 1, flags=1), compares(b"\0"), DROP], OWN, "not proved"),
        ([option(2, 2, 2), compares(b"\x05\x78"), DROP], OWN, "refuted"),
    ],
)
def test_a_packet_that_is_shown_is_of_an_ordinary_kind(rule, own, answer):
    """From one machine to one, at an address that the interface has, without options."""
    empty = replace(read_prover_recordings()["advice"].ruleset, chains={}, rules={}, sets={})
    chain = ListedChain(family="inet", table="u", name="c", hook="input")
    listed = tuple(KernelRule("inet", "u", "c", 5, tuple(each)) for each in (PORTS_ALONE, rule))
    last = KernelRule(
        "inet",
        "u",
        "c",
        6,
        (Expression("meta", {1: number(1), 2: number(15)}), compares(b"\x0a"), verdict(0)),
    )
    found: ProvedRuleset = replace(
        empty, chains={("inet", "u"): {"c": chain}}, rules={("inet", "u", "c"): (*listed, last)}
    )
    cases = [each for each in build_cases(found, GUARDS["worker IPv4"]) if each.claim == "outside"]
    ((shown, *_), *_) = decide_each(cases, GUARDS["worker IPv4"], {}, (), own)
    assert shown.answer == answer
