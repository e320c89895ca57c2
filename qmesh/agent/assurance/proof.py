"""A proof about this machine's guard, by a process of its own that has so long."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final

import msgspec

from qmesh.host.drill.live_network import list_addresses, read_interfaces
from qmesh.host.given_rules import GivenRules
from qmesh.host.prover.nft_json import read_live_rules_and_listing
from qmesh.host.prover.ruleset_file import ReadRules, read_live_rules, read_routes, read_rules
from qmesh.host.prover.timed_answers import collect_answers, drop_rights
from qmesh.mesh.decode import decode_msgpack
from qmesh.mesh.drill.rows import DrillRow
from qmesh.mesh.drill.shown_packets import build_shown_rows
from qmesh.mesh.printable_json import replace_surrogates
from qmesh.mesh.proof_report.asked_rules import RuleSummary, summarize_rules
from qmesh.mesh.proof_report.report_facts import describe_doubts, note_doubts
from qmesh.mesh.prover.claims.claim_list import build_cases
from qmesh.mesh.prover.decide import Verdict, decide_each, list_late
from qmesh.mesh.prover.examples import OwnInterface
from qmesh.mesh.prover.rule_run import RulePlace
from qmesh.mesh.prover.rulesets import build_ruleset
from qmesh.mesh.state import Guard

SECONDS: Final = 60
"""For all of it; it takes one or two."""


class ReadCounts(msgspec.Struct, frozen=True):
    """How many there are of each. has_guard: whether the guard's tables are among them."""

    rules: int = 0
    sets: int = 0
    has_guard: bool = True


class Proof(msgspec.Struct, frozen=True):
    """What became of each claim, and by how many rules and sets.

    summary, doubts: for a report: of the rules, and what is not known of them; None where there was no time.
    """

    counts: ReadCounts
    verdicts: tuple[Verdict, ...]
    summary: RuleSummary | None = None
    doubts: tuple[str, ...] | None = None


class _Piece(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known next: what became of a case, or, last and for a report alone, the doubts."""

    verdicts: tuple[Verdict, ...] = ()
    doubts: tuple[str, ...] | None = None


def prove_rules(
    guard: Guard, given: GivenRules | None, *, seconds: float = SECONDS, marking: bytes | None = None
) -> Proof:
    """Reason about the guard by all rules of this machine, or by those that are given in their place.

    Claims that are not decided in time are not proved. marking: for a report, the key for its marks.
    Raises BadInput and MachineRefused.
    """
    answers, is_whole = collect_answers(partial(_answer, guard, given, marking), seconds=seconds)
    counts = decode_msgpack(answers.pop(0), ReadCounts) if answers else ReadCounts()
    summary: RuleSummary | None = None
    if marking is not None and answers:
        summary = decode_msgpack(answers.pop(0), RuleSummary)
    pieces = [decode_msgpack(each, _Piece) for each in answers]
    verdicts = [verdict for piece in pieces for verdict in piece.verdicts]
    if not is_whole:
        verdicts += list_late(verdicts, has_guard=counts.has_guard)
    return Proof(counts, tuple(verdicts), summary, pieces[-1].doubts if pieces else None)


def list_shown_packets(
    guard: Guard, given: GivenRules | None
) -> tuple[tuple[DrillRow, ...], tuple[str, ...]]:
    """The packets that refute a claim, for a drill; and which of them can't be fired, and why."""
    refuted = (each for each in prove_rules(guard, given).verdicts if each.answer == "refuted")
    return build_shown_rows((each.claim, each.packet) for each in refuted if each.packet is not None)


def read_own_interfaces() -> dict[str, OwnInterface]:
    """This machine's, with its addresses. Raises MachineRefused."""
    links, messages = read_interfaces()
    addresses = list_addresses(links, messages)
    return {
        each.name: OwnInterface(each.kind, each.is_ethernet, addresses.get(each.name, ()))
        for each in links
        if each.is_up and not each.is_loopback
    }


def _answer(guard: Guard, given: GivenRules | None, marking: bytes | None) -> Iterator[bytes]:
    """What was read, then what became of each case: by a process of its own, which may be ended.

    For a report also what it says of the rules, second, and what is not known of them, last.
    """
    own = read_own_interfaces()
    found, listed = _read_rules(given, for_report=marking is not None)
    routes = read_routes(found.listing.rules)
    drop_rights()  # what is solved are others' rules, by a library in C++
    rules = build_ruleset(found.listing, found.sets, routes)
    yield msgspec.msgpack.encode(
        ReadCounts(len(found.listing.rules), len(found.sets), bool(rules.own_tables))
    )
    cases, doubts = build_cases(rules, guard), dict[RulePlace, None]()
    if marking is not None:
        summary = summarize_rules(found.listing, rules, listed=listed, marking=marking)
        yield msgspec.msgpack.encode(summary)
        cases = note_doubts(cases, doubts)
    for group in decide_each(cases, guard, found.listing.interfaces, rules.own_tables, own):
        yield _encode(_Piece(group))
    if marking is not None:
        yield _encode(_Piece(doubts=describe_doubts(doubts)))


def _read_rules(given: GivenRules | None, *, for_report: bool) -> tuple[ReadRules, bytes | None]:
    """The rules; and for a report, as nft lists them in JSON, if that is to be had."""
    if given is not None:
        is_json = given.content.lstrip().startswith(b"{")
        return read_rules(given), given.content if is_json else None
    return read_live_rules_and_listing() if for_report else (read_live_rules(), None)


def _encode(piece: _Piece) -> bytes:
    try:
        return msgspec.msgpack.encode(piece)
    except UnicodeEncodeError:  # a name in it is no text
        return msgspec.msgpack.encode(replace_surrogates(msgspec.to_builtins(piece)))
