"""What is another thing now than a page says, each named in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal, TypeAlias

import msgspec

from qmesh.mesh.printable import escape_line
from qmesh.mesh.proof_report.nft_hash import NftHash
from qmesh.mesh.proof_report.report_facts import ClaimKey, ReportedClaim, ReportFacts
from qmesh.mesh.proof_report.rule_parts import PartKind, PlaceMarks

DifferenceKind: TypeAlias = Literal["report", "signature", "machine", "guard", "rules", "claims"]
_FAMILIES: Final = {"ip": "IPv4", "ip6": "IPv6"}
_MOST_NAMED: Final = 50
"""Rules of one chain that are named one by one."""


class Difference(msgspec.Struct, frozen=True):
    """Something that is not as the page says. text: one line."""

    kind: DifferenceKind
    text: str


def list_differences(
    then: ReportFacts, now: ReportFacts, words: Mapping[str, Sequence[str]], *, has_marks: bool
) -> Iterator[Difference]:
    """Of the guard, the rules and the claims.

    now: what a report of now would say. words: now's rules, by their chains. has_marks: whether the report's
    marks are by the same key as now's.
    """
    yield from _list_of_guard(then, now)
    if then.asked.sha256 != now.asked.sha256:
        named = list(_list_of_rules(then.asked.marks, now.asked.marks, words)) if has_marks else []
        yield from named or [Difference("rules", "the rules are others, and which can't be said")]
    elif _is_listed_otherwise(then.asked.nft, now.asked.nft):
        yield Difference(
            "rules",
            "what nft prints has another hash, though what was asked is the same: a comment, a table of"
            " another family, or one that is asleep",
        )
    yield from _list_of_claims(then.claims, now.claims)


def _is_listed_otherwise(then: NftHash | None, now: NftHash | None) -> bool:
    """Whether one version of nft prints another thing."""
    return then is not None and now is not None and then.version == now.version and then != now


def _list_of_guard(then: ReportFacts, now: ReportFacts) -> Iterator[Difference]:
    before, after = msgspec.structs.asdict(then.guard), msgspec.structs.asdict(now.guard)
    for name, value in before.items():
        if value != after[name]:
            words = name.replace("_", " ")
            yield Difference("guard", f"{words}: {_show(value)} then, {_show(after[name])} now")


def _show(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return escape_line("none" if value is None else str(value))


def _list_of_rules(
    then: Iterable[PlaceMarks], now: Iterable[PlaceMarks], words: Mapping[str, Sequence[str]]
) -> Iterator[Difference]:
    before = {(each.kind, each.place): each.marks for each in then}
    after = {(each.kind, each.place): each.marks for each in now}
    for (kind, place), marks in after.items():
        old = before.get((kind, place), ())
        if kind == "rule":
            yield from _list_of_chain(place, old, marks, words[place])
        elif old != marks:
            yield _name(kind, place, "is another" if old else "is new")
    for (kind, place), old in before.items():
        if (kind, place) not in after:
            many = f": {len(old)} rules" if kind == "rule" else ""
            yield _name("rules of" if kind == "rule" else kind, place, f"is gone{many}")


def _name(kind: PartKind | str, place: str, what: str) -> Difference:
    return Difference("rules", escape_line(f"{kind} {place}: {what}"))


def _list_of_chain(
    place: str, old: Sequence[str], marks: Sequence[str], rules: Sequence[str]
) -> Iterator[Difference]:
    """Rules by what they are, and not by where: one that is new shifts all behind it."""
    if tuple(old) == tuple(marks):
        return
    new, gone = Counter(marks) - Counter(old), Counter(old) - Counter(marks)
    found: list[str] = []
    for number, mark in enumerate(old, 1):
        if gone[mark]:
            gone[mark] -= 1
            found.append(f"rule {number} of {place} is gone")
    for mark, text in zip(marks, rules, strict=True):
        if new[mark]:
            new[mark] -= 1
            found.append(f"new in {place}: {text}")
    for text in (found or [f"the rules of {place} are in another order"])[:_MOST_NAMED]:
        yield Difference("rules", escape_line(text))
    if len(found) > _MOST_NAMED:
        yield Difference("rules", escape_line(f"{place}: and {len(found) - _MOST_NAMED} more"))


def _list_of_claims(then: Sequence[ReportedClaim], now: Sequence[ReportedClaim]) -> Iterator[Difference]:
    before, after = _gather_answers(then), _gather_answers(now)
    for key in dict.fromkeys((*before, *after)):
        old, new = before.get(key, "not asked"), after.get(key, "not asked")
        if old != new:
            claim, family, without = key
            table = f", without the table {without}" if without else ""
            text = f"{claim} ({_FAMILIES[family]}{table}): {old} then, {new} now"
            yield Difference("claims", escape_line(text))


def _gather_answers(claims: Iterable[ReportedClaim]) -> dict[ClaimKey, str]:
    """A claim may be about packets of several ways: it is proved where it is for all of them."""
    found: dict[ClaimKey, set[str]] = {}
    for each in claims:
        found.setdefault(each.key, set()).add(each.answer)
    return {key: ", ".join(sorted(answers - {"proved"} or answers)) for key, answers in found.items()}
