"""The part of the agent that has its claims proved, by a process of its own, and knows what came of it.

Nothing of the prover is loaded here. The process is ended where it takes too long, and goes first where the
machine runs out of memory; whatever becomes of it, the guard is kept by others.
"""

from __future__ import annotations

import contextlib
import signal
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
from qmesh.host.node_program.group_confinement import build_confined_command, can_confine
from qmesh.host.state.directory import State
from qmesh.host.system.limited_child import ChildEnd, ChildLimits, run_limited_child
from qmesh.mesh.decode import Malformed, decode_json
from qmesh.mesh.own_command import build_command_line
from qmesh.mesh.printable import escape_line
from qmesh.mesh.standing_proof.record import ClaimResult, ProofLine, StandingProof, join_results
from qmesh.mesh.standing_proof.schedule import ProofSchedule, RuleChanges

TICK_S: Final = 0.5
_LIMITS: Final = ChildLimits(300.0, processor_s=40, data=512 << 20, output=4 << 20, niceness=10)
"""Less memory than the agent's unit may have, in which it counts. Workers take every processor: beside them a
second's work would take minutes with the least weight."""
_AT_LIMIT: Final = frozenset({None, -signal.SIGKILL, -signal.SIGXCPU})
"""How it ends where its time is over, or the kernel has no more memory."""
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
        while not part.stopped.is_set():
            part.pulse.beat(allowed_s=TICK_S)
            self._prove_if_due(has_solver=find_spec(_SOLVER) is not None)
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
        is_wanted = self._is_wanted and self._state.guard_file.exists()
        if is_wanted and has_solver:
            if self._schedule.is_due(self._listen().count_changes(), time.monotonic()):
                self._prove()
            return
        self._schedule.forget_proof()
        self._troubles.clear(PROVING)
        if is_wanted:
            self._proof = StandingProof(problem=WITHOUT_SOLVER).keep_refuted(self._proof)
        else:
            self._proof, self._refuted = None, frozenset()

    def _prove(self) -> None:
        """Prove; again where what is refuted may be of a moment: `apply` writes the guard, then loads it."""
        mark = self._read_mark()
        proof, cost_s = self._run_process()
        if self._list_new(proof) and self._read_mark() != mark:
            mark = self._read_mark()
            again, more_s = self._run_process()
            proof, cost_s = again.keep_refuted(proof) if again.problem else again, cost_s + more_s
        note = self._schedule.note_failure if proof.problem else self._schedule.note_proof
        note(mark[0], time.monotonic(), cost_s=cost_s)
        self._proof = proof.keep_refuted(self._proof) if proof.problem else proof
        self._report(self._proof)

    def _read_mark(self) -> tuple[RuleChanges, tuple[int, int] | None]:
        """What differs where rules have changed, or the file by which they are judged."""
        with contextlib.suppress(OSError):
            found = self._state.guard_file.stat()
            return self._listen().count_changes(), (found.st_ino, found.st_mtime_ns)
        return self._listen().count_changes(), None

    def _run_process(self) -> tuple[StandingProof, float]:
        """What is proved, and the processor's time that it took."""
        words = build_command_line(sys.executable, str(self._state.guard_file), module=_PROCESS)
        try:
            ended = run_limited_child(build_confined_command(words) if can_confine() else words, b"", _LIMITS)
        except OSError as error:
            self._troubles.note_error(PROVING, error)
            return StandingProof(problem="the process that proves could not be started"), 0.0
        proof, trouble = read_proof(ended)
        if trouble:
            self._troubles.note(PROVING, trouble, hint="run `qmesh prove`, and report what it says")
        else:
            self._troubles.clear(PROVING)
        return proof, ended.processor_s

    def _list_new(self, proof: StandingProof) -> list[ClaimResult]:
        return [each for each in proof.list_refuted() if each.claim not in self._refuted]

    def _report(self, proof: StandingProof) -> None:
        """Say which claims are refuted, where they were not, and that none is any more."""
        for each in self._list_new(proof):
            by = "; ".join(each.rules) or "no rule stops it"
            report_event("claim-refuted", "%s: not so: %s (%s)", each.claim, each.packet, by)
        refuted = proof.list_refuted()
        if self._refuted and not refuted and not proof.problem:
            report_event("claims-hold", "no claim is refuted any more")
        if refuted or not proof.problem:
            self._refuted = frozenset(each.claim for each in refuted)


def read_proof(ended: ChildEnd) -> tuple[StandingProof, str]:
    """What the process printed, and why it failed; empty where it did not, also where a limit ended it."""
    results: list[ClaimResult] = []
    rules, printed, problem, trouble, bad = 0, None, "", "", b""
    for line in ended.output.split(b"\n"):
        try:
            said = decode_json(line, ProofLine)
        except Malformed:
            bad = line or bad
            continue
        results += said.results
        rules = rules if said.rules is None else said.rules
        printed = said.printed if printed is None else printed
        problem = said.problem or problem
    if ended.code in _AT_LIMIT:
        problem = "not all claims were decided within the time and the memory that a proof has"
    elif ended.code != 0 or bad or printed != len(results):
        last = escape_line(bad.decode("utf-8", "replace")) or "not all that it found was said"
        problem = trouble = f"the process that proves ended with code {ended.code}: {last}"
    if problem:
        results = [each for each in results if each.state != "proved"]  # of the other family, maybe
    return StandingProof(claims=join_results(results), at=time.time(), rules=rules, problem=problem), trouble
