"""A proof about this machine's guard, by a process of its own that has so long."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final

import msgspec

from qmesh.host.drill.live_network import list_addresses, read_interfaces
from qmesh.host.given_rules import GivenRules
from qmesh.host.prover.ruleset_file import read_live_rules, read_rules
from qmesh.host.prover.timed_answers import collect_answers
from qmesh.mesh.decode import decode_msgpack
from qmesh.mesh.drill.battery import DrillRow
from qmesh.mesh.drill.shown_packets import build_shown_rows
from qmesh.mesh.printable_json import replace_surrogates
from qmesh.mesh.prover.claims import build_cases
from qmesh.mesh.prover.decide import Verdict, decide_each, list_late
from qmesh.mesh.prover.examples import OwnInterface
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
    """What became of each claim, and by how many rules and sets."""

    counts: ReadCounts
    verdicts: tuple[Verdict, ...]


def prove_rules(guard: Guard, given: GivenRules | None, *, seconds: float = SECONDS) -> Proof:
    """Reason about the guard by all rules of this machine, or by those that are given in their place.

    Claims that are not decided in time are not proved. Raises BadInput and MachineRefused.
    """
    answers, is_whole = collect_answers(partial(_answer, guard, given), seconds=seconds)
    counts = decode_msgpack(answers[0], ReadCounts) if answers else ReadCounts()
    groups = (decode_msgpack(each, tuple[Verdict, ...]) for each in answers[1:])
    verdicts = [verdict for group in groups for verdict in group]
    if not is_whole:
        verdicts += list_late(verdicts, has_guard=counts.has_guard)
    return Proof(counts, tuple(verdicts))


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


def _answer(guard: Guard, given: GivenRules | None) -> Iterator[bytes]:
    """What was read, then what became of each case: by a process of its own, which may be ended."""
    own = read_own_interfaces()
    found = read_live_rules() if given is None else read_rules(given)
    rules = build_ruleset(found.listing, found.sets)
    yield msgspec.msgpack.encode(
        ReadCounts(len(found.listing.rules), len(found.sets), bool(rules.own_tables))
    )
    cases = build_cases(rules, guard)
    for group in decide_each(cases, guard, found.listing.interfaces, rules.own_tables, own):
        yield _encode(group)


def _encode(group: tuple[Verdict, ...]) -> bytes:
    try:
        return msgspec.msgpack.encode(group)
    except UnicodeEncodeError:  # a name in it is no text
        return msgspec.msgpack.encode(replace_surrogates(msgspec.to_builtins(group)))
