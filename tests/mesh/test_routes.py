"""Which way packets go by rules and tables, and what is said of those that do not go into the tunnel."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest

from qmesh.mesh.routes.detours import (
    RouteAnswer,
    RoutingTables,
    SentProbe,
    TunnelPlace,
    build_own_route,
    describe_machines,
    find_expected_detour,
    group_detours,
    is_answer_right,
)
from qmesh.mesh.routes.discards import find_discard
from qmesh.mesh.routes.lookup import RouteLookup, RouteVerdict, SentPacket, is_rule_met
from qmesh.mesh.routes.overlaps import list_overlaps
from qmesh.mesh.routes.tables import PolicyRule, TableRoute, describe_rule, describe_table_route

TUNNEL = TunnelPlace("qmesh0", "10.77.0.0/20", "10.77.0.2")
TUNNEL_6 = TunnelPlace("qmesh0", "fd77::/64", "fd77::2")
TO = SentPacket("10.77.0.5")
BOUND = SentPacket("10.77.0.5", "10.77.0.2", 0, 40000)

FIRST = PolicyRule(priority=0, action="lookup", table=255)
LAST = PolicyRule(priority=32766, action="lookup", table=254)


def rule(priority: int = 100, action: Any = "lookup", **named: Any) -> PolicyRule:
    return PolicyRule(priority=priority, action=action, **{"table": 52, **named})


def route(network: str, interface: str | None = "eth0", **named: Any) -> TableRoute:
    return TableRoute(network=network, interface=interface, **named)


OWN = build_own_route(TUNNEL)


def find_verdict(
    rules: Iterable[PolicyRule], routes: Iterable[TableRoute], packet: SentPacket
) -> RouteVerdict:
    return RouteLookup(rules, routes).find_verdict(packet)


@pytest.mark.parametrize(
    ("conditions", "packet", "is_met"),
    [
        ({}, TO, True),
        ({"is_inverted": True}, TO, False),
        ({"destination": "10.77.0.0/24"}, TO, True),
        ({"destination": "10.78.0.0/24"}, TO, False),
        ({"destination": "10.78.0.0/24", "is_inverted": True}, TO, True),
        ({"source": "10.77.0.2/32"}, BOUND, True),
        ({"source": "10.77.0.2/32"}, TO, False),
        ({"mark": 5, "mask": 0xFFFFFFFF}, TO, False),
        ({"mark": 0xCA6C, "mask": 0xFFFFFFFF, "is_inverted": True}, TO, True),
        ({"mark": 0, "mask": 0xFF}, TO, True),
        ({"incoming": "lo"}, TO, True),
        ({"incoming": "eth0"}, TO, False),
        ({"outgoing": "eth0"}, TO, False),
        ({"users": (0, 0)}, TO, True),
        ({"users": (1000, 2000)}, TO, False),
        ({"protocol": 6}, BOUND, True),
        ({"protocol": 6}, TO, False),
        ({"protocol": 17}, BOUND, False),
        ({"ports": (40000, 40003)}, BOUND, True),
        ({"ports": (22, 22)}, BOUND, False),
        ({"ports": (22, 22)}, TO, False),
        ({"source_ports": (22, 22)}, BOUND, False),
        ({"is_other": True}, TO, False),
    ],
)
def test_a_rule_is_met_by_the_packets_that_it_is_for(conditions, packet, is_met):
    assert is_rule_met(rule(**conditions), packet) is is_met


def test_the_nearest_route_of_the_first_table_that_has_one_counts():
    wide, near = route("10.0.0.0/8"), route("10.77.0.4/30", metric=5)
    rules = (FIRST, LAST)
    assert find_verdict(rules, (wide, OWN, near), TO).route == near
    assert find_verdict(rules, (wide, OWN), TO).route == OWN
    assert find_verdict(rules, (route("10.77.0.4/30", "eth1", metric=4), near), TO).route != near
    assert find_verdict(rules, (route("10.77.0.4/30", metric=5, interface="eth1"), near), TO).route != near
    assert find_verdict(rules, (), TO) == find_verdict((), (OWN,), TO)
    assert not find_verdict((), (OWN,), TO).is_sent


def test_rules_are_passed_over_jumped_over_and_ended_at():
    away, default = route("10.77.0.0/16", table=52), route("0.0.0.0/0", table=52)
    assert find_verdict((rule(), LAST), (away, OWN), TO).route == away
    assert find_verdict((rule(suppress=16), LAST), (away, OWN), TO).route == OWN
    assert find_verdict((rule(suppress=0), LAST), (default, OWN), TO).route == OWN
    assert find_verdict((rule(), LAST), (route("192.0.2.0/24", table=52), OWN), TO).route == OWN
    jump = rule(50, "goto", target=32766)
    assert find_verdict((jump, rule(), LAST), (away, OWN), TO).route == OWN
    assert find_verdict((rule(50, "nop"), LAST), (OWN,), TO).route == OWN
    throw = route("10.77.0.0/20", None, kind="throw", table=52)
    assert find_verdict((rule(), LAST), (throw, away, OWN), TO).route == OWN
    black = route("0.0.0.0/0", None, kind="blackhole", table=52)
    verdict = find_verdict((rule(suppress=0), LAST), (black, OWN), TO)
    assert verdict.route == black  # an end is an end
    assert not verdict.is_sent
    verdict = find_verdict((rule(action="prohibit"), LAST), (OWN,), TO)
    assert (verdict.rule, verdict.route, verdict.is_sent) == (rule(action="prohibit"), None, False)


@pytest.mark.parametrize(
    ("answer", "packet", "is_right"),
    [
        (RouteAnswer(interface="qmesh0", source="10.77.0.2"), TO, True),
        (RouteAnswer(interface="qmesh0"), TO, True),
        (RouteAnswer(interface="qmesh0", source="192.0.2.1"), TO, False),
        (RouteAnswer(interface="qmesh0", source="192.0.2.1"), BOUND, True),
        (RouteAnswer(interface="eth0", source="10.77.0.2"), TO, False),
        (RouteAnswer(interface="qmesh0", is_local=True), TO, False),
        (RouteAnswer(error="invalid argument"), TO, False),
    ],
)
def test_an_answer_is_right_where_the_packet_goes_into_the_tunnel(answer, packet, is_right):
    assert is_answer_right(answer, packet, TUNNEL) is is_right


AWAY = RouteAnswer(interface="eth0", source="192.168.7.5", table=254)
LOST = RouteAnswer(error="invalid argument")
ADDRESSES = (("10.77.4.1/20", "eth1"), ("10.77.0.5/32", "eth2"), ("10.77.0.1/24", "eth0"))
RULE_COMMAND = "ip rule add to 10.77.0.0/20 lookup main priority"

EXPLAINED: dict[str, tuple[RoutingTables, RouteAnswer, str, str]] = {
    "a nearer route": (
        RoutingTables((FIRST, LAST), (OWN, route("10.77.0.5/32", metric=9))),
        AWAY,
        "they leave by eth0, by the route `10.77.0.5/32 dev eth0 metric 9` of table main",
        "ip route delete 10.77.0.5/32 dev eth0 metric 9",
    ),
    "a route by a router": (
        RoutingTables((FIRST, LAST), (OWN, route("10.77.0.4/30", gateway="192.168.7.1"))),
        AWAY,
        "they leave by eth0, by the route `10.77.0.4/30 via 192.168.7.1 dev eth0` of table main",
        "ip route delete 10.77.0.4/30 via 192.168.7.1 dev eth0",
    ),
    "a black hole": (
        RoutingTables((FIRST, LAST), (OWN, route("10.77.0.5/32", None, kind="blackhole"))),
        LOST,
        "they are not sent: invalid argument, by the route `blackhole 10.77.0.5/32` of table main",
        "ip route delete blackhole 10.77.0.5/32",
    ),
    "another interface's network": (
        RoutingTables((FIRST, LAST), (route("10.77.0.0/20", "eth1", is_kernels=True), OWN), ADDRESSES),
        RouteAnswer(interface="eth1"),
        "they leave by eth1, by the route `10.77.0.0/20 dev eth1` of table main",
        "ip address delete 10.77.4.1/20 dev eth1",
    ),
    "an own address": (
        RoutingTables(
            (FIRST, LAST),
            (route("10.77.0.5/32", "eth2", kind="local", table=255, is_kernels=True), OWN),
            ADDRESSES,
        ),
        RouteAnswer(interface="lo", is_local=True, table=255),
        (
            "they stay on this machine, as if the address were its own, by the route"
            " `local 10.77.0.5/32 dev eth2` of table local"
        ),
        "ip address delete 10.77.0.5/32 dev eth2",
    ),
    "a local route of nobody's": (
        RoutingTables((FIRST, LAST), (route("10.77.0.0/24", "lo", kind="local", table=255), OWN), ADDRESSES),
        RouteAnswer(interface="lo", is_local=True),
        (
            "they stay on this machine, as if the address were its own, by the route"
            " `local 10.77.0.0/24 dev lo` of table local"
        ),
        "ip route delete local 10.77.0.0/24 dev lo table local",
    ),
    "a VPN's table": (
        RoutingTables((FIRST, rule(5270), LAST), (OWN, route("10.77.0.0/16", "tailscale0", table=52))),
        RouteAnswer(interface="tailscale0", table=52),
        (
            "they leave by tailscale0, by rule 5270 (`from all lookup 52`) and the route"
            " `10.77.0.0/16 dev tailscale0`"
        ),
        f"{RULE_COMMAND} 5269",
    ),
    "a VPN's default route": (
        RoutingTables(
            (FIRST, rule(9, mark=0xCA6C, mask=0xFFFFFFFF, is_inverted=True), LAST),
            (OWN, route("0.0.0.0/0", "wg0", table=52)),
        ),
        RouteAnswer(interface="wg0", table=52),
        (
            "they leave by wg0, by rule 9 (`not from all fwmark 0xca6c lookup 52`) and the route"
            " `default dev wg0`"
        ),
        f"{RULE_COMMAND} 8",
    ),
    "behind a jump": (
        RoutingTables(
            (FIRST, rule(7, "goto", target=100), rule(100), LAST), (OWN, route("0.0.0.0/0", table=52))
        ),
        RouteAnswer(interface="eth0", table=52),
        "they leave by eth0, by rule 100 (`from all lookup 52`) and the route `default dev eth0`",
        f"{RULE_COMMAND} 6",
    ),
    "a rule that ends": (
        RoutingTables((FIRST, rule(action="unreachable", destination="10.77.0.0/16"), LAST), (OWN,)),
        RouteAnswer(error="network is unreachable"),
        "they are not sent: network is unreachable, by rule 100 (`from all to 10.77.0.0/16 unreachable`)",
        f"{RULE_COMMAND} 99",
    ),
    "a rule before which there is none": (
        RoutingTables((rule(0, "prohibit"), LAST), (OWN,)),
        RouteAnswer(error="permission denied"),
        "they are not sent: permission denied, by rule 0 (`from all prohibit`)",
        "ip rule delete from all prohibit priority 0",
    ),
    "a table before which there is none": (
        RoutingTables((rule(0), LAST), (OWN, route("0.0.0.0/0", table=52))),
        RouteAnswer(interface="eth0", table=52),
        "they leave by eth0, by rule 0 (`from all lookup 52`) and the route `default dev eth0`",
        "ip route delete default dev eth0 table 52",
    ),
    "no rule for the main table": (
        RoutingTables((FIRST,), (OWN,)),
        RouteAnswer(error="network is unreachable"),
        "no rule leads to a route for them (they are not sent: network is unreachable)",
        "ip rule add lookup main priority 32766",
    ),
    "a tunnel's route in another table": (
        RoutingTables((FIRST, rule(), LAST), (OWN, route("10.77.0.5/32", "qmesh0", table=52))),
        RouteAnswer(interface="qmesh0", source="192.0.2.1", table=52),
        (
            "they have 192.0.2.1 as source, which the other end drops, by rule 100"
            " (`from all lookup 52`) and the route `10.77.0.5/32 dev qmesh0`"
        ),
        f"{RULE_COMMAND} 99",
    ),
    "the tunnel's own route": (
        RoutingTables((FIRST, LAST), (OWN,)),
        RouteAnswer(interface="qmesh0", source="192.0.2.1"),
        (
            "they have 192.0.2.1 as source, which the other end drops, by the route"
            " `10.77.0.0/20 dev qmesh0` of table main"
        ),
        "qmesh apply",
    ),
}


@pytest.mark.parametrize(("tables", "answer", "reason", "cure"), EXPLAINED.values(), ids=EXPLAINED)
def test_what_sends_packets_elsewhere_is_named_with_the_command(tables, answer, reason, cure):
    (detour,) = group_detours([SentProbe("b", TO, answer)], tables, TUNNEL)
    assert (detour.machines, detour.address) == (("b",), "10.77.0.5")
    assert (detour.reason, detour.cure) == (reason, cure)


@pytest.mark.parametrize(
    ("tables", "answer", "said"),
    [
        (None, AWAY, "they leave by eth0"),
        (RoutingTables((FIRST, LAST), (OWN,)), LOST, "they are not sent: invalid argument"),
        (RoutingTables((rule(action="prohibit"),), (OWN,)), AWAY, "they leave by eth0"),
        (RoutingTables((FIRST, rule(), LAST), (route("10.0.0.0/8", table=52),)), AWAY, "they leave by eth0"),
        (RoutingTables((), ()), RouteAnswer(), "they leave by another interface"),
    ],
)
def test_where_our_walk_is_not_the_kernels_its_word_is_told(tables, answer, said):
    (detour,) = group_detours([SentProbe("b", TO, answer)], tables, TUNNEL)
    assert detour.reason == f"the kernel says: {said}"
    assert "`ip route get 10.77.0.5`" in detour.cure
    more = [SentProbe("b", TO, answer), SentProbe("c", SentPacket("10.77.0.6"), answer)]
    (alike,) = group_detours(more, tables, TUNNEL)
    assert (alike.machines, alike.reason, alike.cure) == (("b", "c"), detour.reason, detour.cure)


OURS = SentPacket("10.77.0.2")
LATE = PolicyRule(priority=32800, action="lookup", table=255)


@pytest.mark.parametrize(
    ("rules", "said"),
    [((LAST, LATE), "rule 32766 (`from all lookup main`) comes before it"), ((), "no rule leads to it")],
)
def test_packets_for_this_machine_that_do_not_stay_here_are_named(rules, said):
    """As where the local table's rule was moved: then nothing that comes arrives, not WireGuard's either."""
    answer = RouteAnswer(interface="qmesh0", table=254)
    assert not is_answer_right(answer, OURS, TUNNEL)
    assert is_answer_right(RouteAnswer(interface="lo", is_local=True), OURS, TUNNEL)
    local = route("10.77.0.2/32", "qmesh0", kind="local", table=255)
    (detour,) = group_detours([SentProbe("c", OURS, answer)], RoutingTables(rules, (OWN, local)), TUNNEL)
    assert said in detour.reason
    assert detour.cure == "ip rule add lookup local priority 0"
    (detour,) = group_detours([SentProbe("c", OURS, answer)], None, TUNNEL)
    assert detour.cure == "ip rule add lookup local priority 0"


def test_packets_that_go_astray_for_one_reason_are_one_detour():
    tables = RoutingTables((FIRST, LAST), (OWN, route("10.77.0.4/30"), route("10.77.0.9/32", "eth1")))
    probes = [
        SentProbe(name, SentPacket(f"10.77.0.{last}", source), msgspec.structs.replace(AWAY, interface=by))
        for name, last, by in (("b", 5, "eth0"), ("c", 6, "eth0"), ("d", 9, "eth1"))
        for source in (None, "10.77.0.2")
    ]
    found = group_detours(probes, tables, TUNNEL)
    assert [(each.machines, each.address) for each in found] == [
        (("b", "c"), "10.77.0.5"),
        (("d",), "10.77.0.9"),
    ]
    assert describe_machines(("b", "c")) == "b, c"
    assert describe_machines(tuple("abcde")) == "a, b, c and 2 more"


def test_a_route_is_parsed_once_however_many_packets_go_astray(monkeypatch):
    """Parsed for each packet, a thousand routes and as many members took ten seconds."""
    parsed: Counter[str] = Counter()
    parse = ipaddress.ip_network

    def count(text: str) -> Any:
        parsed[text] += 1
        return parse(text)

    monkeypatch.setattr(ipaddress, "ip_network", count)
    near = tuple(route(f"10.77.{number}.0/24", table=77) for number in range(16))
    tables = RoutingTables((FIRST, rule(), LAST), (OWN, route("0.0.0.0/0", table=52), *near))
    probes = [SentProbe("b", SentPacket(f"10.77.0.{last}"), AWAY) for last in range(3, 250)]
    assert len(group_detours(probes, tables, TUNNEL)) == 1
    assert find_expected_detour({f"m{last}": f"10.77.0.{last}" for last in range(3, 250)}, tables, TUNNEL)
    assert {parsed[each.network] for each in near} == {2}


def test_the_commands_of_ipv6_are_its_own():
    own = build_own_route(TUNNEL_6)
    packet = SentPacket("fd77::5")
    tables = RoutingTables((FIRST, rule(5270), LAST), (own, route("fd77::/48", "tailscale0", table=52)))
    probe = SentProbe("b", packet, RouteAnswer(interface="tailscale0", table=52))
    (detour,) = group_detours([probe], tables, TUNNEL_6)
    assert detour.cure == "ip -6 rule add to fd77::/64 lookup main priority 5269"
    (detour,) = group_detours([probe], None, TUNNEL_6)
    assert detour.cure.startswith("`ip -6 route get fd77::5` and `ip -6 rule` show why")


MEMBERS = {"control": "10.77.0.1", "c": "10.77.0.3"}


@pytest.mark.parametrize(
    ("tables", "reason"),
    [
        (RoutingTables((FIRST, LAST), ()), None),
        (RoutingTables((FIRST, LAST), (route("10.0.0.0/8"), route("10.77.4.0/24"))), None),
        # An interface of that name is about to be made again.
        (RoutingTables((FIRST, LAST), (route("10.77.0.1/32", "qmesh0"),)), None),
        (RoutingTables((FIRST, LAST), (route("10.77.0.3/32"),)), "they leave by eth0, by the route"),
        (RoutingTables((FIRST, LAST), (route("10.77.0.0/20"),)), "they leave by eth0, by the route"),
        (
            RoutingTables((FIRST, LAST), (route("10.77.0.1/32", None, kind="unreachable"),)),
            "they are not sent: no way, by the route",
        ),
        (
            RoutingTables((FIRST, rule(source="10.77.0.2/32"), LAST), (route("0.0.0.0/0", table=52),)),
            "rule 100",
        ),
        (RoutingTables((FIRST,), ()), "no rule leads to a route"),
        (
            RoutingTables((FIRST, LAST), (route("10.77.0.1/32", "eth0", kind="local", table=255),)),
            "they stay on this machine",
        ),
    ],
)
def test_a_detour_is_foreseen_before_the_tunnel_is_there(tables, reason):
    detour = find_expected_detour(MEMBERS, tables, TUNNEL)
    assert (detour is None) == (reason is None)
    if detour is not None and reason is not None:
        assert reason in detour.reason


def test_what_else_uses_the_network_is_harmful_or_told_only():
    tables = RoutingTables(
        (FIRST, LAST),
        (
            OWN,
            route("10.0.0.0/8"),
            route("0.0.0.0/0"),
            route("10.77.4.0/24", table=52),
            route("10.77.4.0/24"),
            route("10.77.0.0/20", "eth1", is_kernels=True),
        ),
        ADDRESSES,
    )
    resolvers = ("9.9.9.9", "10.77.0.1", "10.77.0.53", "fd77::1")
    found = list(list_overlaps(tables, resolvers, set(MEMBERS.values()), TUNNEL))
    assert [(each.is_harmful, each.tunnel) for each in found] == [
        (True, "10.77.0.0/20"),
        (False, "10.77.0.0/20"),
        (True, "10.77.0.0/20"),
    ]
    assert "the DNS server 10.77.0.53" in found[0].reason
    assert "`10.77.4.0/24 dev eth0` overlaps with it; nothing for a member goes there" in found[1].reason
    assert "after the next start" in found[2].reason
    assert found[2].cure == "ip address delete 10.77.4.1/20 dev eth1"


DEFAULT = route("0.0.0.0/0", gateway="192.0.2.1")


@pytest.mark.parametrize(
    ("rules", "routes", "reason", "cure"),
    [
        ([FIRST, LAST], [DEFAULT], None, None),
        ([FIRST, LAST], [], None, None),
        ([FIRST, LAST], [route("203.0.113.9/32", None, kind="unreachable", is_kernels=True)], None, None),
        (
            [FIRST, LAST],
            [DEFAULT, route("203.0.113.9/32", None, kind="unreachable")],
            "the route `unreachable 203.0.113.9/32` of table main discards what is sent to 203.0.113.9",
            "ip route delete unreachable 203.0.113.9/32",
        ),
        (
            [FIRST, rule(90), LAST],
            [DEFAULT, route("203.0.113.0/24", None, kind="blackhole", table=52, metric=5)],
            "the route `blackhole 203.0.113.0/24 metric 5` of table 52 discards what is sent to 203.0.113.9",
            "ip route delete blackhole 203.0.113.0/24 metric 5 table 52",
        ),
        (
            [FIRST, rule(70, "prohibit", destination="203.0.113.9/32"), LAST],
            [DEFAULT],
            "rule 70 (`from all to 203.0.113.9/32 prohibit`) discards what is sent to 203.0.113.9",
            "ip rule add to 203.0.113.9 lookup main priority 69",
        ),
        (
            [rule(0, "blackhole", destination="203.0.113.9/32")],
            [DEFAULT],
            "rule 0 (`from all to 203.0.113.9/32 blackhole`) discards what is sent to 203.0.113.9",
            "ip rule delete from all to 203.0.113.9/32 blackhole priority 0",
        ),
    ],
)
def test_what_of_this_machine_discards_packets_is_named_with_the_command(rules, routes, reason, cure):
    found = find_discard("203.0.113.9", RoutingTables(tuple(rules), tuple(routes)))
    assert (found and found.reason, found and found.cure) == (reason, cure)


def test_a_discarded_way_of_ipv6_has_the_command_of_ipv6():
    tables = RoutingTables((LAST,), (route("2001:db8::/32", None, kind="blackhole"),))
    found = find_discard("2001:db8::9", tables)
    assert found is not None
    assert found.cure == "ip -6 route delete blackhole 2001:db8::/32"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (rule(), "from all lookup 52"),
        (rule(table=254, suppress=0), "from all lookup main suppress_prefixlength 0"),
        (
            rule(table=253, mark=5, mask=0xFF, incoming="lo", outgoing="e"),
            "from all fwmark 0x5/0xff iif lo oif e lookup default",
        ),
        (
            rule(users=(0, 9), ports=(1, 2), source_ports=(3, 3), protocol=6),
            "from all uidrange 0-9 sport 3-3 dport 1-2 ipproto 6 lookup 52",
        ),
        (rule(action="goto", target=9, source="10.0.0.0/8", is_inverted=True), "not from 10.0.0.0/8 goto 9"),
    ],
)
def test_a_rule_is_described_as_it_is_typed(given, words):
    assert describe_rule(given) == words


def test_a_route_by_a_nexthop_is_described_as_it_is_deleted():
    """Nothing else may be said of one whose way the nexthop says."""
    blackhole = route("10.77.0.2/32", "lo", kind="blackhole", metric=4, nexthop=7)
    assert describe_table_route(blackhole) == "10.77.0.2/32 nhid 7 metric 4"


def test_a_route_by_a_router_of_the_other_family_is_described_as_it_is_typed():
    assert (
        describe_table_route(route("10.0.0.0/8", gateway="fe80::1"))
        == "10.0.0.0/8 via inet6 fe80::1 dev eth0"
    )
