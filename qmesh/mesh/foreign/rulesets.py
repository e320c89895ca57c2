"""All that was read of a machine's firewalls, and the tables in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from qmesh.mesh.foreign.kernel_rules import BuiltRule, KernelRule
from qmesh.mesh.foreign.lookups import SetHeader
from qmesh.mesh.foreign.rules import Chain, Program, Table
from qmesh.mesh.foreign.xtables.legacy_tables import LegacyBlock, parse_legacy_table

FAMILIES: Final = frozenset({"inet", "ip", "ip6", "netdev"})
"""Those that an IP packet of the mesh passes."""
_HOOKS_OF_IPTABLES: Final = frozenset({"INPUT", "FORWARD", "OUTPUT", "PREROUTING", "POSTROUTING"})
_TABLES_OF_IPTABLES: Final = frozenset({"filter", "nat", "mangle", "raw", "security"})
_KNOWN_TO_IPTABLES: Final = frozenset(
    {
        "match",
        "target",
        "payload",
        "meta",
        "bitwise",
        "cmp",
        "immediate",
        "counter",
        "lookup",
        "limit",
        "log",
        "range",
    }
)


class ListedChain(msgspec.Struct, frozen=True, kw_only=True):
    """A chain as the kernel lists it. Names that are not UTF-8 have surrogates, here and below."""

    family: str
    table: str
    name: str
    hook: str = ""
    kind: str = ""
    priority: int = 0
    drops: bool = False
    devices: tuple[str, ...] = ()


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """What was read.

    tables: family and name of those that are awake. own: those of them that are the guard's.
    sets: by family, table and name.
    legacy: tables of iptables-legacy.
    lasting: text of /etc/nftables.conf; None without one.
    interfaces: numbers by name.
    """

    tables: tuple[tuple[str, str], ...]
    own: frozenset[tuple[str, str]] = frozenset()
    chains: tuple[ListedChain, ...] = ()
    rules: tuple[KernelRule, ...] = ()
    sets: Mapping[tuple[str, str, str], SetHeader] = {}
    legacy: tuple[LegacyBlock, ...] = ()
    lasting: str | None = None
    interfaces: Mapping[str, int] = {}


def build_tables(listing: Listing) -> tuple[Table, ...]:
    """Every table with what is in it."""
    rules: dict[tuple[str, str, str], list[KernelRule]] = {}
    for rule in listing.rules:
        rules.setdefault((rule.family, rule.table, rule.chain), []).append(rule)
    chains: dict[tuple[str, str], dict[str, Chain]] = {key: {} for key in listing.tables}
    for each in listing.chains:
        if (each.family, each.table) in chains:
            found = rules.get((each.family, each.table, each.name), [])
            chains[each.family, each.table][each.name] = Chain(
                name=each.name,
                rules=tuple(map(BuiltRule, found)),
                hook=each.hook,
                kind=each.kind,
                priority=each.priority,
                drops=each.drops,
                devices=each.devices,
            )
    sets: dict[tuple[str, str], dict[str, SetHeader]] = {}
    for (family, table, name), header in listing.sets.items():
        sets.setdefault((family, table), {})[name] = header
    by_table: dict[tuple[str, str], list[KernelRule]] = {key: [] for key in listing.tables}
    for rule in listing.rules:
        by_table.setdefault((rule.family, rule.table), []).append(rule)
    nft = tuple(
        Table(
            program=_find_program(key, chains[key], by_table[key]),
            family=key[0],
            name=key[1],
            chains=chains[key],
            sets=sets.get(key, {}),
            is_own=key in listing.own,
            marks_connections=any(rule.marks_connection for rule in by_table[key]),
        )
        for key in listing.tables
    )
    return (*nft, *map(parse_legacy_table, listing.legacy))


def _find_program(key: tuple[str, str], chains: Mapping[str, Chain], rules: Iterable[KernelRule]) -> Program:
    """Which program can change a table: iptables refuses one with anything that it does not know."""
    names = {chain.name for chain in chains.values() if chain.hook}
    is_named = key[0] in {"ip", "ip6"} and key[1] in _TABLES_OF_IPTABLES and names <= _HOOKS_OF_IPTABLES
    is_known = is_named and all(
        expression.name in _KNOWN_TO_IPTABLES for rule in rules for expression in rule.expressions
    )
    return "iptables" if is_known and names else "nft"
