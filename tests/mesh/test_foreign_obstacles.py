"""Which packets a machine needs, and what cures each firewall that takes them."""

from __future__ import annotations

import functools
import json
import shlex
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from qmesh.mesh.foreign.obstacles import (
    Obstacle,
    build_forwarded_packet,
    build_translation_obstacle,
    find_obstacles,
    judge_packets,
)
from qmesh.mesh.foreign.packets import Packet, UnderlayRoute, list_path_errors, list_required_packets
from qmesh.mesh.foreign.rules import Chain, Evaluation, Outcome, Program, Rule, Table
from qmesh.mesh.state import Tunnel
from tests.support import factories
from tests.support.foreign_cases import DATAGRAM
from tests.support.foreign_rules import PlainRule

WAY = UnderlayRoute("eth0", "192.0.2.2", "192.0.2.1", 51820)


guard = functools.partial(factories.guard, kind="tun", ports=(40003, 40004))


def tunnel(address: str) -> Tunnel:
    return factories.tunnel(kind="tun", public_key=None, addresses=(f"{address}/20",))


def said(packets: Any) -> list[str]:
    return [
        f"{p.traffic} {p.protocol} {p.source}:{p.source_port} > {p.target}:{p.target_port}"
        f"{' answer' if p.is_reply else ' later' if p.is_later else ''}"
        for p in packets
    ]


def connection(asker: str, asked: str, own: str, protocol: str = "tcp") -> list[str]:
    """What is said of a connection's packets, by its ends."""
    forth, back = f"{asker} > {asked}", f"{asked} > {asker} answer"
    ways = ("out", "in") if asker.startswith(f"{own}:") else ("in", "out")
    return [
        f"tunnel {way} {protocol} {ends}"
        for way, ends in zip((*ways, ways[0]), (forth, back, f"{forth} later"), strict=True)
    ]


def test_what_a_worker_machine_needs() -> None:
    found = said(list_required_packets(guard(ports=(40003,)), tunnel("10.77.0.2"), (), (WAY,)))
    assert found == [
        "wireguard out udp 192.0.2.2:51820 > 192.0.2.1:51820",
        "wireguard in udp 192.0.2.1:51820 > 192.0.2.2:51820 answer",
        "wireguard out udp 192.0.2.2:51820 > 192.0.2.1:51820 later",
        *connection("10.77.0.1:32768", "10.77.0.2:40003", "10.77.0.2"),
        *connection("10.77.0.1:32768", "10.77.0.2:40003", "10.77.0.2", "udp"),
        *connection("10.77.0.2:32768", "10.77.0.1:51821", "10.77.0.2"),
    ]


def test_what_a_machine_needs_on_a_link_where_ipv6_discovers_neighbours() -> None:
    own, router = "2001:db8::12:3456", "fe80::1"
    ways = tuple(UnderlayRoute("eth0", own, f"2001:db8:9::{n}", 51820, router) for n in (1, 2))
    found = list(list_required_packets(guard(), tunnel("10.77.0.2"), (), ways))
    discovery = [each for each in found if each.protocol == "icmpv6"]
    assert [(each.traffic, each.source, each.target, each.icmp_type) for each in discovery] == [
        ("discovery out", own, "ff02::1:ff00:1", 135),
        ("discovery in", router, own, 136),
        ("discovery in", router, "ff02::1:ff12:3456", 135),
        ("discovery out", own, router, 136),
    ]
    assert (
        len(found)
        == len(discovery) + len(list(list_required_packets(guard(), tunnel("10.77.0.2"), (), ()))) + 6
    )


def test_what_the_control_node_needs() -> None:
    control = guard(role="control", ports=(40000,))
    found = said(list_required_packets(control, tunnel("10.77.0.1"), (("10.77.0.2", 40003),), (WAY,)))
    assert found == [
        "wireguard in udp 192.0.2.1:51820 > 192.0.2.2:51820",
        "wireguard out udp 192.0.2.2:51820 > 192.0.2.1:51820 answer",
        "wireguard in udp 192.0.2.1:51820 > 192.0.2.2:51820 later",
        *connection("10.77.0.2:32768", "10.77.0.1:51821", "10.77.0.1"),
        *connection("10.77.0.1:32768", "10.77.0.2:40003", "10.77.0.1"),
        *connection("10.77.0.1:32768", "10.77.0.2:40003", "10.77.0.1", "udp"),
        *(f"loopback {way} 10.77.0.1:32768 > 10.77.0.1:40000" for way in ("tcp", "tcp", "udp", "udp")),
    ]


def test_ports_that_are_closed_but_for_members_need_their_packets_over_tcp() -> None:
    further = {"own_ports": (6600,), "control_ports": (9100,), "mesh_ports": (5432,)}
    before = set(said(list_required_packets(guard(ports=(40003,)), tunnel("10.77.0.2"), (), (WAY,))))
    found = said(list_required_packets(guard(ports=(40003,), **further), tunnel("10.77.0.2"), (), (WAY,)))
    assert [each for each in found if each not in before] == [
        *connection("10.77.0.1:32768", "10.77.0.2:9100", "10.77.0.2"),
        *connection("10.77.0.1:32768", "10.77.0.2:5432", "10.77.0.2"),
    ]
    control = guard(role="control", ports=(40000,), own_ports=(6600,), mesh_ports=(5432,))
    found = said(list_required_packets(control, tunnel("10.77.0.1"), (("10.77.0.2", 40003),), (WAY,)))
    assert [each for each in found if "5432" in each or "6600" in each] == connection(
        "10.77.0.2:32768", "10.77.0.1:5432", "10.77.0.1"
    )


def test_a_packet_of_ipv6_is_one() -> None:
    packet = replace(DATAGRAM, source="2001:db8::1", target="2001:db8::2")
    assert (packet.family, packet.fields()["meta nfproto"]) == ("ip6", "ipv6")
    assert replace(DATAGRAM, iif="", oif="lo", traffic="loopback").fields()["meta oiftype"] == ("loopback",)
    assert replace(DATAGRAM, iif="", oif="eth0").remote == "192.0.2.2"


PACKETS: dict[str, Packet] = {
    "wireguard in": DATAGRAM,
    "wireguard out": replace(
        DATAGRAM, traffic="wireguard out", iif="", oif="eth0", source="192.0.2.2", target="192.0.2.1"
    ),
    "discovery in": Packet(
        traffic="discovery in", iif="eth0", protocol="icmpv6", source="fe80::1", source_port=0,
        target="ff02::1:ff00:2", target_port=0, icmp_type=135,
    ),
    "discovery out": Packet(
        traffic="discovery out", oif="eth0", protocol="icmpv6", source="fe80::2", source_port=0,
        target="fe80::1", target_port=0, icmp_type=136,
    ),
    **dict(
        zip(
            ("path errors in", "path errors in by IPv6"),
            list_path_errors(
                (WAY, UnderlayRoute("eth0", "2001:db8::2", "2001:db8::1", 51820), WAY),
                {"ip": "192.0.2.9", "ip6": "2001:db8::9"},
            ),
            strict=True,
        )
    ),
    "tunnel in": Packet(
        traffic="tunnel in", iif="qmesh0", protocol="tcp", source="10.77.0.1", source_port=32768,
        target="10.77.0.2", target_port=40003,
    ),
    "tunnel out": Packet(
        traffic="tunnel out", oif="qmesh0", protocol="tcp", source="10.77.0.2", source_port=40003,
        target="10.77.0.1", target_port=32768, is_reply=True,
    ),
}  # fmt: skip
EVERY = PlainRule("drop", verdict="drop", handle=7)


def under(
    traffic: str,
    *,
    hook: str = "",
    chain: str = "input",
    rule: Rule | None = EVERY,
    lasting: str | None = None,
    **named: Any,
) -> Obstacle:
    """What is said of one packet where a table drops it in a chain, or by its policy."""
    packet = PACKETS[traffic]
    hook = hook or ("input" if packet.iif else "output")
    base = Chain(
        name="base" if rule else chain,
        hook=hook,
        rules=(PlainRule("jump", "jump", chain),) if rule else (),
        drops=rule is None,
    )
    chains = {base.name: base}
    if rule:
        chains[chain] = Chain(name=chain, rules=(rule,))
    more: dict[str, Any] = {"program": "nft", "family": "inet", "name": "filter", **named}
    extra = more.pop("chains", {})
    (found,) = find_obstacles([Table(chains={**extra, **chains}, **more)], [packet], lasting)
    return found


def test_an_obstacle_names_place_rule_and_packets() -> None:
    found = under("wireguard in")
    assert (found.place, found.seen) == ("table inet filter chain input", "drop (handle 7)")
    assert found.wanted == "WireGuard's packets come in via eth0: UDP port 51820"
    assert found.is_certain
    assert under("tunnel in", rule=None).seen == "policy drop"
    assert under("tunnel out").wanted == "the mesh's packets go out via qmesh0: TCP port 40003"
    unclear = under("tunnel in", rule=PlainRule("odd", "unclear", truth=None))
    assert (unclear.seen, unclear.is_certain) == ("not understood: odd", False)


def test_what_wireguard_sends_has_its_mark() -> None:
    marked = replace(WAY, mark=0x8000)
    found = list(list_required_packets(guard(), tunnel("10.77.0.2"), (), (marked,)))
    assert {each.traffic: each.fields()["meta mark"] for each in found} == {
        "wireguard in": 0, "wireguard out": 0x8000, "tunnel in": 0, "tunnel out": 0,
    }  # fmt: skip


def test_what_routers_say_of_packets_that_are_too_large_is_a_packet_of_each_way() -> None:
    four, six = PACKETS["path errors in"], PACKETS["path errors in by IPv6"]
    assert (four.protocol, four.icmp_type, four.icmp_code, four.target) == ("icmp", 3, 4, "192.0.2.2")
    assert (six.protocol, six.icmp_type, six.icmp_code, six.target) == ("icmpv6", 2, 0, "2001:db8::2")
    assert four.fields()["ct state"] == "related"
    assert "ct direction" not in four.fields()  # that of the packet that it is about
    found = under("path errors in")
    assert found.wanted == ("what routers say of packets that are too large comes in via eth0: ICMP type 3")


UFW: dict[str, Any] = {
    "program": "iptables", "family": "ip", "chains": {"ufw-user-input": Chain(name="ufw-user-input")},
}  # fmt: skip
FIREWALLD: dict[str, Any] = {"name": "firewalld"}
LEGACY: dict[str, Any] = {"program": "iptables-legacy", "family": "ip6"}
PLAIN6: dict[str, Any] = {"program": "iptables", "family": "ip6"}
DISCOVERY_NFT = (
    "nft insert rule inet filter input icmpv6 type '{ nd-neighbor-solicit, nd-neighbor-advert }' accept"
)
RICH = """--add-rich-rule='rule family="ipv6" priority="-32768" icmp-type name="neighbour-{}" accept'"""
DISCOVERY_FIREWALLD = (
    f"firewall-cmd --permanent --zone=home {RICH.format('solicitation')} {RICH.format('advertisement')}"
    " && firewall-cmd --reload"
)
ERRORS_FIREWALLD = (
    'firewall-cmd --permanent --zone=home --add-rich-rule=\'rule family="{}" priority="-32768"'
    ' icmp-type name="{}" accept\' && firewall-cmd --reload'
)
DISCOVERY_IPTABLES = (
    "ip6tables -I {0} -p icmpv6 --icmpv6-type 135 -j ACCEPT"
    " && ip6tables -I {0} -p icmpv6 --icmpv6-type 136 -j ACCEPT"
)
PLAIN: dict[str, Any] = {"program": "iptables", "family": "ip"}
RELOADED = "  # add it to {} too, or a reload removes it"
IIFNAME = "nft insert rule inet filter input iifname qmesh0 accept"
THROUGH = "-i qmesh0 -j ACCEPT"


@pytest.mark.parametrize(
    ("traffic", "named", "cure"),
    [
        ("wireguard in", {}, "nft insert rule inet filter input udp dport 51820 accept"),
        ("wireguard out", {}, "nft insert rule inet filter input udp sport 51820 accept"),
        ("path errors in", {},
         "nft insert rule inet filter input icmp type destination-unreachable accept"),
        ("path errors in by IPv6", {},
         "nft insert rule inet filter input icmpv6 type packet-too-big accept"),
        ("path errors in", PLAIN, "iptables -I input -p icmp --icmp-type fragmentation-needed -j ACCEPT"),
        ("path errors in by IPv6", PLAIN6,
         "ip6tables -I input -p icmpv6 --icmpv6-type packet-too-big -j ACCEPT"),
        ("path errors in", {**FIREWALLD, "chain": "filter_IN_home"},
         ERRORS_FIREWALLD.format("ipv4", "fragmentation-needed")),
        ("path errors in by IPv6", {**FIREWALLD, "chain": "filter_IN_home"},
         ERRORS_FIREWALLD.format("ipv6", "packet-too-big")),
        ("tunnel in", {}, "nft insert rule inet filter input iifname qmesh0 accept"),
        ("tunnel out", {}, "nft insert rule inet filter input oifname qmesh0 accept"),
        ("tunnel in", {"lasting": "table  inet filter {"},
         IIFNAME + RELOADED.format("/etc/nftables.conf")),
        ("tunnel in", {"lasting": "table inet other {"}, IIFNAME),
        ("wireguard in", {**UFW, "rule": None, "chain": "INPUT"}, "ufw allow 51820/udp"),
        ("wireguard in", {**UFW, "chain": "ufw-user-input"}, "ufw prepend allow 51820/udp"),
        ("wireguard out", {**UFW, "rule": None}, "ufw allow out on eth0 to any port 51820 proto udp"),
        ("tunnel in", {**UFW, "rule": None}, "ufw allow in on qmesh0"),
        ("tunnel out", {**UFW, "rule": None}, "ufw allow out on qmesh0"),
        ("tunnel in", {**UFW, "chain": "ufw-before-input"},
         f"iptables -I ufw-before-input {THROUGH}" + RELOADED.format("ufw's files /etc/ufw/*.rules")),
        ("wireguard in", FIREWALLD,
         "firewall-cmd --permanent --zone=public --add-port=51820/udp && firewall-cmd --reload"),
        ("wireguard in", {**FIREWALLD, "chain": "filter_IN_home"},
         "firewall-cmd --permanent --zone=home --add-port=51820/udp && firewall-cmd --reload"),
        ("wireguard in", {**FIREWALLD, "chain": "filter_IN_home_to_HOST"},
         "firewall-cmd --permanent --zone=home --add-port=51820/udp && firewall-cmd --reload"),
        ("wireguard in", {**FIREWALLD, "chain": "filter_IN_policy_x"},
         "firewall-cmd --permanent --zone=public --add-port=51820/udp && firewall-cmd --reload"),
        ("tunnel in", FIREWALLD,
         "firewall-cmd --permanent --zone=trusted --change-interface=qmesh0 && firewall-cmd --reload"),
        ("tunnel out", FIREWALLD, "firewall-cmd --list-all-policies  # then remove the rule that drops them"),
        ("tunnel in", {"name": "firewalld_policy_drop"}, "firewall-cmd --panic-off"),
        ("tunnel in", {**PLAIN, "name": "filter", "chains": {"INPUT_ZONES": Chain(name="INPUT_ZONES")}},
         "firewall-cmd --permanent --zone=trusted --change-interface=qmesh0 && firewall-cmd --reload"),
        ("tunnel in", {"chain": "f2b-sshd"}, "fail2ban-client unban 10.77.0.1"),
        ("wireguard in", {"rule": PlainRule("ip saddr @f2b-x drop", "drop")},
         "fail2ban-client unban 192.0.2.1"),
        ("wireguard in", {**PLAIN, "chain": "INPUT"}, "iptables -I INPUT -p udp --dport 51820 -j ACCEPT"),
        ("wireguard out", {**PLAIN, "name": "raw", "chain": "OUTPUT"},
         "iptables -t raw -I OUTPUT -p udp --sport 51820 -j ACCEPT"),
        ("discovery in", {**PLAIN6, "chain": "INPUT"}, DISCOVERY_IPTABLES.format("INPUT")),
        ("discovery out", {**PLAIN6, "chain": "OUTPUT"}, DISCOVERY_IPTABLES.format("OUTPUT")),
        ("discovery in", {**PLAIN6, **UFW, "family": "ip6", "rule": None, "chain": "INPUT"},
         DISCOVERY_IPTABLES.format("INPUT") + RELOADED.format("ufw's files /etc/ufw/*.rules")),
        ("discovery in", {}, DISCOVERY_NFT),
        ("discovery out", FIREWALLD,
         "firewall-cmd --list-all-policies  # then remove the rule that drops them"),
        ("discovery in", {**FIREWALLD, "chain": "filter_IN_home"},
         DISCOVERY_FIREWALLD),
        ("tunnel out", {**PLAIN, "chain": "OUTPUT"}, "iptables -I OUTPUT -o qmesh0 -j ACCEPT"),
    ],
)  # fmt: skip
def test_the_cure_is_a_command_of_that_firewall(traffic: str, named: dict[str, Any], cure: str) -> None:
    assert under(traffic, **named).cure == cure


def test_of_ipv6_the_command_is_another() -> None:
    packet = replace(PACKETS["tunnel in"], source="fd77::1", target="fd77::2")
    chain = Chain(name="INPUT", hook="input", drops=True)
    (found,) = find_obstacles([Table(chains={"INPUT": chain}, name="filter", **LEGACY)], [packet])
    assert found.cure == "ip6tables-legacy -I INPUT -i qmesh0 -j ACCEPT"
    assert found.place == "table ip6 filter chain INPUT of ip6tables-legacy"


class SendingRule(msgspec.Struct, frozen=True):
    """A rule that sends connections on."""

    address: str
    port: int
    text: str = "dnat"
    handle: int | None = 4

    def judge(self, at: Evaluation) -> Outcome:
        at.translate_target(self.address, self.port)
        return Outcome(truth=True, verdict="accept")


def published(program: Program = "nft", chain: str = "DOCKER", **named: Any) -> Table:
    """Tables as of a container's published port."""
    rule = named.get("rule", SendingRule("172.17.0.2", 80))
    chains = {
        "PREROUTING": Chain(
            name="PREROUTING", hook="prerouting", kind="nat", rules=(PlainRule("", "jump", chain),)
        ),
        chain: Chain(name=chain, rules=(rule,)),
        "FORWARD": Chain(name="FORWARD", hook="forward", drops=True),
        "INPUT": Chain(name="INPUT", hook="input", drops=True),
    }
    return Table(program=program, family="ip", name="nat", chains=chains)


def test_a_connection_that_is_sent_on_meets_other_rules_than_what_is_for_this_machine() -> None:
    asks = PACKETS["tunnel in"]
    later = replace(asks, is_later=True)
    answer = replace(PACKETS["tunnel out"], source_port=40003, target_port=32768)
    obstacles, (found,) = judge_packets([published()], [asks, answer, later])
    assert (obstacles, found.address, found.port, found.packet) == ((), "172.17.0.2", 80, asks)
    forwarded = build_forwarded_packet(found, "docker0")
    assert (forwarded.target, forwarded.target_port, forwarded.hooks) == ("172.17.0.2", 80, ("forward",))
    known = forwarded.fields()
    assert (known["fib type daddr"], known["ct status"]) == ("unicast", ("dnat",))
    assert (known["meta iifname"], known["meta oifname"], known["meta iiftype"]) == (
        "qmesh0",
        "docker0",
        ("none",),
    )
    ((dropped,), _) = judge_packets([published("iptables")], [forwarded])
    assert dropped.place == "table ip nat chain FORWARD of iptables"
    assert dropped.cure == "iptables -t nat -I FORWARD -i qmesh0 -j ACCEPT"


@pytest.mark.parametrize(
    ("program", "chain", "cure"),
    [
        ("nft", "DOCKER", "nft insert rule ip nat DOCKER iifname qmesh0 tcp dport 40003 accept"),
        ("nft", "a b", "nft -a list ruleset  # then delete that rule by its handle"),
        ("iptables", "DOCKER", "iptables -t nat -I DOCKER -i qmesh0 -p tcp --dport 40003 -j ACCEPT"),
    ],
)
def test_a_connection_that_nobody_answers_where_it_is_sent_to(
    program: Program, chain: str, cure: str
) -> None:
    """Never by a command that takes more from a container than the one port."""
    _, (found,) = judge_packets([published(program, chain)], [PACKETS["tunnel in"]])
    here = build_translation_obstacle(found, listens_here=True)
    assert here.seen == "dnat (handle 4) sends them on to 172.17.0.2 port 80, where nothing answers"
    assert (here.cure, here.is_certain) == (cure, True)
    assert here.wanted == "the mesh's packets come in via qmesh0: TCP port 40003"
    elsewhere = build_translation_obstacle(found, listens_here=False)
    assert elsewhere.cure.startswith("start what has to answer at 172.17.0.2 port 80")
    odd = PlainRule("random", "unclear", truth=None)
    (unclear, _), _ = judge_packets([published(program, chain, rule=odd)], [PACKETS["tunnel in"]])
    assert unclear.cure.startswith("nothing, if a container has the worker; ")
    assert unclear.cure.endswith(f": `{cure}`")


def test_what_this_machine_sends_to_its_own_workers_may_be_sent_on_too() -> None:
    asks = replace(PACKETS["tunnel in"], traffic="loopback", iif="", oif="lo")
    nat = Chain(name="OUTPUT", hook="output", kind="nat", rules=(SendingRule("172.17.0.2", 80),))
    table = Table(program="iptables", family="ip", name="filter", chains={"OUTPUT": nat})
    _, (found,) = judge_packets([table], [asks])
    cure = build_translation_obstacle(found, listens_here=True).cure
    assert cure == "iptables -I OUTPUT -o lo -p tcp --dport 40003 -j ACCEPT"


def test_many_packets_that_one_rule_takes_are_one_obstacle() -> None:
    chain = Chain(name="INPUT", hook="input", drops=True)
    (wireguard, through) = find_obstacles(
        [Table(chains={"INPUT": chain}, name="filter", **PLAIN)],
        [DATAGRAM, *(replace(PACKETS["tunnel in"], target_port=port) for port in (40003, 40004))],
    )
    assert wireguard.wanted == "WireGuard's packets come in via eth0: UDP port 51820"
    assert through.wanted == "the mesh's packets come in via qmesh0: TCP port 40003-40004"


def test_neighbour_discovery_that_is_dropped_is_named_by_its_types() -> None:
    chain = Chain(name="INPUT", hook="input", drops=True)
    asked = PACKETS["discovery in"]
    (found,) = find_obstacles(
        [Table(chains={"INPUT": chain}, name="filter", **PLAIN6)], [replace(asked, icmp_type=136), asked]
    )
    assert found.wanted.startswith("IPv6 neighbour discovery, without which no packet goes there, comes in")
    assert found.wanted.endswith(" via eth0: ICMPv6 type 135, 136")
    (written,) = find_obstacles(
        [Table(chains={"a b": replace(chain, name="a b")}, name="t", program="nft", family="ip6")], [asked]
    )
    (_, _, command) = shlex.split(written.cure)
    assert json.loads(command)["nftables"][0]["insert"]["rule"]["expr"][0]["match"] == {
        "op": "==",
        "left": {"payload": {"protocol": "icmpv6", "field": "type"}},
        "right": {"set": ["nd-neighbor-solicit", "nd-neighbor-advert"]},
    }


def test_a_port_that_firewalld_denies_is_allowed_by_a_rule_that_comes_first() -> None:
    chains = {
        "filter_INPUT": Chain(
            name="filter_INPUT", hook="input", rules=(PlainRule("", "jump", "filter_IN_public"),)
        ),
        "filter_IN_public": Chain(
            name="filter_IN_public", rules=(PlainRule("", "jump", "filter_IN_public_deny"),)
        ),
        "filter_IN_public_deny": Chain(name="filter_IN_public_deny", rules=(EVERY,)),
    }
    (found,) = find_obstacles(
        [Table(program="nft", family="inet", name="firewalld", chains=chains)], [DATAGRAM]
    )
    rule = 'rule priority="-32768" port port="51820" protocol="udp" accept'
    assert found.cure == (
        f"firewall-cmd --permanent --zone=public --add-rich-rule='{rule}' && firewall-cmd --reload"
    )


def test_a_limit_that_may_be_exceeded_is_told_as_one() -> None:
    rule = PlainRule("limit rate over 1/hour drop", "drop", truth=None, is_limit=True)
    found = under("tunnel in", rule=rule)
    assert (found.seen, found.is_certain) == ("beyond a limit: limit rate over 1/hour drop", False)
    base = Chain(
        name="c", hook="input", rules=(PlainRule("limit", "accept", truth=None, is_limit=True),), drops=True
    )
    (found,) = find_obstacles([Table(program="nft", family="ip", name="t", chains={"c": base})], [DATAGRAM])
    assert found.seen == "beyond a limit: policy drop"


def test_a_name_that_is_not_utf_8_is_shown_escaped() -> None:
    name = b"b\xff".decode("utf-8", "surrogateescape")
    chain = Chain(name=name, hook="input", drops=True)
    (found,) = find_obstacles(
        [Table(program="nft", family="ip", name=name, chains={name: chain})], [DATAGRAM]
    )
    assert found.place == "table ip b\\xff chain b\\xff"
    assert found.cure == "nft -a list ruleset  # then delete that rule by its handle"
    chain = Chain(name=name, hook="input", drops=True)
    (found,) = find_obstacles([Table(chains={name: chain}, name="filter", **PLAIN)], [DATAGRAM])
    assert found.cure == """iptables -I "$(printf '\\142\\377')" -p udp --dport 51820 -j ACCEPT"""


@pytest.mark.parametrize("name", ["a b", "x; touch /owned", "$(x)", "it's", "\u2028", "a\nb"])
def test_a_cure_gives_hostile_names_to_no_shell(name: str) -> None:
    tried: list[tuple[Program, Packet]] = [("nft", DATAGRAM), ("nft", TO_WORKER), ("iptables", DATAGRAM)]
    for program, packet in tried:
        chain = Chain(name=name, hook="input", drops=True)
        table = Table(program=program, family="ip", name="filter", chains={name: chain})
        (found,) = find_obstacles([table], [packet])
        words = shlex.split(found.cure)
        if program == "iptables":
            assert words[:3] == ["iptables", "-I", name]
        else:
            assert words[:2] == ["nft", "-j"]
            (command,) = json.loads(words[2])["nftables"]
            assert command["insert"]["rule"]["chain"] == name
            assert command["insert"]["rule"]["expr"][1] == {"accept": None}


TO_WORKER = replace(DATAGRAM, traffic="tunnel in", iif="qmesh0", protocol="tcp")


def test_the_cure_of_what_is_sent_by_wireguard_where_a_name_is_hostile() -> None:
    packet = replace(DATAGRAM, traffic="wireguard out", iif="", oif="eth0")
    chain = Chain(name="a b", hook="output", drops=True)
    (found,) = find_obstacles([Table(program="nft", family="ip", name="t", chains={"a b": chain})], [packet])
    (command,) = json.loads(shlex.split(found.cure)[2])["nftables"]
    assert command["insert"]["rule"]["expr"][0]["match"]["left"] == {
        "payload": {"protocol": "udp", "field": "sport"}
    }


@pytest.mark.parametrize(
    ("traffic", "protocol", "word"),
    [
        ("path errors in", "icmp", "destination-unreachable"),
        ("path errors in by IPv6", "icmpv6", "packet-too-big"),
    ],
)
def test_so_it_is_of_what_routers_say(traffic: str, protocol: str, word: str) -> None:
    chain = Chain(name="a b", hook="input", drops=True)
    table = Table(program="nft", family="inet", name="t", chains={"a b": chain})
    (found,) = find_obstacles([table], [PACKETS[traffic]])
    (command,) = json.loads(shlex.split(found.cure)[2])["nftables"]
    assert command["insert"]["rule"]["expr"][0]["match"] == {
        "op": "==",
        "left": {"payload": {"protocol": protocol, "field": "type"}},
        "right": word,
    }
