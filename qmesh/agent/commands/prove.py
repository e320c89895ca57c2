"""`prove`: whether any packet gets where none should, by all rules of this machine or of a file."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from qmesh.agent.converge import desired_and_observed_guard
from qmesh.agent.local import linux_for, with_tunnel_and_guard
from qmesh.agent.preconditions import check_user, load_checked
from qmesh.errors import BadInput
from qmesh.host.prover.ruleset_file import read_live_rules, read_rules_from_file
from qmesh.host.prover.timed_answers import collect_answers
from qmesh.host.state.directory import State
from qmesh.mesh.decode import decode_msgpack
from qmesh.mesh.printable_json import replace_surrogates
from qmesh.mesh.prover.claim_answers import ClaimAnswer, summarize_claims
from qmesh.mesh.prover.claims import build_cases
from qmesh.mesh.prover.decide import Verdict, decide_each, list_late
from qmesh.mesh.prover.rulesets import build_ruleset
from qmesh.mesh.state import Guard

SECONDS: Final = 60
"""For all of it; it takes one or two."""


class _ReadCounts(msgspec.Struct, frozen=True):
    """How many there are of each. has_guard: whether the guard's tables are among them."""

    rules: int = 0
    sets: int = 0
    has_guard: bool = True


class ProofReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `prove` answers. proved: None where a claim is neither proved nor refuted, and none is refuted.

    rules, sets: how many there are. ports: that are closed.
    """

    proved: bool | None
    claims: tuple[ClaimAnswer, ...]
    machine: str
    source: str
    rules: int
    sets: int
    ports: tuple[int, ...]
    verdicts: tuple[Verdict, ...]


def prove(state: State, *, ruleset: Path | None = None, seconds: float = SECONDS) -> ProofReport:
    """Reason about every packet that may come to this machine. ruleset: a file, in place of what is loaded.

    seconds: for all of it; claims that are not decided by then are not proved. Raises BadInput where this
    machine has no guard to be proved, or the file is none.
    """
    check_user("prove")
    here = with_tunnel_and_guard(load_checked(state, "prove"))
    guard = desired_and_observed_guard(here, linux_for(state, here.settings))[0].guard
    if not isinstance(guard, Guard):
        raise BadInput(
            f"{here.settings.name} closes no port, so there is nothing to prove",
            hint="run `qmesh apply`, then the same command again",
        )
    answers, is_whole = collect_answers(partial(_answer, guard, ruleset), seconds=seconds)
    counts = decode_msgpack(answers[0], _ReadCounts) if answers else _ReadCounts()
    groups = (decode_msgpack(each, tuple[Verdict, ...]) for each in answers[1:])
    verdicts = [verdict for group in groups for verdict in group]
    if not is_whole:
        verdicts += list_late(verdicts, has_guard=counts.has_guard)
    claims = summarize_claims(verdicts)
    answers_given = {each.proved for each in claims}
    return ProofReport(
        proved=False if False in answers_given else None if None in answers_given else True,
        claims=claims,
        machine=here.settings.name,
        source="what is loaded" if ruleset is None else str(ruleset),
        rules=counts.rules,
        sets=counts.sets,
        ports=guard.closed_ports,
        verdicts=tuple(verdicts),
    )


def _answer(guard: Guard, file: Path | None) -> Iterator[bytes]:
    """What was read, then what became of each case: by a process of its own, which may be ended."""
    found = read_live_rules() if file is None else read_rules_from_file(file)
    rules = build_ruleset(found.listing, found.sets)
    yield msgspec.msgpack.encode(
        _ReadCounts(len(found.listing.rules), len(found.sets), bool(rules.own_tables))
    )
    cases = build_cases(rules, guard)
    for group in decide_each(cases, guard, found.listing.interfaces, rules.own_tables):
        yield _encode(group)


def _encode(group: tuple[Verdict, ...]) -> bytes:
    try:
        return msgspec.msgpack.encode(group)
    except UnicodeEncodeError:  # a name in it is no text
        return msgspec.msgpack.encode(replace_surrogates(msgspec.to_builtins(group)))
