"""All rules of a machine as the prover asks them: base chains by hook, in the order of their priorities."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

import msgspec

from qmesh.mesh.foreign.expressions import Expression, read_number
from qmesh.mesh.foreign.kernel_rules import KernelRule
from qmesh.mesh.foreign.rule_text import render_rule
from qmesh.mesh.foreign.rulesets import ListedChain, Listing
from qmesh.mesh.foreign.xtables.legacy_tables import parse_legacy_table
from qmesh.mesh.guard.tables import HELD, TABLE
from qmesh.mesh.prover.rule_run import RulePlace, decode_name
from qmesh.mesh.prover.set_contents import SetContent, SetContents, SetKey
from qmesh.mesh.prover.traveller import Family
from qmesh.mesh.routes.detours import RoutingTables

TableKey: TypeAlias = tuple[str, str]
"""Family and name."""
Routes: TypeAlias = Mapping[Family, RoutingTables]
_LEGACY: Final = "iptables-legacy "
"""Before the names of its tables: they are beside those of nftables."""
_DELETE: Final = (2).to_bytes(4, "big")
"""NFT_DYNSET_OP_DELETE."""
_UNCLEAR: Final = (Expression("iptables-legacy", {}),)
_STARTING: Final = {"ct", "nat", "masq", "redir", "connlimit", "flow_offload", "synproxy"}
"""Expressions for which the kernel begins to track connections, and so puts packets in pieces together."""


class ProvedRuleset(msgspec.Struct, frozen=True, kw_only=True):
    """Tables with their chains and sets. chains: by table; rules: by table and chain.

    routes: of the machine; of a family that is not here they are not known.
    """

    chains: Mapping[TableKey, Mapping[str, ListedChain]]
    rules: Mapping[tuple[str, str, str], tuple[KernelRule, ...]]
    sets: SetContents
    routes: Routes = MappingProxyType({})

    @property
    def own_tables(self) -> tuple[TableKey, ...]:
        """Those of the guard, by the names that they have here."""
        return tuple(key for key in self.chains if key[0] == "inet" and key[1].rstrip(" ") in {TABLE, HELD})

    def without(self, *tables: TableKey) -> ProvedRuleset:
        """The same with these tables gone."""
        kept = {key: chains for key, chains in self.chains.items() if key not in tables}
        return msgspec.structs.replace(self, chains=kept)

    def only(self, *tables: TableKey) -> ProvedRuleset:
        """Nothing but these tables."""
        return self.without(*(key for key in self.chains if key not in tables))

    def list_base_chains(self, hook: str, family: str) -> list[ListedChain]:
        """Those that packets of a family come to at a hook, in their order."""
        found = [
            chain
            for (table_family, _), chains in self.chains.items()
            for chain in chains.values()
            if chain.hook == hook and table_family in {"inet", "netdev", family}
        ]
        return sorted(found, key=lambda chain: chain.priority)

    def list_rules(self, families: Iterable[str]) -> Iterator[KernelRule]:
        """Every rule of these families."""
        wanted = set(families)
        for (family, table, _), rules in self.rules.items():
            if family in wanted and (family, table) in self.chains:
                yield from rules

    def tracks_connections(self, family: str) -> bool:
        """Whether a rule has the kernel track connections of a family."""
        return any(
            each.name in _STARTING or (each.name in {"match", "target"} and _is_of_conntrack(each))
            for rule in self.list_rules({"inet", family})
            for each in rule.expressions
        )

    def translates_arrivals(self, family: str) -> bool:
        """Whether rules may give what this machine gets another source, so that its answers go elsewhere."""
        return any(
            chain.kind == "nat" and self.rules.get((chain.family, chain.table, chain.name))
            for chain in self.list_base_chains("input", family)
        )

    def untracks_pieces(self, family: str) -> bool:
        """Whether a rule may say that a packet is in no connection before its pieces are put together."""
        early = {
            (chain.family, chain.table)
            for hook in ("ingress", "prerouting")
            for chain in self.list_base_chains(hook, family)
            if chain.hook == "ingress" or chain.priority <= DEFRAGMENTATION
        }
        return any(
            each.name in {"notrack", "target", "iptables-legacy"}
            for rule in self.list_rules({"inet", "netdev", family})
            if (rule.family, rule.table) in early
            for each in rule.expressions
        )


DEFRAGMENTATION: Final = -400
"""NF_IP_PRI_CONNTRACK_DEFRAG."""


def _is_of_conntrack(expression: Expression) -> bool:
    name = expression.attributes.get(1, b"").rstrip(b"\0")
    return name in {b"conntrack", b"state", b"CT", b"connmark", b"CONNMARK", b"connlimit", b"MASQUERADE"}


def list_changes(ruleset: ProvedRuleset, table: TableKey) -> frozenset[str]:
    """What rules of a table may change of a packet: by the words of `_ALL`."""
    found: set[str] = set()
    for rule in ruleset.list_rules({table[0]}):
        if rule.table == table[1]:
            for each in rule.expressions:
                found |= _list_changes_of(each)
    return frozenset(found)


_ALL: Final = frozenset({"mark", "connection mark", "headers", "tracking", "template", "packet type"})
_META_CHANGES: Final = {3: frozenset({"mark"}), 19: frozenset({"packet type"})}
_QUIET: Final = frozenset(
    {"immediate", "cmp", "range", "bitwise", "byteorder", "lookup", "counter", "log", "last", "limit",
     "connlimit", "quota", "dynset", "fib", "reject", "match", "exthdr", "objref", "hash", "numgen", "osf",
     "socket", "xfrm", "tunnel", "rt", "inner", "dup", "nat", "masq", "redir"}
)  # fmt: skip
_QUIET_TARGETS: Final = frozenset(
    {b"LOG", b"NFLOG", b"REJECT", b"TCPMSS", b"CHECKSUM", b"DNAT", b"SNAT", b"MASQUERADE", b"REDIRECT"}
)


def _list_changes_of(expression: Expression) -> frozenset[str]:
    name, attributes = expression.name, expression.attributes
    if name == "match" and attributes.get(1, b"").rstrip(b"\0") == b"socket":
        return frozenset({"mark"})
    if name in _QUIET or (name == "target" and attributes.get(1, b"").rstrip(b"\0") in _QUIET_TARGETS):
        return frozenset()
    match name:
        case "payload":
            return frozenset({"headers"} if 5 in attributes else ())
        case "meta":
            return (
                _META_CHANGES.get(read_number(attributes, 2), frozenset()) if 3 in attributes else frozenset()
            )
        case "ct":
            return frozenset({"connection mark", "template"} if 4 in attributes else ())
        case "notrack":
            return frozenset({"tracking"})
        case "target" if attributes.get(1, b"").rstrip(b"\0") in {b"MARK", b"CONNMARK"}:
            return frozenset({"mark", "connection mark"})
    return _ALL


def describe_rule(rule: KernelRule) -> RulePlace:
    """A rule in words like nft's."""
    if rule.expressions == _UNCLEAR:
        return RulePlace(
            (rule.family, rule.table), rule.chain, "rules of iptables-legacy, which are not followed"
        )
    text = render_rule([(each.name, each.attributes) for each in rule.expressions])
    return RulePlace((rule.family, rule.table), rule.chain, text, rule.handle)


def build_ruleset(
    listing: Listing, sets: SetContents, routes: Routes = MappingProxyType({})
) -> ProvedRuleset:
    """What was read, for the prover. Raises ValueError or struct.error for what is none."""
    chains: dict[TableKey, dict[str, ListedChain]] = {key: {} for key in listing.tables}
    rules: dict[tuple[str, str, str], list[KernelRule]] = {}
    for each in itertools.chain(listing.chains, _list_legacy_chains(listing)):
        key = each.family, each.table
        if key in chains or each.table.startswith(_LEGACY):
            chains.setdefault(key, {})[each.name] = each
    for rule in itertools.chain(listing.rules, _list_legacy_rules(listing)):
        rules.setdefault((rule.family, rule.table, rule.chain), []).append(rule)
    kept = {key: tuple(found) for key, found in rules.items()}
    changed = _note_changes(listing.rules, sets)
    return ProvedRuleset(chains=chains, rules=kept, sets=changed, routes=routes)


def _note_changes(rules: Iterable[KernelRule], sets: SetContents) -> dict[SetKey, SetContent]:
    """The sets, and of each whether rules add and remove elements, whatever its flags say."""
    found = dict(sets)
    for rule in rules:
        for each in rule.expressions:
            key = rule.family, rule.table, decode_name(each.attributes.get(1, b""))
            if each.name == "dynset" and key in found:
                loses = each.attributes.get(3) == _DELETE or found[key].loses
                found[key] = msgspec.structs.replace(found[key], changes=True, loses=loses)
    return found


def _list_legacy_chains(listing: Listing) -> Iterator[ListedChain]:
    """The base chains that iptables-legacy has."""
    for block in listing.legacy:
        table = parse_legacy_table(block)
        for chain in table.chains.values():
            if chain.hook:
                yield ListedChain(
                    family=block.family, table=f"{_LEGACY}{table.name}", name=chain.name, hook=chain.hook,
                    kind="nat" if table.name == "nat" else "filter", priority=chain.priority,
                    drops=chain.drops,
                )  # fmt: skip


def _list_legacy_rules(listing: Listing) -> Iterator[KernelRule]:
    """One for each of these that has rules: what is in it is not followed."""
    for block in listing.legacy:
        table = parse_legacy_table(block)
        for chain in table.chains.values():
            if chain.hook and chain.rules:
                yield KernelRule(block.family, f"{_LEGACY}{table.name}", chain.name, 0, _UNCLEAR)
