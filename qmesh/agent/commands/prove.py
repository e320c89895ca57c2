"""`prove`: whether any packet gets where none should, by all rules of this machine or of a file."""

from __future__ import annotations

from pathlib import Path

import msgspec

from qmesh.agent.assurance.proof import SECONDS, prove_rules
from qmesh.agent.converge import desired_and_observed_guard
from qmesh.agent.local import linux_for, with_tunnel_and_guard
from qmesh.agent.preconditions import check_user, load_checked
from qmesh.errors import BadInput
from qmesh.host.given_rules import read_given_rules
from qmesh.host.state.directory import State
from qmesh.mesh.prover.claim_answers import ClaimAnswer, summarize_claims
from qmesh.mesh.prover.decide import Verdict
from qmesh.mesh.state import Guard


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
    given = None if ruleset is None else read_given_rules(ruleset)
    proof = prove_rules(guard, given, seconds=seconds)
    claims = summarize_claims(proof.verdicts)
    answers = {each.proved for each in claims}
    return ProofReport(
        proved=False if False in answers else None if None in answers else True,
        claims=claims,
        machine=here.settings.name,
        source="what is loaded" if ruleset is None else str(ruleset),
        rules=proof.counts.rules,
        sets=proof.counts.sets,
        ports=guard.closed_ports,
        verdicts=proof.verdicts,
    )
