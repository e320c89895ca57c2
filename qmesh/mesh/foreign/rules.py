"""Rulesets as values, and one packet against them.

A rule that was not understood is never silently one that lets pass: both ways are followed, and
where they end unlike, the answer says which rule it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal, TypeAlias

import msgspec

from qmesh.mesh.foreign.packets import Packet
from qmesh.mesh.foreign.values import ElementSet, Truth, Value, ValueSet, all_of, any_of

Ending: TypeAlias = Literal["accept", "drop", "return", "jump", "goto", "unclear", "continue"]
Program: TypeAlias = Literal["nft", "iptables", "iptables-legacy"]
Fields: TypeAlias = dict[str, Value | None]


class Condition(msgspec.Struct, frozen=True):
    """Something that a rule asks of a packet.

    fields: what is compared; several for a concatenation. Empty: it could not be understood.
    among: alternatives, of which each has a collection for each field.
    """

    fields: tuple[str, ...] = ()
    alternatives: tuple[tuple[ValueSet, ...], ...] = ()
    negated: bool = False

    def matches(self, known: Mapping[str, Value | None]) -> Truth:
        """Whether a packet of these fields is meant. What it does not have at all is no match."""
        if not self.fields:
            return None
        values: list[Value] = []
        for field in self.fields:
            if known.get(field, 0) is None or known.get(field.partition(" ")[0], 0) is None:
                return False
            value = known.get(field)
            if value is None:
                return None
            values.append(value)
        truth = any_of(
            [
                all_of([each.has(value) for each, value in zip(row, values, strict=True)])
                for row in self.alternatives
            ]
        )
        return truth if truth is None else truth is not self.negated


_DEEPEST: Final = 64
"""Jumps in jumps: the kernel follows 16, that of iptables as many as there are chains."""


class FieldChange(msgspec.Struct, frozen=True):
    """A field that a rule sets; None: to something unclear."""

    field: str
    value: Value | None


class Rule(msgspec.Struct, frozen=True):
    """A rule, or one of the alternatives of a verdict map.

    text: as its program prints it. handle: nft's number of it.
    target: the chain of a jump or goto.
    """

    text: str
    conditions: tuple[Condition, ...] = ()
    verdict: Ending = "continue"
    target: str = ""
    changes: tuple[FieldChange, ...] = ()
    handle: int | None = None


def build_unclear_rule(text: str, handle: int | None = None) -> Rule:
    """A rule that may do anything, or nothing."""
    return Rule(text, (Condition(),), "unclear", handle=handle)


UNREAD: Final = build_unclear_rule("rules that could not be read")
TOO_MANY: Final = build_unclear_rule("more rules than qmesh follows")
MOST_RULES: Final = 2_000_000
"""That are held against all packets together, each chain as often as a packet may come to it."""


class Chain(msgspec.Struct, frozen=True, kw_only=True):
    """A chain; a base chain where it has a hook.

    devices: of a hook that is a device's; `*` ends the beginning of a name.
    """

    name: str
    rules: tuple[Rule, ...] = ()
    hook: str = ""
    priority: int = 0
    drops: bool = False
    devices: tuple[str, ...] = ()


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """A table with its chains, by name; family: by nft's name."""

    program: Program
    family: str
    name: str
    chains: Mapping[str, Chain]


class Drop(msgspec.Struct, frozen=True, kw_only=True):
    """What drops a packet, or might.

    rule: None where it is the base chain's policy.
    is_certain: False where `rule` could not be understood.
    visited: the chains that the packet came into, in order.
    """

    table: Table
    chain: str
    rule: Rule | None
    is_certain: bool
    visited: tuple[str, ...]


class Budget:
    """How many rules may be held against packets still: jumps multiply, and others wrote them."""

    def __init__(self, rules: int = MOST_RULES) -> None:
        self._left = rules

    def is_spent(self) -> bool:
        """Take one; whether there was none."""
        self._left -= 1
        return self._left < 0


def find_drops(tables: Iterable[Table], packet: Packet, budget: Budget | None = None) -> Iterator[Drop]:
    """Every base chain's drop of a packet, in the order in which it would meet them.

    budget: of all packets that are asked about together.
    """
    budget = budget or Budget()
    known = packet.fields()
    found = [
        (packet.hooks.index(chain.hook), chain.priority, table, chain)
        for table in tables
        if table.family in {"inet", "netdev", packet.family}
        for chain in table.chains.values()
        if chain.hook in packet.hooks and _is_on_interface(chain, packet)
    ]
    for _, _, table, chain in sorted(found, key=lambda each: each[:2]):
        at_hook = known if chain.hook != "ingress" else _strip_conntrack_fields(known)
        drop = _TableWalk(table, at_hook, budget).find_drop(chain)
        if drop is not None:
            yield drop


def _is_on_interface(chain: Chain, packet: Packet) -> bool:
    return not chain.devices or bool(ElementSet(chain.devices).has(packet.interface))


def _strip_conntrack_fields(known: Fields) -> Fields:
    return {field: value for field, value in known.items() if not field.startswith(("ct ", "fib "))}


class _ChainOutcomes(msgspec.Struct):
    """How a walk through a chain may end: several at once, where a rule was not understood.

    drop: the chain and the rule. doubt: the first that was not understood.
    """

    accepts: bool = False
    falls_through: bool = False
    unclear: bool = False
    drop: tuple[str, Rule] | None = None
    doubt: tuple[str, Rule] | None = None

    def merge(self, other: _ChainOutcomes) -> None:
        self.accepts |= other.accepts
        self.unclear |= other.unclear
        self.drop = self.drop or other.drop
        self.doubt = self.doubt or other.doubt


class _TableWalk:
    def __init__(self, table: Table, known: Fields, budget: Budget) -> None:
        self._table = table
        self._known = known
        self._budget = budget
        self._visited: list[str] = []
        self._depth = 0

    def find_drop(self, chain: Chain) -> Drop | None:
        ends = self._walk_chain(chain.name, certain=True)
        if not ends.unclear and ends.drop is None and not (ends.falls_through and chain.drops):
            return None
        is_certain = not ends.accepts and not ends.unclear and (chain.drops or not ends.falls_through)
        place = ends.drop if is_certain else ends.doubt
        return Drop(
            table=self._table,
            chain=place[0] if place else chain.name,
            rule=place[1] if place else None,
            is_certain=is_certain,
            visited=tuple(self._visited),
        )

    def _walk_chain(self, name: str, *, certain: bool) -> _ChainOutcomes:
        """The ways in which a chain may end. certain: whether the packet surely comes into it."""
        self._visited.append(name)
        ends = _ChainOutcomes()
        for rule in self._table.chains[name].rules:
            if self._budget.is_spent():
                ends.falls_through, ends.unclear, ends.doubt = True, True, (name, TOO_MANY)
                return ends
            truth = self._match_rule(rule)
            if truth is False:
                continue
            if truth is None and rule.verdict != "continue":
                ends.doubt = ends.doubt or (name, rule)
            self._apply_changes(rule, certain=certain and truth is True)
            if self._apply_verdict(ends, name, rule, certain=certain and truth is True) and truth:
                return ends
        ends.falls_through = True
        return ends

    def _match_rule(self, rule: Rule) -> Truth:
        try:
            return all_of([condition.matches(self._known) for condition in rule.conditions])
        except Exception:  # noqa: BLE001 - whatever it is, others wrote it
            return None

    def _apply_verdict(self, ends: _ChainOutcomes, name: str, rule: Rule, *, certain: bool) -> bool:
        """Note how the chain may end by this rule; return whether a match ends it."""
        match rule.verdict:
            case "continue":
                return False
            case "accept":
                ends.accepts = True
            case "drop":
                ends.drop = ends.drop or (name, rule)
            case "return":
                ends.falls_through = True
            case "unclear":
                ends.unclear = True
                ends.doubt = ends.doubt or (name, rule)
            case _ if rule.target not in self._table.chains or self._depth == _DEEPEST:
                ends.unclear = ends.falls_through = True
                ends.doubt = ends.doubt or (name, rule)
            case _:  # a jump or goto
                self._depth += 1
                inner = self._walk_chain(rule.target, certain=certain)
                self._depth -= 1
                ends.merge(inner)
                ends.falls_through |= inner.falls_through and rule.verdict == "goto"
                return rule.verdict == "goto" or not inner.falls_through
        return True

    def _apply_changes(self, rule: Rule, *, certain: bool) -> None:
        for change in rule.changes:
            if certain and change.value is not None:
                self._known[change.field] = change.value
            else:
                self._known.pop(change.field, None)
