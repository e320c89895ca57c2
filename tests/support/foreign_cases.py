"""Small rulesets of others, and what becomes of one datagram to WireGuard's port under each.

`tests/host/test_foreign_rules.py` asks the kernel and the evaluator; `tests/mesh/test_foreign.py` the
evaluator alone, by what the kernel once said of each (`tests/mesh/foreign_listings/`).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec

from qmesh.mesh.foreign.kernel_rules import KernelRule
from qmesh.mesh.foreign.lookups import Answers, Element, Question, SetHeader
from qmesh.mesh.foreign.packets import Packet
from qmesh.mesh.foreign.rulesets import ListedChain, Listing
from qmesh.mesh.foreign.walk import Drop
from qmesh.mesh.foreign.xtables.legacy_tables import LegacyBlock

Fate: TypeAlias = Literal["passes", "drops", "unclear"]

DATAGRAM: Final = Packet(
    traffic="wireguard in",
    iif="eth0",
    protocol="udp",
    source="192.0.2.1",
    source_port=51820,
    target="192.0.2.2",
    target_port=51820,
)
"""The first of a connection, to this machine."""

INPUT: Final = "type filter hook input priority 0"


def table(*rules: str, policy: str = "accept", more: str = "", hook: str = INPUT, flags: str = "") -> str:
    """A table with one base chain."""
    body = "\n".join(rules)
    return f"table inet t {{\n{flags}\n{more}\nchain c {{\n{hook}; policy {policy};\n{body}\n}}\n}}\n"


OTHER: Final = "chain other {{\n{}\n}}"
BAD: Final = "set bad {\ntype ipv4_addr; flags interval\nelements = { 192.0.2.0/25, 198.51.100.7 }\n}"
SHORT: Final = 'set bad {\ntype ipv4_addr; flags timeout\nelements = { 192.0.2.1 timeout 1h comment "x" }\n}'
PAIRS: Final = "set both {{\ntype ipv4_addr . inet_service\nelements = {{ 192.0.2.1 . {} }}\n}}"
VERDICTS: Final = "map v {\ntype inet_service : verdict\nelements = { 51820 : drop }\n}"
SEEN: Final = "set seen {\ntype ipv4_addr; size 64; flags dynamic,timeout; timeout 1m\n}"

AT_INGRESS: Final = (
    'table netdev t {{\nchain c {{\ntype filter hook ingress device "{}" priority 0; {}\n}}\n}}\n'
)

CASES: Final[dict[str, tuple[Fate, str]]] = {
    "an empty chain": ("passes", table()),
    "a policy": ("drops", table(policy="drop")),
    "the port": ("drops", table("udp dport 51820 drop")),
    "another port": ("passes", table("udp dport 51821 drop")),
    "another protocol's port": ("passes", table("tcp dport 51820 drop")),
    "any protocol's port": ("drops", table("meta l4proto { tcp, udp } th dport 51820 drop")),
    "an accept before a policy": ("passes", table("udp dport 51820 accept", policy="drop")),
    "a reject": ("drops", table("udp dport 51820 reject")),
    "a range": ("drops", table("udp dport 50000-52000 drop")),
    "greater": ("drops", table("udp dport > 51819 drop")),
    "at least": ("drops", table("udp dport >= 51820 drop")),
    "less": ("passes", table("udp dport < 51820 drop")),
    "at most": ("drops", table("udp dport <= 51820 drop")),
    "one of several": ("drops", table("udp dport { 22, 51820 } drop")),
    "none of several": ("passes", table("udp dport != { 22, 51820 } drop")),
    "not that": ("drops", table("udp dport != 22 drop")),
    "the source port": ("drops", table("udp sport 51820 drop")),
    "a network": ("drops", table("ip saddr 192.0.2.0/24 drop")),
    "an address": ("passes", table("ip saddr 192.0.2.9 drop")),
    "a range of addresses": ("passes", table("ip saddr 192.0.2.9-192.0.2.12 drop")),
    "the other family": ("passes", table("ip6 saddr ::/0 drop")),
    "the target": ("drops", table("ip daddr 192.0.2.2 drop")),
    "an interface": ("drops", table('iifname "eth0" drop')),
    "interfaces that begin so": ("drops", table('iifname "eth*" drop')),
    "not that interface": ("passes", table('iifname != "eth0" drop')),
    "loopback": ("passes", table("iif lo drop")),
    "a type of interface": ("drops", table("meta iiftype ether drop")),
    "to this machine": ("drops", table("meta pkttype host drop")),
    "a transport protocol": ("drops", table("meta l4proto udp drop")),
    "a transport protocol by number": ("passes", table("meta l4proto 132 drop")),
    "a family": ("drops", table("meta nfproto ipv4 drop")),
    "the header's protocol": ("drops", table("ip protocol udp drop")),
    "a header that is not there": ("passes", table("icmp type echo-request drop")),
    "flags of another protocol": ("passes", table("tcp flags syn drop")),
    "new": ("drops", table("ct state new drop")),
    "established or related": ("passes", table("ct state established,related drop")),
    "established or new": ("drops", table("ct state established,new drop")),
    "the direction": ("drops", table("ct direction original drop")),
    "translated": ("passes", table("ct status dnat drop")),
    "ends of a connection": ("drops", table("ct original ip saddr 192.0.2.1 drop")),
    "a local address": ("drops", table("fib daddr type local drop")),
    "no local address": ("passes", table("fib daddr type != local drop")),
    "a jump": ("drops", table("jump other", more=OTHER.format("udp dport 51820 drop"))),
    "a jump that returns": ("drops", table("jump other", "drop", more=OTHER.format("return"))),
    "a jump that ends": ("drops", table("jump other", "drop", more=OTHER.format("udp dport 1 accept"))),
    "a jump to an accept": ("passes", table("jump other", policy="drop", more=OTHER.format("accept"))),
    "a goto does not come back": (
        "drops",
        table("goto other", "accept", policy="drop", more=OTHER.format("")),
    ),
    "a goto to an accept": ("passes", table("goto other", "drop", more=OTHER.format("accept"))),
    "a return of a base chain": ("drops", table("return", "accept", policy="drop")),
    "a verdict map": ("drops", table("udp dport vmap { 22 : accept, 51820 : drop }")),
    "a verdict map with a jump": (
        "drops",
        table("ct state vmap { established : accept, new : jump other }", more=OTHER.format("drop")),
    ),
    "a verdict map for everything else": ("drops", table("udp dport vmap { 22 : accept, * : drop }")),
    "a verdict map by name": ("drops", table("udp dport vmap @v", more=VERDICTS)),
    "a named set": ("drops", table("ip saddr @bad drop", more=BAD)),
    "a named set, twice": (
        "passes",
        table("tcp dport 1 ip saddr @bad drop", "ip saddr != @bad drop", more=BAD),
    ),
    "a named set whose elements end": ("drops", table("ip saddr @bad drop", more=SHORT)),
    "a concatenation": ("drops", table("ip saddr . udp dport @both drop", more=PAIRS.format(51820))),
    "another concatenation": ("passes", table("ip saddr . udp dport @both drop", more=PAIRS.format(22))),
    "a mark": ("passes", table("meta mark 1 drop")),
    "a mark that was set": ("drops", table("meta mark set 1", "meta mark 1 drop")),
    "a part of a mark": ("drops", table("meta mark set 3", "meta mark & 1 == 1 drop")),
    "a mark from elsewhere": ("passes", table("meta mark set ct mark", "meta mark 1 drop")),
    "a mark that may be set": ("unclear", table("meta cpu 0-4095 meta mark set 1", "meta mark 1 drop")),
    "what says nothing": ("drops", table('counter log prefix "x" drop')),
    "a source that is remembered": ("passes", table("add @seen { ip saddr }", more=SEEN)),
    "a source that comes too often": (
        "passes",
        table("add @seen { ip saddr limit rate over 9/second } drop", more=SEEN),
    ),
    "a rate": ("passes", table("limit rate over 1/second drop")),
    "a rate that the mesh may exceed": ("unclear", table("limit rate over 1/hour drop")),
    "a rate before a policy": ("unclear", table("limit rate 5/minute accept", policy="drop")),
    "a rate, before all is dropped": ("drops", table("limit rate over 1/hour drop", "udp dport 51820 drop")),
    "a processor": ("unclear", table("meta cpu 0-4095 drop")),
    "a processor, before an accept": ("unclear", table("meta cpu 0-4095 accept", policy="drop")),
    "a processor, before all is dropped": ("drops", table("meta cpu 0-4095 drop", "drop")),
    "a processor, before all passes": ("passes", table("meta cpu 0-4095 accept", "accept")),
    "a processor, on the way to a jump": (
        "unclear",
        table("meta cpu 0-4095 jump other", more=OTHER.format("drop")),
    ),
    "a length": ("unclear", table("udp length > 8 drop")),
    "a redirection": (
        "unclear",
        table("udp dport 51820 redirect to :9", hook="type nat hook prerouting priority -100"),
    ),
    "a table that sleeps": ("passes", table(policy="drop", flags="flags dormant")),
    "an earlier accept": (
        "drops",
        table("accept", hook="type filter hook input priority -10")
        + table("drop").replace("table inet t", "table ip u"),
    ),
    "another hook": ("passes", table(policy="drop", hook="type filter hook forward priority 0")),
    "before the routing": ("drops", table(policy="drop", hook="type filter hook prerouting priority -300")),
    "not tracked": (
        "passes",
        table("notrack", hook="type filter hook prerouting priority -300")
        + table("ct state new drop").replace("table inet t", "table inet u"),
    ),
    "a device": (
        "drops",
        AT_INGRESS.format("eth0", "policy drop;"),
    ),
    "a device, connections": (
        "drops",
        AT_INGRESS.format("eth0", "\nudp dport 51820 drop"),
    ),
    "another device": (
        "passes",
        AT_INGRESS.format("lo", "policy drop;"),
    ),
    "bridges": ("passes", table(policy="drop").replace("table inet", "table bridge")),
    "the guard's own": ("passes", table(policy="drop").replace("table inet t", "table inet qmesh")),
}


RECORDED: Final = ("hardening by nft", "kube-proxy by nft", "stealth-script by iptables-legacy")
"""Those of `tests/support/rule_sets.py` that the pure tests have too."""


class Recording(msgspec.Struct):
    """What the kernel said of a ruleset: `Listing`'s parts, and its answers about sets."""

    tables: tuple[tuple[str, str], ...]
    own: tuple[tuple[str, str], ...]
    chains: tuple[ListedChain, ...]
    rules: tuple[KernelRule, ...]
    sets: tuple[tuple[str, str, str, SetHeader], ...]
    legacy: tuple[LegacyBlock, ...]
    interfaces: dict[str, int]
    answers: tuple[tuple[Question, Element | None], ...]


def record(listing: Listing, answers: Answers) -> Recording:
    """For a file."""
    return Recording(
        tables=listing.tables,
        own=tuple(sorted(listing.own)),
        chains=listing.chains,
        rules=listing.rules,
        sets=tuple((*key, header) for key, header in listing.sets.items()),
        legacy=listing.legacy,
        interfaces=dict(listing.interfaces),
        answers=tuple(answers.items()),
    )


def replay(recording: Recording) -> tuple[Listing, Answers]:
    """What was recorded."""
    listing = Listing(
        tables=recording.tables,
        own=frozenset(recording.own),
        chains=recording.chains,
        rules=recording.rules,
        sets={(family, table, name): header for family, table, name, header in recording.sets},
        legacy=recording.legacy,
        interfaces=recording.interfaces,
    )
    return listing, dict(recording.answers)


def read_recordings(path: Path) -> dict[str, Recording]:
    """Those in a file, by name."""
    return msgspec.json.decode(path.read_bytes(), type=dict[str, Recording])


def find_fate(drops: Iterable[Drop]) -> Fate:
    """What becomes of a packet by what drops it, or may."""
    found = list(drops)
    return "drops" if any(drop.is_certain for drop in found) else "unclear" if found else "passes"
