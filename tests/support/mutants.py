"""The guard, broken in one place each: kinds of mistakes, each at every place of its kind, drawn by a seed.

A kind is a mistake of one sort in one chain, such as "drop made accept, in closed_port". Both of the guard's
tables are broken alike. Some mutants are no mistakes: they are the same guard in other words, or differ where
another rule drops the same. What notices a mutant shows that it is one.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from qmesh.mesh.guard.render import render_table, render_unowned_table
from qmesh.mesh.state import Guard


class Mutant(NamedTuple):
    """kind: what was done, and where. first, held: the two tables."""

    kind: str
    first: str
    held: str


class Mistake(NamedTuple):
    """What somebody does to a line. change: the line as it is then, and None where it has no such place."""

    name: str
    change: Callable[[str], str | None]


def replacing(old: str, new: str) -> Callable[[str], str | None]:
    """Every such text in the line."""
    return lambda line: re.sub(old, new, line) if re.search(old, line) else None


def inverting(match: str) -> Callable[[str], str | None]:
    """The operator of one match: its value becomes all others."""
    return replacing(rf"\b({match}) (?!!=)(?=[\w@{{\"])", r"\1 != ")


def forgetting(match: str) -> Callable[[str], str | None]:
    """One match of a rule."""
    return replacing(rf'\b{match} (!= )?("[^"]*"|{{[^}}]*}}|\S+) ', "")


MISTAKES: Final = (
    Mistake("a rule dropped", lambda line: "" if _is_rule(line) else None),
    Mistake("accept made drop", replacing(r"\baccept$", "drop")),
    Mistake("drop made accept", replacing(r"\bdrop$", "accept")),
    Mistake("goto made accept", replacing(r"goto \w+$", "accept")),
    Mistake("goto made return", replacing(r"goto \w+$", "return")),
    Mistake("goto made jump", replacing(r"goto (\w+)$", r"jump \1")),
    Mistake("goto another chain", replacing(r"goto (?!answered)\w+$", "goto answered")),
    Mistake("priority after address translation", replacing(r"priority mangle", "priority 120")),
    Mistake("priority before connections are known", replacing(r"priority mangle", "priority -350")),
    Mistake("hook input made prerouting", replacing(r"hook input", "hook prerouting")),
    Mistake("hook prerouting made input", replacing(r"hook prerouting", "hook input")),
    Mistake("hook forward made postrouting", replacing(r"hook forward", "hook postrouting")),
    Mistake("hook output made postrouting", replacing(r"hook output", "hook postrouting")),
    Mistake("policy made drop", replacing(r"policy accept", "policy drop")),
    Mistake("the tunnel's name swapped", replacing(r'"qmesh0"', '"eth0"')),
    Mistake("the tunnel's name only begun", replacing(r'"qmesh0"', '"qm*"')),
    Mistake("the tunnel's kind swapped", replacing(r'kind "(tun|wireguard)"', 'kind "veth"')),
    Mistake("bridges swapped for the tunnel", replacing(r'kind "bridge"', 'kind "tun"')),
    Mistake("in made out", replacing(r"\biif(name|kind|type)", r"oif\1")),
    Mistake("source made destination", replacing(r"\bsaddr\b", "daddr")),
    Mistake("destination made source", replacing(r"(?<!fib )\bdaddr\b", "saddr")),
    Mistake("source port made destination port", replacing(r"\bsport\b", "dport")),
    Mistake("destination port made source port", replacing(r"\bdport\b", "sport")),
    Mistake("only TCP", replacing(r"meta l4proto \{ tcp, udp \}", "meta l4proto tcp")),
    Mistake("only UDP", replacing(r"meta l4proto \{ tcp, udp \}", "meta l4proto udp")),
    Mistake("only IPv4", replacing(r"meta l4proto \{", "meta nfproto ipv4 meta l4proto {")),
    Mistake("only IPv6", replacing(r"meta l4proto \{", "meta nfproto ipv6 meta l4proto {")),
    Mistake("the control node's address another", replacing(r"10\.77\.0\.1\b", "10.77.0.3")),
    Mistake("the control node's network", replacing(r"saddr 10\.77\.0\.1\b", "saddr 10.77.0.0/24")),
    Mistake("an interval too short at its begin", replacing(r"\b40000-", "40001-")),
    Mistake("an interval too short at its end", replacing(r"-40003\b", "-40002")),
    Mistake("an interval too long", replacing(r"-40003\b", "-40040")),
    Mistake("another set", replacing(r"@closed_ports", "@guarded_ports")),
    Mistake("another of the small sets", replacing(r"@(guarded|control|mesh)_ports", "@closed_ports")),
    Mistake("a set forgotten", replacing(r"th [sd]port (!= )?@\w+ ", "")),
    Mistake("reply made original", replacing(r"ct direction reply", "ct direction original")),
    Mistake("original made reply", replacing(r"ct direction original", "ct direction reply")),
    Mistake("established in place of reply", replacing(r"ct direction reply", "ct state established")),
    Mistake("new made established", replacing(r"ct state new", "ct state established")),
    Mistake("flags of TCP swapped", replacing(r"tcp flags syn\b", "tcp flags ack")),
    Mistake("flags of TCP widened", replacing(r"tcp flags rst,ack", "tcp flags syn,rst,ack")),
    Mistake("another user", replacing(r"skuid (!= )?0", r"skuid \g<1>65534")),
    Mistake("local made broadcast", replacing(r"fib daddr type local", "fib daddr type broadcast")),
    Mistake("another port of the service", replacing(r"\bdport 9377\b", "dport 9378")),
    Mistake("WireGuard's port another", replacing(r"\b51820\b", "51821")),
    *(
        Mistake(f"{match} inverted", inverting(match))
        for match in (
            "iifname",
            "oifname",
            "meta iifkind",
            "meta oifkind",
            "meta iiftype",
            "meta oiftype",
            "ip saddr",
            "ip daddr",
            "th dport",
            "th sport",
            "tcp dport",
            "tcp sport",
            "udp dport",
            "udp sport",
            "meta l4proto",
            "ct direction",
            "ct state",
            "ct status",
            "fib daddr type",
            "meta skuid",
        )
    ),
    *(
        Mistake(f"{match} forgotten", forgetting(match))
        for match in (
            "iifname",
            "oifname",
            "meta iifkind",
            "meta oifkind",
            "meta iiftype",
            "meta oiftype",
            "ip saddr",
            "ip daddr",
            "tcp sport",
            "meta l4proto",
            "ct direction",
            "ct state",
            "ct status",
            "fib daddr type",
            "tcp flags",
        )
    ),
)
_ELEMENTS: Final = re.compile(r"\n\t\telements = \{ ([^}]*) \}")


def _is_rule(line: str) -> bool:
    return bool(re.search(r"\b(accept|drop|return|goto \w+|jump \w+)$", line)) and "hook" not in line


def list_mutants(guard: Guard) -> list[Mutant]:
    """Each mistake at each place where it can be made; sets too small, chains changed for each other."""
    tables = render_table(guard), render_unowned_table(guard)
    return list(dict.fromkeys(each for each in _list_all(*tables) if each[1:] != tables))


def _list_all(first: str, held: str) -> Iterator[Mutant]:
    chains = re.findall(r"\tchain (\w+) \{", first)
    for mistake in MISTAKES:
        for chain in chains:
            for number in range(_count_places(first, chain, mistake)):
                yield Mutant(
                    f"{mistake.name}, in {chain}",
                    *(_break_line(table, chain, mistake, number) for table in (first, held)),
                )
    for chain in chains:
        for number in range(len(_find_neighbours(first, chain))):
            turned = (_turn(table, chain, number) for table in (first, held))
            yield Mutant(f"two rules the other way round, in {chain}", *turned)
    for name in re.findall(r"\tset (\w+_ports) \{", first):
        yield Mutant(f"{name} emptied", *(_change_set(table, name, "") for table in (first, held)))
        yield Mutant(f"{name} without its last", *(_shorten_set(table, name) for table in (first, held)))
    for one, other in itertools.pairwise(chains):
        yield Mutant(f"rules of {one} in {other}", *(_swap(table, one, other) for table in (first, held)))
    yield Mutant("of family ip alone", *(each.replace("table inet", "table ip", 1) for each in (first, held)))


def _find_chain(table: str, chain: str) -> tuple[int, int]:
    start = table.index(f"\tchain {chain} {{\n")
    return start, table.index("\n\t}\n", start)


def _count_places(table: str, chain: str, mistake: Mistake) -> int:
    start, end = _find_chain(table, chain)
    return sum(mistake.change(line) is not None for line in table[start:end].split("\n"))


def _break_line(table: str, chain: str, mistake: Mistake, number: int) -> str:
    """The table with that mistake in the one of the chain's lines in which it can be made."""
    start, end = _find_chain(table, chain)
    lines = table[start:end].split("\n")
    places = [place for place, line in enumerate(lines) if mistake.change(line) is not None]
    if number < len(places):
        lines[places[number]] = mistake.change(lines[places[number]]) or ""
    return table[:start] + "\n".join(lines) + table[end:]


def _find_neighbours(table: str, chain: str) -> list[re.Match[str]]:
    """Each two rules of a chain that follow upon each other."""
    start, end = _find_chain(table, chain)
    both = re.compile(r"^(\t\t(?!type)[^\n]+\n)(?=(\t\t[^\n]+)$)", re.MULTILINE)
    return list(both.finditer(table, start, end))


def _turn(table: str, chain: str, number: int) -> str:
    """The table with two of the chain's rules the other way round."""
    found = _find_neighbours(table, chain)
    if number >= len(found):
        return table
    one, other = found[number][1], found[number][2]
    return f"{table[: found[number].start()]}{other}\n{one[:-1]}{table[found[number].end(2) :]}"


def _change_set(table: str, name: str, elements: str) -> str:
    start = table.index(f"\tset {name} {{")
    end = table.index("\n\t}\n", start)
    return table[:start] + _ELEMENTS.sub(elements, table[start:end]) + table[end:]


def _shorten_set(table: str, name: str) -> str:
    start = table.index(f"\tset {name} {{")
    found = _ELEMENTS.search(table, start, table.index("\n\t}\n", start))
    kept = [] if found is None else found[1].split(",")[:-1]
    return _change_set(table, name, f"\n\t\telements = {{ {','.join(kept)} }}" if kept else "")


def _swap(table: str, one: str, other: str) -> str:
    return re.sub(
        rf"\b(chain) ({one}|{other})\b",
        lambda found: f"{found[1]} {other if found[2] == one else one}",
        table,
    )


def count_kinds(mutants: list[Mutant]) -> int:
    """How many kinds there are among them."""
    return len({each.kind for each in mutants})


def draw_mutants(guard: Guard, count: int, seed: int) -> list[Mutant]:
    """So many, of as many kinds as that."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    by_kind: dict[str, list[Mutant]] = {}
    for each in list_mutants(guard):
        by_kind.setdefault(each.kind, []).append(each)
    kinds = chance.sample(sorted(by_kind), min(count, len(by_kind)))
    return [chance.choice(by_kind[kind]) for kind in kinds]
