"""One packet's walk through the chains of all tables: what drops it, or may.

A rule that was not understood is never silently one that lets pass: both ways are followed, and
where they end unlike, the answer says which rule it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from qmesh.mesh.foreign.lookups import Lookups
from qmesh.mesh.foreign.packets import Hook, Packet
from qmesh.mesh.foreign.rules import (
    Chain,
    Evaluation,
    Outcome,
    Place,
    Rule,
    Table,
    Translation,
    UnclearRule,
)

_DEEPEST: Final = 64
"""Jumps in jumps: the kernel follows 16, that of iptables as many as there are chains."""
TOO_MANY: Final = UnclearRule("more rules than qmesh follows")
MOST_RULES: Final = 2_000_000
"""That are held against all packets together, each chain as often as a packet may come to it."""


class Drop(msgspec.Struct, frozen=True, kw_only=True):
    """What drops a packet, or might.

    rule: None where it is the base chain's policy.
    is_certain: False where it depends on something that is not known.
    is_limit: whether that is no more than how many packets there are.
    visited: the chains that the packet came into, in order.
    """

    table: Table
    chain: str
    rule: Rule | None
    is_certain: bool
    is_limit: bool = False
    visited: tuple[str, ...] = ()


class Budget:
    """How many rules may be held against packets still: jumps multiply, and others wrote them."""

    def __init__(self, rules: int = MOST_RULES) -> None:
        self._left = rules

    def is_spent(self) -> bool:
        """Take one; whether there was none."""
        self._left -= 1
        return self._left < 0


def find_drops(
    tables: Iterable[Table],
    packet: Packet,
    *,
    budget: Budget | None = None,
    lookups: Lookups | None = None,
    interfaces: Mapping[str, int] | None = None,
) -> tuple[Drop, ...]:
    """Every base chain's drop of a packet, as of `walk_rulesets`."""
    return walk_rulesets(tables, packet, budget=budget, lookups=lookups, interfaces=interfaces)[0]


def walk_rulesets(
    tables: Iterable[Table],
    packet: Packet,
    *,
    budget: Budget | None = None,
    lookups: Lookups | None = None,
    interfaces: Mapping[str, int] | None = None,
) -> tuple[tuple[Drop, ...], Translation | None]:
    """Every base chain's drop of a packet, in the order in which it would meet them; where it is sent on to.

    The guard's own tables are walked too: where another program's rule says that the packet belongs to no
    connection, and the guard drops it therefore, that rule is named. Whether the guard itself is as it should
    be is the guard's own audit.

    budget: of all packets that are asked about together. lookups: what is known of sets.
    interfaces: numbers by name.
    """
    tables, budget = tuple(tables), budget or Budget()
    at = Evaluation(packet, lookups or Lookups(), interfaces or {})
    if not packet.opens and any(table.marks_connections for table in tables):
        first = Evaluation(packet.first_of_connection, at.lookups, at.interfaces)
        for _ in _walk_tables(tables, first, budget):
            pass
        at.fields.pop("ct mark", None)
        at.fields |= {field: value for field, value in first.fields.items() if field == "ct mark"}
    drops = tuple(_walk_tables(tables, at, budget))
    return drops, at.translation


def _walk_tables(tables: tuple[Table, ...], at: Evaluation, budget: Budget) -> Iterator[Drop]:
    packet = at.packet
    for table, chain in _list_base_chains(tables, packet):
        has_connection = packet.has_connection and at.untracked is None
        # What this machine sends to itself was translated, or not, when it was sent.
        if chain.kind == "nat" and not (packet.opens and has_connection and packet.iif != "lo"):
            continue
        at.enter_chain(table, chain)
        drop = _TableWalk(at, budget).find_drop(chain)
        at.leave_chain()
        if drop is not None and table.is_own:
            drop = _blame_untracking(drop, at.untracked)
        if drop is not None:
            yield drop
        if at.translation is not None:
            return  # from here on it goes another way


def _blame_untracking(drop: Drop, untracked: Place | None) -> Drop | None:
    if untracked is None or not drop.is_certain:
        return None
    table, chain, rule = untracked
    return Drop(table=table, chain=chain, rule=rule, is_certain=True)


def _list_base_chains(tables: Iterable[Table], packet: Packet) -> list[tuple[Table, Chain]]:
    hooks: tuple[Hook, ...] = packet.hooks
    found = [
        (hooks.index(chain.hook), chain.priority, table, chain)
        for table in tables
        if table.family in {"inet", "netdev", packet.family}
        for chain in table.chains.values()
        if chain.hook in hooks and _is_on_interface(chain, packet)
    ]
    return [(table, chain) for _, _, table, chain in sorted(found, key=lambda each: each[:2])]


def _is_on_interface(chain: Chain, packet: Packet) -> bool:
    return not chain.devices or any(
        packet.interface.startswith(each[:-1]) if each.endswith("*") else packet.interface == each
        for each in chain.devices
    )


class _ChainOutcomes(msgspec.Struct):
    """How a walk through a chain may end: several at once, where a rule was not understood.

    drop: the chain and rule that surely drops what comes there, else the first that may.
    doubt: the first that was not understood, or may be; is_limit: whether all such are about limits.
    """

    accepts: bool = False
    falls_through: bool = False
    unclear: bool = False
    drop: tuple[str, Rule] | None = None
    is_sure: bool = False
    doubt: tuple[str, Rule] | None = None
    is_limit: bool = True

    def add_drop(self, drop: tuple[str, Rule] | None, *, is_sure: bool) -> None:
        if drop is not None and (self.drop is None or (is_sure and not self.is_sure)):
            self.drop, self.is_sure = drop, is_sure

    def add_doubt(self, doubt: tuple[str, Rule], *, is_limit: bool = False) -> None:
        self.doubt = self.doubt or doubt
        self.is_limit &= is_limit

    def merge(self, other: _ChainOutcomes) -> None:
        self.accepts |= other.accepts
        self.unclear |= other.unclear
        self.add_drop(other.drop, is_sure=other.is_sure)
        if other.doubt is not None:
            self.add_doubt(other.doubt, is_limit=other.is_limit)


class _TableWalk:
    def __init__(self, at: Evaluation, budget: Budget) -> None:
        self._at = at
        self._table = at.table
        self._budget = budget
        self._visited: list[str] = []
        self._depth = 0

    def find_drop(self, chain: Chain) -> Drop | None:
        ends = self._walk_chain(chain.name, certain=True)
        if not ends.unclear and ends.drop is None and not (ends.falls_through and chain.drops):
            return None
        is_certain = not ends.accepts and not ends.unclear and (chain.drops or not ends.falls_through)
        is_limit = not is_certain and ends.is_limit and not ends.unclear
        # A limit is understood: what drops beyond it is known, and may be another rule or the policy.
        place = ends.drop if is_certain or is_limit else ends.doubt
        return Drop(
            table=self._table,
            chain=place[0] if place else chain.name,
            rule=place[1] if place else None,
            is_certain=is_certain,
            is_limit=is_limit,
            visited=tuple(self._visited),
        )

    def _walk_chain(self, name: str, *, certain: bool) -> _ChainOutcomes:
        """The ways in which a chain may end. certain: whether the packet surely comes into it."""
        self._visited.append(name)
        ends = _ChainOutcomes()
        for rule in self._table.chains[name].rules:
            if self._budget.is_spent():
                ends.falls_through, ends.unclear = True, True
                ends.add_doubt((name, TOO_MANY))
                return ends
            outcome = self._judge_rule(name, rule, certain=certain)
            if outcome.truth is False:
                continue
            if outcome.truth is None and outcome.verdict != "continue":
                ends.add_doubt((name, rule), is_limit=outcome.is_limit)
            is_over = self._apply_verdict(
                ends, name, rule, outcome, certain=certain and outcome.truth is True
            )
            if is_over and outcome.truth:
                return ends
            certain = certain and not is_over
        ends.falls_through = True
        return ends

    def _judge_rule(self, name: str, rule: Rule, *, certain: bool) -> Outcome:
        at = self._at
        at.chain, at.rule, at.is_certain, at.asked_limit = name, rule, certain, False
        try:
            return rule.judge(at)
        except Exception:  # noqa: BLE001 - whatever it is, others wrote it
            return Outcome(None, "unclear")

    def _apply_verdict(
        self, ends: _ChainOutcomes, name: str, rule: Rule, outcome: Outcome, *, certain: bool
    ) -> bool:
        """Note how the chain may end by this rule; return whether a match ends it."""
        match outcome.verdict:
            case "continue":
                return False
            case "accept":
                ends.accepts = True
            case "drop":
                ends.add_drop((name, rule), is_sure=outcome.truth is True)
            case "return":
                ends.falls_through = True
            case "unclear":
                ends.unclear = True
                ends.add_doubt((name, rule))
            case _ if outcome.target not in self._table.chains or self._depth == _DEEPEST:
                ends.unclear = ends.falls_through = True
                ends.add_doubt((name, rule))
            case _:  # a jump or goto
                self._depth += 1
                inner = self._walk_chain(outcome.target, certain=certain)
                self._depth -= 1
                if outcome.truth is None:
                    inner.is_sure = False
                ends.merge(inner)
                ends.falls_through |= inner.falls_through and outcome.verdict == "goto"
                return outcome.verdict == "goto" or not inner.falls_through
        return True
