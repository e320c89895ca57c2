"""Rulesets of more kinds than `random_rules` draws: all families and hooks that arriving packets pass.

Also what the prover leaves open, so that it is seen that it says so; and rules as other programs write them.
"""

from __future__ import annotations

import re
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

from tests.support.random_rules import MARKS, NETWORKS, PORTS, QUIET, TARGETS, RuleDrawer
from tests.support.rule_sets import FOLDER

_PLACES: Final = (
    ("prerouting", -450), ("prerouting", -350), ("prerouting", -300), ("prerouting", -250),
    ("prerouting", -200), ("prerouting", -150), ("prerouting", -100), ("prerouting", -50), ("prerouting", 0),
    ("input", -150), ("input", -10), ("input", 0), ("input", 0), ("input", 50), ("input", 120),
)  # fmt: skip
_OWN: Final = {"ip": "192.0.2.2", "ip6": "2001:db8::2"}


class DrawnRules(NamedTuple):
    """Tables, each as nft reads it; a file that another program has written; ports that are in it.

    xtables: programs, and rules of iptables for them.
    """

    tables: tuple[str, ...]
    file: Path | None
    ports: tuple[int, ...]
    xtables: tuple[tuple[str, str], ...] = ()


def draw_wide_ruleset(seed: int) -> DrawnRules:
    """Some tables; one time in three beside the rules of another program."""
    random = Random(f"wide {seed}")  # noqa: S311 - nothing secret
    tables = [QUIET]
    for number, place in enumerate(random.sample(_PLACES, random.randint(1, 4))):
        tables.append(_WideDrawer(Random(f"wide {seed} {number}")).draw_table(number, place))  # noqa: S311
    if random.random() < 0.3:
        tables.append(_draw_translation(random))
    if random.random() < 0.25:
        tables.append(_draw_ingress(random))
    file = None
    if random.random() < 0.34:
        file = random.choice(list_files())
        tables = tables[: random.randint(1, 2)]
    xtables = draw_xtables(random) if file is None and random.random() < 0.5 else ()
    return DrawnRules(tuple(tables), file, () if file is None else _list_ports(file), xtables)


def draw_xtables(random: Random) -> tuple[tuple[str, str], ...]:
    """Rules of iptables, for each of its families, of what is asked beside a header's fields."""
    return tuple(
        (program, _draw_xtables_of(random, is_ipv6=program.startswith("ip6")))
        for program in ("iptables-nft-restore", "ip6tables-nft-restore")
    )


def _draw_xtables_of(random: Random, *, is_ipv6: bool) -> str:
    kinds = ("LOCAL", "UNICAST", "MULTICAST") if is_ipv6 else ("LOCAL", "UNICAST", "MULTICAST", "BROADCAST")
    states = ("NEW,DNAT", "DNAT", "SNAT,INVALID", "RELATED,ESTABLISHED,DNAT", "UNTRACKED,SNAT")
    shared = [
        *(f"-m addrtype {no}--{end}-type {kind}"
          for kind in kinds for end in ("dst", "src") for no in ("", "! ")),
        *(f"-p tcp -m tcpmss {no}--mss {span}" for span in ("1:536", "536:65535") for no in ("", "! ")),
        *(f"-p tcp -m tcp {no}--tcp-option {kind}" for kind in (2, 4) for no in ("", "! ")),
        *(f"-m conntrack {no}--ctstate {state}" for state in states for no in ("", "! ")),
        "-m pkttype --pkt-type unicast", "-m pkttype ! --pkt-type multicast",
    ]  # fmt: skip
    if is_ipv6:
        shared += ["-m rt --rt-type 0", "-m rt ! --rt-type 0"]
    back = [
        "-m rpfilter",
        "-m rpfilter --invert",
        "-m rpfilter --validmark",
        "-m rpfilter --loose",
        shared[0],
    ]

    def draw(chain: str, matches: list[str]) -> str:
        ends = ("DROP", "ACCEPT", "MARK --set-mark 1", "MARK --set-mark 2", "DROP")
        places = range(random.randint(1, 4))
        targets = (random.choice(ends[:2] if chain == "INPUT" else ends) for _ in places)
        return "".join(f"-A {chain} {random.choice(matches)} -j {target}\n" for target in targets)

    early, late = draw("PREROUTING", back), draw("INPUT", shared)
    nat, behind = _draw_xtables_translation(random, "ip6" if is_ipv6 else "ip")
    return f"*mangle\n{early}COMMIT\n*nat\n{nat}COMMIT\n*filter\n{behind}{late}COMMIT\n"


def _draw_xtables_translation(random: Random, family: str) -> tuple[str, str]:
    """A rule of `nat`, or none; and one of `filter` that asks what became of its packets."""
    if random.random() < 0.5:
        return "", ""
    protocol, own = random.choice(("tcp", "udp")), _OWN[family]
    dialled, first, last = random.choice(PORTS), *sorted(random.sample(PORTS, 2))
    end = own if family == "ip" else f"[{own}]"
    target = random.choice(
        (f"REDIRECT --to-ports {first}", "REDIRECT", f"DNAT --to-destination {own}",
         f"DNAT --to-destination {end}:{first}", f"DNAT --to-destination {end}:{first}-{last}",
         f"DNAT --to-destination {end}:{first} --persistent", f"DNAT --to-destination {end}:{first} --random")
    )  # fmt: skip
    asked = random.choice((f"--dport {first}", f"! --dport {first}", f"! --dport {dialled}", f"! -d {own}"))
    words = f"-p {protocol} --dport {dialled} -j {target}"
    return f"-A PREROUTING {words}\n", f"-A INPUT -p {protocol} {asked} -j DROP\n"


def list_files() -> list[Path]:
    """Rules of other programs."""
    return sorted(FOLDER.iterdir())


def _list_ports(file: Path) -> tuple[int, ...]:
    numbers = {int(each) for each in re.findall(r"\b\d{1,5}\b", file.read_text(encoding="utf-8"))}
    return tuple(sorted(each for each in numbers if 0 < each < 1 << 16))


def _draw_translation(random: Random) -> str:
    """To another port or address of this machine; and another source, which is seen by no later rule."""
    family = random.choice(("ip", "ip6"))
    own = _OWN[family] if family == "ip" else f"[{_OWN[family]}]"
    match = random.choice(
        (f"tcp dport {random.choice(PORTS)}", f"udp dport {random.choice(PORTS)}", 'iifname "eth10"')
    )
    target = random.choice((f"redirect to :{random.choice(PORTS)}", f"dnat to {own}:{random.choice(PORTS)}"))
    what = f"{match} {target}" if "dport" in match else f"{match} meta l4proto tcp {target}"
    head = "type nat hook prerouting priority -100;"
    return f"table {family} translated {{\n\tchain c {{\n\t\t{head}\n\t\t{what}\n\t}}\n}}\n"


def _draw_ingress(random: Random) -> str:
    device = random.choice(("eth0", "eth10", "qmesh0"))
    rule = random.choice(
        (f"tcp dport {random.choice(PORTS)} drop", f"ip saddr {NETWORKS['ip'][0]} drop",
         f"meta mark set {random.choice(MARKS)}", "ip6 hoplimit < 60 drop", "udp sport 1000-1024 accept",
         f"ip daddr {TARGETS['ip'][1]} tcp flags syn drop")
    )  # fmt: skip
    head = f'type filter hook ingress device "{device}" priority 0; policy accept;'
    family = random.choice(("netdev", "inet"))
    return f"table {family} early {{\n\tchain c {{\n\t\t{head}\n\t\t{rule}\n\t}}\n}}\n"


class _WideDrawer(RuleDrawer):
    """More matches, more ends; some of them nobody models."""

    policies = ("accept", "drop")

    def draw_match(self, protocol: str, family: str) -> str:
        if self.random.random() < 0.55:
            return super().draw_match(protocol, family)
        return self.choose(*self._list_matches(protocol, family))

    def _list_matches(self, protocol: str, family: str) -> list[str]:
        random = self.random
        port, other = random.choice(PORTS), random.choice(PORTS)
        unlike = self.choose("", "!= ")
        found = [
            f"ct status {unlike}{self.choose('dnat', 'snat', 'seen-reply', 'confirmed', 'assured')}",
            f"ct status {self.choose('dnat,snat', 'seen-reply,assured')}",
            "ct state { established, related } ", "ct state vmap { established : accept, invalid : drop }",
            f"meta nfproto {self.choose('ipv4', 'ipv6')}", f"meta protocol {self.choose('ip', 'ip6')}",
            f"meta l4proto . th dport {{ tcp . {port}, udp . {other}, tcp . 40000-40010 }}",
            'iifname . meta l4proto { "eth0" . tcp, "qmesh0" . udp }',
            f"meta mark . th dport {{ {random.choice(MARKS)} . {port}, 0 . {other} }}",
            f'iifname . th dport {{ "eth0" . {port}, "eth10" . {other} }}',
            f"th dport . th sport {{ {port} . {other}, 22 . 1000-2000 }}",
            f"meta mark and 0x{random.randrange(1, 256):x} != 0", "meta mark >= 2", "meta mark < 3",
            f"ct mark and {random.choice(MARKS)} == {random.choice(MARKS)}",
            f"th dport & 0x{random.choice((1, 0xF0, 0xFF00)):x} == {random.choice((0, 1, 0x10))}",
            f"th dport @{self.choose('ports', 'few')} th sport != @{self.choose('ports', 'few')}",
            "th dport vmap @verdicts", "fib daddr type { local, broadcast }",
            "limit rate 5/second burst 3 packets", "limit rate over 5/second", "ct count over 2",
            "quota over 3000 bytes", "update @seen { ip saddr }",
            "add @seen { ip saddr limit rate 2/minute }",
            "fib saddr . iif oif missing", "fib daddr . iif type local", "fib saddr type local",
            "fib saddr . iif oif exists", "fib saddr . mark . iif oif missing", 'fib saddr . iif oif "eth0"',
            'fib saddr . iif oifname "eth10"', "fib daddr . iif oif exists", "fib saddr type != unicast",
            "fib daddr . iif type != { local, multicast }", "fib daddr type { unicast, multicast }",
            "numgen random mod 2 0", "meta cpu 0", "meta length < 50", "meta iifgroup 0", "meta skuid 0",
            'ct helper "ftp"', "ct zone 0", "ct original proto-dst 22", "ct expiration > 1s",
            "tcp option maxseg exists", "tcp option maxseg size < 500", "tcp option maxseg size 536-1400",
            "tcp option sack-perm missing", "exthdr frag exists", "exthdr rt missing",
            'osf name "Linux"', "socket transparent 1",
            "rt type 0", "meta random < 0x7fffffff", 'meta ibrname "br0"', "ether type ip",
            "meta hour < 12:00", "meta day 1", 'limit name "slow"', 'quota name "small"',
        ]  # fmt: skip
        if protocol == "tcp":
            found += [
                "tcp window 1000", "tcp doff 5", "tcp sequence > 50", "tcp ackseq 0", "tcp urgptr 0",
                "tcp flags & (syn | ack) != 0", "tcp flags & (fin | syn | rst) == 0", "tcp checksum != 0",
                f"tcp dport {port} tcp sport {other}",
            ]  # fmt: skip
        elif protocol == "udp":
            found += ["udp length 12", "udp length != 8-20", "udp checksum != 0", f"udp dport {port}-65535"]
        if family == "ip":
            found += [
                "ip length 32-60", "ip id > 10", "ip frag-off & 0x1fff == 0", "ip protocol { tcp, udp }",
                "ip version 4", "ip hdrlength 5", "ip ecn not-ect", "ip saddr & 255.255.0.0 == 198.51.0.0",
                f"ip saddr . ip daddr {{ 198.51.0.0/16 . {TARGETS['ip'][0]} }}",
                "ip saddr != { 198.51.0.0-198.51.100.0, 203.0.113.7 }", "ip saddr vmap @hosts",
                "ip dscp { cs1, cs2 }", "ip option rr exists",
            ]  # fmt: skip
        else:
            found += [
                "ip6 nexthdr { tcp, udp }", "ip6 length < 40", "ip6 version 6", "ip6 flowlabel 0",
                "ip6 dscp cs1", "ip6 saddr 2001:db8:1::/64", "ip6 saddr & ffff:ffff:: == 2001:db8::",
                "ip6 saddr != 2001:db8:1::1-2001:db8:1::ff",
            ]  # fmt: skip
        return found

    def draw_ending(self, hook: str, chains: tuple[str, ...], protocol: str) -> str:
        if self.random.random() < 0.7:
            return super().draw_ending(hook, chains, protocol)
        ends = [
            "log accept", 'log prefix "x" drop', 'counter name "seen" drop', "counter accept",
            "queue num 3 bypass", "meta priority set 1:1", "meta nftrace set 1", "ct mark set ct mark | 1",
            "meta mark set ct mark & 3", "meta pkttype set other", "notrack accept", "ct label set 1",
            "meta mark set 3 accept", "meta mark set numgen inc mod 2", "meta mark set jhash ip saddr mod 4",
            "meta mark set th dport map @marks", "th dport set 22", "quota 500 bytes accept",
            "ct zone set 1", "last drop", "meta l4proto tcp reject with tcp reset",
        ]  # fmt: skip
        if protocol == "tcp":
            ends += ["tcp option maxseg size set 1000", "tcp flags set syn", "tcp window set 7 accept"]
        ends += ["ip ttl set 3", "ip dscp set cs2 accept", "ip6 hoplimit set 61"]
        return self.choose(*ends)

    def list_more(self) -> str:
        port, other, third = sorted(self.random.sample(PORTS, 3))
        end, another = self.choose("accept", "drop", "jump three"), self.choose("accept", "drop", "return")
        return (
            f"\tmap verdicts {{\n\t\ttype inet_service : verdict\n\t\tflags interval\n"
            f"\t\telements = {{ {port} : {end}, {other}-{third} : {another} }}\n\t}}\n"
            f"\tmap hosts {{\n\t\ttype ipv4_addr : verdict\n\t\tflags interval\n"
            f"\t\telements = {{ 198.51.0.0/17 : {end}, 203.0.113.0/24 : {another} }}\n\t}}\n"
            f"\tmap marks {{\n\t\ttype inet_service : mark\n"
            f"\t\telements = {{ {port} : 1, {other} : 2, {third} : 3 }}\n\t}}\n"
            "\tset seen {\n\t\ttype ipv4_addr\n\t\tsize 1024\n\t\tflags dynamic,timeout\n"
            "\t\ttimeout 1m\n\t}\n"
            "\tcounter seen {\n\t}\n\tlimit slow {\n\t\trate 5/second\n\t}\n"
            "\tquota small {\n\t\tover 4000 bytes\n\t}\n"
        )
