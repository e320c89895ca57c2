"""The part of the agent that has its claims proved, and the process that does it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self, cast

import msgspec
import pytest

from qmesh.agent.daemon import claim_watch
from qmesh.agent.daemon.claim_watch import ClaimWatch, read_proof
from qmesh.agent.daemon.supervisor import PROVING, Troubles
from qmesh.host.network.netlink_events import Notices
from qmesh.host.state.directory import State
from qmesh.host.system.limited_child import ChildEnd
from qmesh.mesh.guard.render import render_unowned_table
from qmesh.mesh.guard.scripts import render_load_script
from qmesh.mesh.standing_proof import schedule
from qmesh.mesh.standing_proof.record import ClaimResult, ProofLine
from tests.support.prover_recordings import GUARDS

PROVED = ClaimResult(claim="outside", closes=True, words="w", state="proved", family="ip")
REFUTED = msgspec.structs.replace(PROVED, claim="tunnel", state="refuted", packet="p", rules=("r",))
OTHERS = (
    "table inet theirs { chain c { type filter hook input priority 5; tcp dport 4444 tcp dport set %d; }; }"
)


def say(*lines: ProofLine) -> bytes:
    return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)


def test_a_process_that_comes_to_its_end_says_what_it_took():
    lines = ProofLine(rules=7), ProofLine(results=(PROVED, REFUTED)), ProofLine(processor_s=0.5)
    proof, cost_s, trouble = read_proof(ChildEnd(0, say(*lines)))
    assert (proof.claims, proof.rules, proof.problem, cost_s, trouble) == ((PROVED, REFUTED), 7, "", 0.5, "")
    refused = ProofLine(problem="the rules change", processor_s=3.0)
    proof, cost_s, trouble = read_proof(ChildEnd(0, say(refused)))
    assert (proof.claims, proof.problem, cost_s, trouble) == ((), "the rules change", 3.0, "")


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (ChildEnd(None, b""), "not all claims were decided within 60 s"),
        (ChildEnd(-9, b""), "the process that proves ended with code -9: it said nothing"),
        (ChildEnd(1, b"Traceback\nMemory\x1bError"), "ended with code 1: Memory\\x1bError"),
        (ChildEnd(0, b""), "the process that proves ended with code 0: it said nothing"),
    ],
)
def test_of_one_that_does_not_what_was_refuted_counts_and_nothing_is_proved(end: ChildEnd, words: str):
    lines = say(ProofLine(rules=7), ProofLine(results=(PROVED, REFUTED)))
    proof, cost_s, trouble = read_proof(ChildEnd(end.code, lines + end.output))
    assert proof.claims == (REFUTED,)
    assert words in proof.problem
    assert cost_s > schedule.MOST_S
    assert trouble == ("" if end.code is None else proof.problem)


class Machine:
    """A state directory with a guard that is loaded, and the part, which nobody runs."""

    def __init__(self, *, prove: bool = True) -> None:
        self.guard = GUARDS["worker IPv4"]
        directory = Path("/run/state")
        directory.mkdir()
        self.state = State(directory)
        self.state.guard_file.write_text(render_load_script(self.guard))
        self.load(self.state.guard_file.read_text(), render_unowned_table(self.guard))
        self.troubles = Troubles(lambda _: None)
        self.settings = SimpleNamespace(prove=prove)
        here = cast("Any", SimpleNamespace(settings=self.settings))
        self.notices = Notices()
        self.watch = ClaimWatch(self.state, self.troubles, know=lambda: here, listen=lambda: self.notices)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.notices.close()

    def load(self, *scripts: str) -> None:
        subprocess.run(["nft", "-f", "-"], input="\n".join(scripts), text=True, check=True)

    def look(self, *, has_solver: bool = True) -> None:
        self.notices.take_notice()
        self.watch._prove_if_due(has_solver=has_solver)


@pytest.mark.lab
def test_rules_that_open_a_port_are_found_and_said_once_until_they_are_gone(
    own_machine: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    for name in ("FIRST_S", "SETTLED_S"):
        monkeypatch.setattr(schedule, name, 0.0)
    caplog.set_level("INFO", "qmesh")
    with Machine() as machine:
        machine.look(has_solver=False)
        found = machine.watch.find_proof()
        assert found is not None
        assert found.problem == claim_watch.WITHOUT_SOLVER

        machine.look()
        found = machine.watch.find_proof()
        assert found is not None
        assert (found.problem, {each.state for each in found.claims}) == ("", {"proved"})
        assert found.rules > 50
        machine.look()
        assert machine.watch.find_proof() == found  # nothing has changed
        assert caplog.text == ""

        machine.load(OTHERS % machine.guard.ports[0])
        machine.look()
        for _ in range(2):
            found = machine.watch.find_proof()
            assert found is not None
            refuted = {each.claim: each.packet for each in found.list_refuted()}
            assert ":4444" in refuted["outside"]
            machine.look()
        assert caplog.text.count("outside: not so: ") == 1

        machine.load("delete table inet theirs")
        machine.look()
        found = machine.watch.find_proof()
        assert found is not None
        assert found.list_refuted() == ()
        assert caplog.text.count("no claim is refuted any more") == 1

        machine.settings.prove = False
        assert machine.watch.find_proof() is None
        assert machine.troubles.list_troubles() == ()


@pytest.mark.lab
def test_a_process_that_dies_is_a_part_that_fails_until_one_does_not(
    own_machine: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(schedule, "FIRST_S", 0.0)
    with Machine() as machine:
        monkeypatch.setattr(claim_watch, "_PROCESS", "qmesh.nothing")
        machine.look()
        (trouble,) = machine.troubles.list_troubles()
        assert trouble.part == PROVING
        assert "ended with code 1: " in trouble.reason
        found = machine.watch.find_proof()
        assert found is not None
        assert found.claims == ()
        assert found.problem == trouble.reason


WHO = """
import os, sys
from qmesh.agent.daemon import claim_process
lines = claim_process._prove(sys.argv[1])
next(lines)
print(os.getresuid(), os.getresgid(), os.getgroups())
print(open("/proc/self/status").read().partition("CapEff:")[2].split()[0])
"""


@pytest.mark.lab
def test_who_solves_has_no_rights(own_machine: None):
    with Machine() as machine:
        words = [sys.executable, "-c", WHO, str(machine.state.guard_file)]
        done = subprocess.run(words, capture_output=True, text=True, check=True, env={**os.environ})
        nobody = "(65534, 65534, 65534)"
        assert done.stdout.splitlines() == [f"{nobody} {nobody} []", "0000000000000000"]
