"""What a page says, as values; none that is made here could hide or begin a line where it is shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Final, Literal

import msgspec

from qmesh.mesh.printable import escape_line
from qmesh.mesh.proof_report.asked_rules import AskedRules
from qmesh.mesh.prover.claims.case import Case
from qmesh.mesh.prover.decide import Answer, Verdict
from qmesh.mesh.prover.packet_text import describe_packet
from qmesh.mesh.prover.rule_run import RulePlace
from qmesh.mesh.state import Guard
from qmesh.mesh.values import UnixTime

MOST_NAMED: Final = 200
"""Rules that are named one by one as not modelled."""
ClaimKey = tuple[str, str, str]
"""Claim, family, and the table that was left out."""


class ReportedClaim(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """As `Verdict`, in words. packet: one that breaks it, or may."""

    claim: str
    family: Literal["ip", "ip6"]
    answer: Answer
    without: str = ""
    rules: tuple[str, ...] = ()
    packet: str = ""
    path: tuple[str, ...] = ()
    unclear: tuple[str, ...] = ()
    unusual: tuple[str, ...] = ()
    out_of_time: bool = False

    @property
    def key(self) -> ClaimKey:
        """Which claim it is."""
        return self.claim, self.family, self.without


class ReportOrigin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a report comes from.

    qmesh: the version. is_live: whether the rules are those that were loaded, and not those of a file.
    """

    qmesh: str
    mesh: str
    machine: str
    made_at: UnixTime
    is_live: bool


class ReportFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that a report says.

    key: the fingerprint of the machine's key for reports.
    not_modelled: rules and chains whose meaning is not known, as far as packets come there; None where there
        was no time to look at all. unnamed: how many more.
    """

    format: Literal[1] = 1
    origin: ReportOrigin
    key: str
    asked: AskedRules
    guard: Guard
    claims: Annotated[tuple[ReportedClaim, ...], msgspec.Meta(min_length=1)]
    not_modelled: tuple[str, ...] | None
    unnamed: int

    @property
    def is_proved(self) -> bool:
        """Whether every claim is."""
        return all(each.answer == "proved" for each in self.claims)


def build_facts(
    origin: ReportOrigin,
    asked: AskedRules,
    guard: Guard,
    *,
    key: str,
    verdicts: Iterable[Verdict],
    doubts: Sequence[str] | None,
) -> ReportFacts:
    """What a report says. doubts: as `describe_doubts` has them; None where they are not known."""
    return ReportFacts(
        origin=origin,
        key=key,
        asked=asked,
        guard=guard,
        claims=_report_claims(verdicts),
        not_modelled=None if doubts is None else tuple(doubts[:MOST_NAMED]),
        unnamed=len((doubts or ())[MOST_NAMED:]),
    )


def _report_claims(verdicts: Iterable[Verdict]) -> tuple[ReportedClaim, ...]:
    """What became of each claim."""
    return tuple(
        ReportedClaim(
            claim=each.claim, family="ip" if each.family == "ip" else "ip6", answer=each.answer,
            without=escape_line(each.without), rules=_describe_places(each.rules),
            packet="" if each.packet is None else describe_packet(each.packet),
            path=tuple(map(escape_line, each.path)), unclear=_describe_places(each.unclear),
            unusual=each.unusual, out_of_time=each.out_of_time,
        )
        for each in verdicts
    )  # fmt: skip


def note_doubts(cases: Iterable[Case], found: dict[RulePlace, None]) -> Iterator[Case]:
    """The same cases; and what is not known of the rules that their packets come to, for a page."""
    for case in cases:
        yield case
        found.update(dict.fromkeys(case.walk.unknowns.doubts.values()))


def describe_doubts(found: Iterable[RulePlace]) -> tuple[str, ...]:
    """What `note_doubts` found, in words."""
    return _describe_places([each for each in found if each.text])


def _describe_places(places: Sequence[RulePlace]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(escape_line(str(each)) for each in places))
