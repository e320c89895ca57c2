"""What a report says of the rules, without saying them."""

from __future__ import annotations

from collections import defaultdict

import msgspec

from qmesh.mesh.foreign.rulesets import Listing
from qmesh.mesh.proof_report.nft_hash import NftHash, hash_nft_listing
from qmesh.mesh.proof_report.rule_parts import (
    PlaceMarks,
    describe_place,
    hash_rule_parts,
    list_rule_parts,
    mark_rule_parts,
)
from qmesh.mesh.prover.rulesets import ProvedRuleset

_OF_IPTABLES = frozenset({"match", "target"})


class AskedRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rules that were asked.

    rules, sets: how many. unread_sets: those of which no element was asked, as there are too many.
    sha256: of all that was asked. nft: None where it was not computed. not_in_nft: rules with something that
    nft's JSON lacks. marks: of each part, in the order in which they are hashed.
    """

    rules: int
    sets: int
    unread_sets: tuple[str, ...]
    sha256: str
    nft: NftHash | None
    not_in_nft: int
    marks: tuple[PlaceMarks, ...]


class RuleSummary(msgspec.Struct, frozen=True):
    """For a report what it says of the rules, and for the machine itself each rule in words, by its chain."""

    asked: AskedRules
    words: dict[str, tuple[str, ...]]


def summarize_rules(
    listing: Listing, ruleset: ProvedRuleset, *, listed: bytes | None, marking: bytes
) -> RuleSummary:
    """All that a report needs of the rules.

    listed: nft's JSON of them, if there is one. marking: the key for marks. Raises Malformed.
    """
    parts = list_rule_parts(listing, ruleset)
    rules = [each.rule for each in parts if each.rule is not None]
    words = defaultdict(list)
    for part in parts:
        if part.kind == "rule":
            words[part.place].append(part.text)
    unread = (key for key, content in ruleset.sets.items() if content.elements is None)
    asked = AskedRules(
        rules=len(rules),
        sets=len(ruleset.sets),
        unread_sets=tuple(map(describe_place, unread)),
        sha256=hash_rule_parts(parts),
        nft=None if listed is None else hash_nft_listing(listed),
        not_in_nft=sum(any(each.name in _OF_IPTABLES for each in rule.expressions) for rule in rules),
        marks=mark_rule_parts(parts, marking),
    )
    return RuleSummary(asked, {place: tuple(texts) for place, texts in words.items()})
