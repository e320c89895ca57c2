"""Whether a claim is proved, refuted by a packet, or neither; and by which rules."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

import msgspec

from qmesh.mesh.prover.claim_codes import ClaimCode
from qmesh.mesh.prover.claims.case import Case
from qmesh.mesh.prover.claims.claim_list import ALONE, list_questions
from qmesh.mesh.prover.examples import ExamplePacket, OwnInterfaces, read_packet
from qmesh.mesh.prover.ordinary_packets import list_interface_laws, list_ordinary, list_preferred
from qmesh.mesh.prover.rule_run import RulePlace
from qmesh.mesh.prover.rulesets import TableKey
from qmesh.mesh.prover.solver import Solver
from qmesh.mesh.prover.walk import Passing
from qmesh.mesh.state import Guard

Answer: TypeAlias = Literal["proved", "refuted", "not proved"]
_MOST_ROUNDS: Final = 8
_MOST_SHORTENED: Final = 60
"""Rules of a proof of which each is tried whether it can do without."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a claim.

    without: the table of the guard's that was left out. rules: of a proof, those that it needs.
    packet: one that breaks the claim, or, where it is not proved, may. path: the rules that it comes to.
    unclear: rules whose meaning is not known, and on which it depends.
    unusual: what is not ordinary of each packet that breaks it, or may; of one that refutes it nothing is.
    out_of_time: whether the time was over before it was decided.
    """

    claim: ClaimCode
    family: str
    answer: Answer
    without: str = ""
    rules: tuple[RulePlace, ...] = ()
    packet: ExamplePacket | None = None
    path: tuple[str, ...] = ()
    unclear: tuple[RulePlace, ...] = ()
    unusual: tuple[str, ...] = ()
    out_of_time: bool = False

    def __post_init__(self) -> None:
        """What is not proved has a reason."""
        assert self.answer != "not proved" or self.unclear or self.unusual or self.out_of_time


def decide_cases(
    cases: Iterable[Case], guard: Guard, interfaces: Mapping[str, int], own_tables: Collection[TableKey]
) -> list[Verdict]:
    """Every case, one after the other, as `decide_each` does."""
    return [verdict for group in decide_each(cases, guard, interfaces, own_tables) for verdict in group]


def decide_each(
    cases: Iterable[Case],
    guard: Guard,
    interfaces: Mapping[str, int],
    own_tables: Collection[TableKey],
    own: OwnInterfaces = MappingProxyType({}),
) -> Iterator[tuple[Verdict, ...]]:
    """Of each case what becomes of it; with either table of the guard alone too, where it holds so.

    interfaces: the numbers that the rules have for them. own_tables: the guard's. own: the machine that
    packets are shown of.
    """
    for walk, group in itertools.groupby(cases, key=lambda case: case.walk):
        with Solver(walk.gates) as solver:
            for number, case in enumerate(group):
                if number == 0:
                    for law in (*walk.laws, *list_interface_laws(case, interfaces)):
                        solver.require(law)
                missing = [""]
                names = dict.fromkeys(name.rstrip(" ") for _, name in own_tables)
                if case.claim in ALONE and len(names) > 1:
                    missing += names
                decide = partial(_decide, case, solver, guard, interfaces, own)
                yield tuple(decide(each) for each in missing)


def list_late(decided: Iterable[Verdict], *, has_guard: bool) -> list[Verdict]:
    """The claims for which there was no time after these. has_guard: whether the guard's tables are there."""
    done = Counter((each.claim, each.family) for each in decided if not each.without)
    return [
        Verdict(claim=claim, family=family, answer="not proved", out_of_time=True)
        for (claim, family), count in Counter(list_questions(has_guard=has_guard)).items()
        if done[claim, family] < count
    ]


def _decide(
    case: Case,
    solver: Solver,
    guard: Guard,
    interfaces: Mapping[str, int],
    own: OwnInterfaces,
    left_out: str,
) -> Verdict:
    """left_out: a name of the guard's tables, of which there may be two that differ by a space."""
    walk = case.walk
    switches = [
        -wire if left_out and place.table[0] == "inet" and place.table[1].rstrip(" ") == left_out else wire
        for wire, place in walk.switches.items()
    ]
    if not solver.is_possible([case.broken, *switches]):
        needed = _shorten(case, solver, solver.list_reasons() & set(switches))
        rules = tuple(walk.switches[wire] for wire in needed if wire > 0)
        return Verdict(claim=case.claim, family=case.family, answer="proved", without=left_out, rules=rules)
    ordinary, unusual = _keep_ordinary(case, solver, list_ordinary(case, guard, interfaces, own), switches)
    broken = walk.gates.all_of([case.broken, *ordinary])
    preferred = list_preferred(case, guard, own)
    return _find_example(case, solver, preferred, broken, switches, unusual, left_out)


def _keep_ordinary(
    case: Case, solver: Solver, said: Iterable[tuple[str, int]], switches: list[int]
) -> tuple[Iterable[int], tuple[str, ...]]:
    """As much of what is ordinary as packets have that break the claim, or may; and what they have not."""
    kept, without = {wire: words for words, wire in said}, list[tuple[str, int]]()
    while not solver.is_possible([case.broken, *switches, *kept]):
        reasons = solver.list_reasons()
        last = next(wire for wire in reversed(kept) if wire in reasons)
        without.append((kept.pop(last), last))
    unusual: dict[str, None] = {}
    for words, wire in without:
        if solver.is_possible([case.broken, *switches, *kept, wire]):
            kept[wire] = words
        else:
            unusual[words] = None
    return kept, tuple(unusual)


def _shorten(case: Case, solver: Solver, reasons: set[int]) -> list[int]:
    """Of the rules that a proof uses, as few as are enough. In their order."""
    kept = [
        wire for wire in (*case.walk.switches, *(-each for each in case.walk.switches)) if wire in reasons
    ]
    if len(kept) <= _MOST_SHORTENED:
        for wire in tuple(kept):
            if wire not in kept:
                continue
            fewer = [each for each in kept if each != wire]
            if not solver.is_possible([case.broken, *fewer]):
                reasons = solver.list_reasons()
                kept = [each for each in fewer if each in reasons]
    return kept


def _find_example(
    case: Case,
    solver: Solver,
    preferred: Iterable[int],
    broken: int,
    switches: list[int],
    unusual: tuple[str, ...],
    left_out: str,
) -> Verdict:
    """A packet that breaks the claim whatever the unclear rules mean; else one that may.

    broken: such as break it, or may, and are as ordinary as they can be. unusual: what of them is not.
    """
    gates, doubts = case.walk.gates, case.walk.unknowns.doubts
    packet = [wire for wire in gates.list_cone([broken]) if gates.inputs[wire] is None]
    packet = [wire for wire in packet if wire not in doubts and wire not in case.walk.switches]
    asked = [broken, *switches]
    for wire in preferred:
        if solver.is_possible([*asked, wire]):
            asked.append(wire)
    unclear: tuple[RulePlace, ...] = ()
    chosen: set[int] = set()
    for _ in range(_MOST_ROUNDS):
        if not solver.is_possible(asked):
            break
        chosen = {wire for wire in gates.list_cone(asked) if solver.is_set(wire)}
        fixed = [wire if wire in chosen else -wire for wire in packet]
        if not solver.is_possible([*fixed, *switches, -broken]):
            answer: Answer = "not proved" if unusual else "refuted"
            return _tell(case, answer, chosen, switches, left_out, unusual=unusual)
        # With that meaning of the unclear rules it does not break it: the next one has to.
        meaning = {wire: solver.is_set(wire) for wire in doubts}
        unclear = unclear or _list_unclear(case, solver, fixed, switches, chosen, broken)
        asked.append(
            gates.substitute(broken, {wire: 1 if is_set else -1 for wire, is_set in meaning.items()})
        )
    return _tell(case, "not proved", chosen, switches, left_out, unclear=unclear, unusual=unusual)


def _list_unclear(
    case: Case, solver: Solver, fixed: list[int], switches: list[int], chosen: set[int], broken: int
) -> tuple[RulePlace, ...]:
    """The rules that have to mean one thing for a packet to break the claim."""
    doubts = case.walk.unknowns.doubts
    cone = set(case.walk.gates.list_cone([broken]))
    meant = [wire if wire in chosen else -wire for wire in doubts if wire in cone]
    solver.is_possible([*fixed, *switches, *meant, -broken])  # it is not, and the reasons are asked for
    reasons = solver.list_reasons()
    return tuple(dict.fromkeys(place for wire, place in doubts.items() if reasons & {wire, -wire}))


def _tell(
    case: Case,
    answer: Answer,
    chosen: set[int],
    switches: list[int],
    left_out: str,
    *,
    unclear: tuple[RulePlace, ...] = (),
    unusual: tuple[str, ...] = (),
) -> Verdict:
    walk = case.walk
    on = chosen | {wire for wire in switches if wire > 0}
    passings = walk.passings
    came = walk.gates.evaluate([each.when for each in passings], on.__contains__)
    path = tuple(_describe(each) for each, has_come in zip(passings, came, strict=True) if has_come)
    return Verdict(
        claim=case.claim, family=case.family, answer=answer, without=left_out,
        packet=read_packet(case, on.__contains__), path=path, unclear=unclear, unusual=unusual,
    )  # fmt: skip


def _describe(passing: Passing) -> str:
    return f"{passing.hook}: {passing.place}"
