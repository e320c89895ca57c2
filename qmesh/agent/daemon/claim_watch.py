"""The part of the agent that has its claims proved, by a process of its own, and knows what came of it.

Nothing of the prover is loaded here. The process is ended where it takes too long, and goes first where the
machine runs out of memory; whatever becomes of it, the guard is kept by others.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Final

import msgspec

from qmesh.agent.daemon.supervisor import PROVING, AgentPart, Troubles
from qmesh.agent.local import Local
from qmesh.host.log.events import report_event
from qmesh.host.network.netlink_events import Notices
from qmesh.host.state.directory import State
from qmesh.host.system.limited_child import ChildEnd, ChildLimits, run_limited_child
from qmesh.mesh.decode import Malformed, decode_json
from qmesh.mesh.own_command import build_command_line
from qmesh.mesh.printable import escape_line
from qmesh.mesh.standing_proof.record import ClaimResult, ProofLine, StandingProof, join_results
from qmesh.mesh.standing_proof.schedule import ProofSchedule

TICK_S: Final = 0.5
PROOF_S: Final = 60.0
"""Seconds that a proof has, by the clock."""
_LIMITS: Final = ChildLimits(PROOF_S, processor_s=40, memory=2 << 30, output=4 << 20, niceness=19)
_PROCESS: Final = "qmesh.agent.daemon.claim_process"
_SOLVER: Final = "clingo"
WITHOUT_SOLVER: Final = "the Python package clingo is not installed, which `qmesh prove` needs too"


class ClaimWatch:
    """`run` is a part's. know: the agent's last look; None before it. listen: where it hears of rules."""

    def __init__(
        self,
        state: State,
        troubles: Troubles,
        *,
        know: Callable[[], Local | None],
        listen: Callable[[], Notices],
    ) -> None:
        self._state = state
        self._troubles = troubles
        self._know = know
        self._listen = listen
        self._schedule = ProofSchedule(time.monotonic())
        self._proof: StandingProof | None = None
        self._refuted: frozenset[str] = frozenset()

    def run(self, part: AgentPart) -> None:
        """Prove whenever it is due, until the part should end."""
        has_solver = find_spec(_SOLVER) is not None
        while not part.stopped.is_set():
            part.pulse.beat(allowed_s=TICK_S)
            self._prove_if_due(has_solver=has_solver)
            part.stopped.wait(TICK_S)

    def find_proof(self) -> StandingProof | None:
        """What is known now; None where nothing is to be proved, or was yet."""
        proof = self._proof
        if proof is None or not self._is_wanted:
            return None
        return msgspec.structs.replace(proof, behind_s=self._schedule.find_lag(time.monotonic()))

    @property
    def _is_wanted(self) -> bool:
        here = self._know()
        return here is not None and here.settings.prove

    def _prove_if_due(self, *, has_solver: bool) -> None:
        if not self._is_wanted or not self._state.guard_file.exists():
            self._proof, self._refuted = None, frozenset()
            return
        if not has_solver:
            self._proof = StandingProof(problem=WITHOUT_SOLVER)
            return
        changes = self._listen().count_changes()
        if self._schedule.is_due(changes, time.monotonic()):
            proof, cost_s = self._prove()
            self._schedule.note_proof(changes, time.monotonic(), cost_s=cost_s)
            self._proof = proof
            self._report(proof)

    def _prove(self) -> tuple[StandingProof, float]:
        """What is proved, and the processor's time that it took."""
        words = build_command_line(sys.executable, str(self._state.guard_file), module=_PROCESS)
        try:
            ended = run_limited_child(words, b"", _LIMITS)
        except OSError as error:
            self._troubles.note_error(PROVING, error)
            return StandingProof(problem="the process that proves could not be started"), 1.0
        proof, cost_s, trouble = read_proof(ended)
        if trouble:
            self._troubles.note(PROVING, trouble, hint="run `qmesh prove`, and report what it says")
        else:
            self._troubles.clear(PROVING)
        return proof, cost_s

    def _report(self, proof: StandingProof) -> None:
        """Say which claims are refuted, where they were not, and that none is any more."""
        refuted = proof.list_refuted()
        for each in refuted:
            if each.claim not in self._refuted:
                by = "; ".join(each.rules) or "no rule stops it"
                report_event("claim-refuted", "%s: not so: %s (%s)", each.claim, each.packet, by)
        if self._refuted and not refuted and not proof.problem:
            report_event("claims-hold", "no claim is refuted any more")
        if refuted or not proof.problem:
            self._refuted = frozenset(each.claim for each in refuted)


def read_proof(ended: ChildEnd) -> tuple[StandingProof, float, str]:
    """What the process printed: the proof, what it cost, and why it failed; empty where it did not."""
    results: list[ClaimResult] = []
    rules, cost_s, problem, trouble, last = 0, None, "", "", ""
    for line in ended.output.decode("utf-8", "replace").splitlines():
        try:
            said = decode_json(line, ProofLine)
        except Malformed:
            last = line
            continue
        results += said.results
        rules = rules if said.rules is None else said.rules
        cost_s = said.processor_s if cost_s is None else cost_s
        problem = said.problem or problem
    if ended.code is None:
        problem = f"not all claims were decided within {PROOF_S:.0f} s"
    elif cost_s is None:
        said_last = escape_line(last) or "it said nothing"
        problem = trouble = f"the process that proves ended with code {ended.code}: {said_last}"
    if cost_s is None:  # it did not come to its end, and may have taken all that it had
        cost_s = float(_LIMITS.processor_s)
        results = [each for each in results if each.state != "proved"]  # of the other family, maybe
    proof = StandingProof(claims=join_results(results), at=time.time(), rules=rules, problem=problem)
    return proof, cost_s, trouble
