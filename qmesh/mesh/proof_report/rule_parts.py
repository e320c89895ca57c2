"""The rules that a proof asks, part by part as octets: the same whenever they mean the same.

Left out is what changes by itself: handles, counters, what a quota has used, elements that rules add or that
go by themselves, the numbers of sets without a name, the order in which tables, chains and sets were made.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal, TypeAlias

import msgspec

from qmesh.mesh.foreign.expressions import Expression
from qmesh.mesh.foreign.kernel_rules import KernelRule
from qmesh.mesh.foreign.rulesets import Listing
from qmesh.mesh.foreign.xtables.legacy_tables import clear_counters, parse_legacy_table
from qmesh.mesh.printable import escape_line
from qmesh.mesh.prover.rulesets import ProvedRuleset, describe_rule
from qmesh.mesh.prover.set_contents import SetContent, SetKey

PartKind: TypeAlias = Literal["table", "chain", "rule", "set", "iptables-legacy"]
_MARK_OCTETS: Final = 8
_QUOTED: Final = frozenset(' "\\')
"""What a name without quotes has not."""
_WITHOUT_NAME: Final = ("__set", "__map")
_NAMES_OF_SETS: Final = {"lookup": 1, "dynset": 1, "objref": 4}
"""Which attribute of an expression names a set."""
_COUNTED: Final[Mapping[str, frozenset[int] | None]] = {
    "counter": None,
    "last": None,
    "quota": frozenset({4}),
}
"""Attributes that packets change; None for all. NFTA_QUOTA_CONSUMED."""


class RulePart(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the rules. place: as `describe_place` has it; rule: of a rule, for its words."""

    kind: PartKind
    place: str
    octets: bytes
    rule: KernelRule | None = None

    @property
    def text(self) -> str:
        """A rule in words."""
        return "" if self.rule is None else escape_line(describe_rule(self.rule).text)


class PlaceMarks(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Marks of the parts of one kind at one place, in their order. Without the key none says of what."""

    kind: PartKind
    place: str
    marks: tuple[str, ...]


def list_rule_parts(listing: Listing, ruleset: ProvedRuleset) -> list[RulePart]:
    """All parts, those of one kind together, by name; rules chain by chain in their order."""
    sets = {key: json.dumps(_plain_set(content)).encode() for key, content in ruleset.sets.items()}
    return [
        *_list_tables(listing),
        *_list_chains(listing),
        *_list_rules(listing.rules, sets),
        *(
            _make_part("set", key, content)
            for key, content in sorted(sets.items())
            if not key[2].startswith(_WITHOUT_NAME)
        ),
        *_list_legacy(listing),
    ]


def hash_rule_parts(parts: Iterable[RulePart]) -> str:
    """SHA-256 of all parts, hexadecimal."""
    found = hashlib.sha256()
    for part in parts:
        found.update(_frame(part))
    return found.hexdigest()


def mark_rule_parts(parts: Iterable[RulePart], key: bytes) -> tuple[PlaceMarks, ...]:
    """A mark of each part, which only one with the key can make."""
    found: dict[tuple[PartKind, str], list[str]] = defaultdict(list)
    for part in parts:
        digest = hmac.digest(key, _frame(part), "sha256")[:_MARK_OCTETS]
        found[part.kind, part.place].append(digest.hex())
    return tuple(PlaceMarks(kind, place, tuple(marks)) for (kind, place), marks in found.items())


def describe_place(names: Iterable[str]) -> str:
    """A table, chain or set by its names: printable, and no two places have the same words.

    The kernel takes any octets in a name. One with a space, or with what can't be printed, is in quotes.
    """
    return " ".join(name if _is_plain(name) else json.dumps(name) for name in names)


def _is_plain(name: str) -> bool:
    return name.isprintable() and bool(name) and _QUOTED.isdisjoint(name)


def _frame(part: RulePart) -> bytes:
    """A part so that no two rule sets are the same octets: where it ends is said before it."""
    return json.dumps([part.kind, part.place, len(part.octets)]).encode() + b"\n" + part.octets


def _make_part(
    kind: PartKind, names: tuple[str, ...], octets: bytes, rule: KernelRule | None = None
) -> RulePart:
    return RulePart(kind=kind, place=describe_place(names), octets=octets, rule=rule)


def _list_tables(listing: Listing) -> Iterator[RulePart]:
    for key in sorted(listing.tables):
        yield _make_part("table", key, b"")


def _list_chains(listing: Listing) -> Iterator[RulePart]:
    for chain in sorted(listing.chains, key=lambda each: (each.family, each.table, each.name)):
        if (chain.family, chain.table) in listing.tables:
            said = [chain.hook, chain.kind, chain.priority, chain.drops, sorted(chain.devices)]
            yield _make_part("chain", (chain.family, chain.table, chain.name), json.dumps(said).encode())


def _list_rules(rules: Iterable[KernelRule], sets: Mapping[SetKey, bytes]) -> Iterator[RulePart]:
    # Sorting keeps the order of those of one chain.
    for rule in sorted(rules, key=lambda each: (each.family, each.table, each.chain)):
        said = [_plain_expression(each, rule, sets) for each in rule.expressions]
        yield _make_part("rule", (rule.family, rule.table, rule.chain), json.dumps(said).encode(), rule)


def _plain_expression(
    expression: Expression, rule: KernelRule, sets: Mapping[SetKey, bytes]
) -> tuple[str, dict[int, str]]:
    name, attributes = expression.name, dict(expression.attributes)
    counted = _COUNTED.get(name, frozenset())
    for kind in tuple(attributes) if counted is None else counted:
        attributes.pop(kind, None)
    names = _NAMES_OF_SETS.get(name)
    if names in attributes:
        set_name = attributes[names].rstrip(b"\0").decode("utf-8", "surrogateescape")
        if set_name.startswith(_WITHOUT_NAME):
            content = sets.get((rule.family, rule.table, set_name), b"")
            attributes[names] = hashlib.sha256(content).digest()
    return name, {kind: attributes[kind].hex() for kind in sorted(attributes)}


def _plain_set(content: SetContent) -> list[object]:
    """A set with the elements that stay. Of one with too many elements, which no proof asks, none."""
    elements: list[list[object]] | None = None
    if content.elements is not None and not content.changes:
        elements = sorted(
            [each.key.hex(), each.last.hex(), each.ends_range, each.is_rest,
             "" if each.value is None else each.value.hex(), str(each.verdict), each.chain]
            for each in content.elements
            if not each.is_temporary
        )  # fmt: skip
    return [content.key_length, content.fields, content.has_ranges, content.changes, content.counts, elements]


def _list_legacy(listing: Listing) -> Iterator[RulePart]:
    for block in listing.legacy:
        yield _make_part(
            "iptables-legacy", (block.family, parse_legacy_table(block).name), clear_counters(block)
        )
