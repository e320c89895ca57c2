"""Rulesets of every expression that the prover models, drawn by a seed, in nft's words."""

from __future__ import annotations

from random import Random
from typing import Final

PORTS: Final = (22, 80, 443, 1000, 1023, 1024, 40000, 40003, 40004, 51820, 65535)
NETWORKS: Final = {"ip": ("198.51.0.0/16", "198.51.128.0/17", "203.0.113.0/24"), "ip6": ("2001:db8:1::/48",)}
TARGETS: Final = {"ip": ("10.77.0.2", "192.0.2.2"), "ip6": ("fd77::2", "2001:db8::2")}
INTERFACES: Final = ("qmesh0", "eth0", "eth10")
MARKS: Final = (0, 1, 2, 3, 0x10, 0x80000001)
_CHAINS: Final = ("one", "two", "three")
_PLACES: Final = (
    ("prerouting", -350), ("prerouting", -300), ("prerouting", -250), ("prerouting", -150),
    ("prerouting", -50), ("prerouting", 0), ("input", -150), ("input", -10), ("input", 0), ("input", 50),
)  # fmt: skip
QUIET: Final = """\
table inet quiet {
	chain out {
		type filter hook output priority 0; policy drop;
		ct state invalid drop
	}
}
"""
"""Nobody answers what comes in; and the kernel tracks connections, whatever the other rules are."""


def draw_ruleset(seed: int) -> str:
    """Some tables with base chains, and chains that these lead to."""
    return QUIET + "".join(
        RuleDrawer(Random(f"{seed} {number}")).draw_table(number, place)  # noqa: S311 - nothing secret
        for number, place in enumerate(Random(seed).sample(_PLACES, 3))  # noqa: S311
    )


class RuleDrawer:
    """One table, drawn."""

    policies: tuple[str, ...] = ("accept", "accept", "drop")

    def __init__(self, random: Random) -> None:
        self.random = random
        self._family = random.choice(("inet", "inet", "ip", "ip6"))

    def choose(self, *words: str) -> str:
        return self.random.choice(words)

    def draw_table(self, number: int, place: tuple[str, int]) -> str:
        hook, priority = place
        policy = self.choose(*self.policies)
        chains = "".join(
            f"\tchain {name} {{\n{self._draw_rules(hook, _CHAINS[index + 1 :], most=3)}\t}}\n"
            for index, name in reversed(list(enumerate(_CHAINS)))
        )
        sets = (
            f"\tset ports {{\n\t\ttype inet_service\n\t\tflags interval\n"
            f"\t\telements = {{ {self._draw_port_list()} }}\n\t}}\n"
            f"\tset few {{\n\t\ttype inet_service\n\t\telements = {{ 22, 40003, 65535 }}\n\t}}\n"
        )
        return (
            f"table {self._family} t{number} {{\n{sets}{self.list_more()}{chains}\tchain base {{\n"
            f"\t\ttype filter hook {hook} priority {priority}; policy {policy};\n"
            f"{self._draw_rules(hook, _CHAINS, most=8)}\t}}\n}}\n"
        )

    def list_more(self) -> str:
        """Further sets and objects."""
        return ""

    def _draw_rules(self, hook: str, chains: tuple[str, ...], *, most: int) -> str:
        rules = (self._draw_rule(hook, chains) for _ in range(self.random.randint(1, most)))
        return "".join(f"\t\t{rule}\n" for rule in rules)

    def _draw_rule(self, hook: str, chains: tuple[str, ...]) -> str:
        if self.random.random() < 0.12:
            return self._draw_verdict_map(chains)
        protocol = self.choose("tcp", "tcp", "udp", "th")
        family = self._family if self._family != "inet" else self.choose("ip", "ip6")
        count = self.random.choice((0, 1, 1, 2, 2, 3))
        matches = [self.draw_match(protocol, family) for _ in range(count)]
        ending = self.draw_ending(hook, chains, protocol)
        if protocol == "th" and any(
            word in " ".join((*matches, ending)) for word in ("th dport", "th sport")
        ):
            matches.insert(0, self.choose("meta l4proto { tcp, udp }", "meta l4proto tcp"))
        return " ".join((*matches, ending if matches or self.random.random() < 0.3 else "counter"))

    def draw_ending(self, hook: str, chains: tuple[str, ...], protocol: str) -> str:
        jumps = [f"{word} {name}" for word in ("jump", "goto") for name in chains]
        changes = [
            f"meta mark set {self.random.choice(MARKS)}",
            f"meta mark set meta mark | {self.random.choice(MARKS)}",
            f"meta mark set meta mark & {self.random.choice(MARKS)} ^ {self.random.choice(MARKS)}",
            f"ct mark set {self.random.choice(MARKS)}",
            "ct mark set meta mark", "meta mark set ct mark", "notrack",
        ]  # fmt: skip
        if protocol != "th":
            changes += [
                f"{protocol} {self.choose('dport', 'sport')} set {self.random.choice(PORTS)}",
                f"meta mark set {protocol} dport map {{ 22 : 1, 80-1023 : 2, 40003 : 3 }}",
            ]
        ends = ["accept", "drop", "drop", "return", "continue", "counter drop"]
        if hook == "input":
            ends.append("reject")
        return self.choose(*ends, *jumps, *changes)

    def _draw_verdict_map(self, chains: tuple[str, ...]) -> str:
        ends = ("accept", "drop", "return", "continue", *(f"jump {name}" for name in chains))

        def end() -> str:
            return self.choose(*ends)

        rest = f", * : {end()}" if self.random.random() < 0.3 else ""
        return self.choose(
            f"tcp dport vmap {{ 22 : {end()}, 80-1023 : {end()}, 40003 : {end()}{rest} }}",
            f"ct state vmap {{ new : {end()}, invalid : {end()}, untracked : {end()} }}",
            f"meta l4proto vmap {{ tcp : {end()}, udp : {end()} }}",
            f'iifname vmap {{ "eth0" : {end()}, "qmesh0" : {end()} }}',
        )

    def draw_match(self, protocol: str, family: str) -> str:
        random, ports = self.random, self._draw_ports()
        unlike = self.choose("", "", "!= ")
        fields = [
            f"{protocol} {self.choose('dport', 'sport')} {ports}",
            f"{protocol} dport {self.choose('', '!= ')}@{self.choose('ports', 'few')}",
            *([f"tcp flags {self._draw_flags()}"] * 3 if protocol == "tcp" else []),
            f"meta l4proto {unlike}{self.choose(*self._list_protocols(protocol))}",
            f"iifname {unlike}{self._draw_interface()}",
            f'iif {unlike}"{random.choice(INTERFACES)}"',
            f"meta iiftype {unlike}{self.choose('ether', '65534', 'loopback')}",
            f"meta iifkind {unlike}{self.choose(chr(34) + 'tun' + chr(34), chr(34) + 'bridge' + chr(34))}",
            f"ct state {self._draw_states()}",
            f"ct direction {self.choose('original', 'reply')}",
            f"ct mark {unlike}{random.choice(MARKS)}",
            f"meta mark {unlike}{random.choice(MARKS)}",
            f"meta mark & {random.choice(MARKS)} == {random.choice(MARKS)}",
            f"fib daddr type {unlike}{self.choose('local', 'unicast')}",
            "meta pkttype host",
            f"@th,16,16 {random.choice(PORTS)}",
            *self._list_address_matches(protocol, family),
        ]
        return self.choose(*fields)

    def _list_protocols(self, protocol: str) -> tuple[str, ...]:
        return ("tcp", "udp", "{ tcp, udp, 132 }") if protocol == "th" else (protocol, "{ tcp, udp, 132 }")

    def _list_address_matches(self, protocol: str, family: str) -> list[str]:
        random, unlike = self.random, self.choose("", "!= ")
        networks, targets = NETWORKS[family], TARGETS[family]
        fields = [
            f"{family} saddr {unlike}{random.choice(networks)}",
            f"{family} daddr {unlike}{random.choice(targets)}",
            f"{family} daddr {{ {', '.join(targets)} }}",
        ]
        if family == "ip":
            fields += [
                "ip saddr 198.51.3.0-198.51.200.7", "ip ttl < 60", "ip ttl 64", "ip dscp 8",
                "ip saddr & 0.0.0.3 == 0.0.0.1", "@nh,96,16 0xc633",
            ]  # fmt: skip
        else:
            fields += ["ip6 hoplimit > 60", "ip6 saddr & ::3 == ::1"]
        if protocol != "th":
            first, last = sorted(random.sample(PORTS, 2))
            fields += [
                f"{family} saddr . {protocol} dport {{ {networks[0]} . {first}-{last} }}",
                f"{family} daddr . {protocol} dport {{ {targets[0]} . {first}, {targets[-1]} . {last} }}",
            ]
        return fields

    def _draw_port_list(self) -> str:
        first, last, other = sorted(self.random.sample(PORTS, 3))
        return f"{first}-{last}, {other}" if last + 1 < other else f"{first}, {other}"

    def _draw_ports(self) -> str:
        first, last = sorted(self.random.sample(PORTS, 2))
        return self.choose(
            f"{first}", f"!= {first}", f"{first}-{last}", f"!= {first}-{last}", f"< {last}", f"<= {first}",
            f"> {first}", f">= {last}", f"{{ {self._draw_port_list()} }}",
            f"!= {{ {self._draw_port_list()} }}",
        )  # fmt: skip

    def _draw_flags(self) -> str:
        return self.choose(
            "syn", "ack", "!= syn", "syn,ack", "& (syn | ack) == syn", "& (syn | ack) != ack",
            "& rst == rst", "{ syn, ack }", "& (fin | syn | rst | ack) == ack",
        )  # fmt: skip

    def _draw_interface(self) -> str:
        return self.choose('"eth0"', '"eth1*"', '"eth*"', '"qmesh0"', '{ "eth0", "eth10" }')

    def _draw_states(self) -> str:
        return self.choose(
            "new",
            "!= new",
            "invalid",
            "untracked",
            "new,untracked",
            "established,related",
            "!= { invalid, new }",
        )
