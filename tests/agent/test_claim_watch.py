"""The part of the agent that has its claims proved, and the process that does it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self, cast

import msgspec
import pytest

from qmesh.agent.daemon import claim_process, claim_watch
from qmesh.agent.daemon.claim_watch import ClaimWatch, read_proof
from qmesh.agent.daemon.supervisor import PROVING, Troubles
from qmesh.errors import BadInput
from qmesh.host.network.netlink_events import Notices
from qmesh.host.node_program.group_confinement import can_confine
from qmesh.host.state.directory import State
from qmesh.host.system.limited_child import ChildEnd
from qmesh.mesh.guard.render import render_unowned_table
from qmesh.mesh.guard.scripts import render_load_script
from qmesh.mesh.standing_proof import schedule
from qmesh.mesh.standing_proof.record import ClaimResult, ProofLine, StandingProof
from tests.support.processes import read_of_each
from tests.support.prover_recordings import GUARDS
from tests.support.waiting import patience, wait_until

PROVED = ClaimResult(claim="outside", closes=True, words="w", state="proved", family="ip")
REFUTED = msgspec.structs.replace(PROVED, claim="tunnel", state="refuted", packet="p", rules=("r",))
OTHERS = (
    "table inet theirs { chain c { type filter hook input priority 5; tcp dport 4444 tcp dport set %d; }; }"
)


def say(*lines: ProofLine) -> bytes:
    return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)


UNKNOWN = say(ProofLine(results=(PROVED,))).replace(b"outside", b"a claim of others")
LATE = "not all claims were decided within the time and the memory that a proof has"


def test_a_process_that_comes_to_its_end_says_how_many_results_there_are():
    lines = ProofLine(rules=7), ProofLine(results=(PROVED, REFUTED)), ProofLine(printed=2)
    proof, trouble = read_proof(ChildEnd(0, say(*lines)))
    assert (proof.claims, proof.rules, proof.problem, trouble) == ((PROVED, REFUTED), 7, "", "")
    refused = ProofLine(results=(PROVED,)), ProofLine(problem="the rules change", printed=1)
    proof, trouble = read_proof(ChildEnd(0, say(*refused)))
    assert (proof.claims, proof.problem, trouble) == ((), "the rules change", "")


@pytest.mark.parametrize(
    ("end", "words", "fails"),
    [
        (ChildEnd(None, b""), LATE, False),
        (ChildEnd(-signal.SIGKILL, b""), LATE, False),  # by its limit of processor time, or out of memory
        (ChildEnd(-signal.SIGXCPU, b""), LATE, False),
        (ChildEnd(-signal.SIGSEGV, b""), "the process that proves ended with code -11: not all ", True),
        (ChildEnd(1, b"Traceback\nMemory\x1bError"), "ended with code 1: Memory\\x1bError", True),
        (ChildEnd(1, say(ProofLine(printed=2))), "ended with code 1: not all that it found was said", True),
        (ChildEnd(0, b""), "ended with code 0: not all that it found was said", True),
        (ChildEnd(0, say(ProofLine(printed=3))), "ended with code 0: not all that it found was said", True),
        (ChildEnd(0, UNKNOWN + say(ProofLine(printed=3))), "ended with code 0: {", True),
        (ChildEnd(0, b"a\x85\xff" + say(ProofLine(printed=2))), "ended with code 0: a", True),
    ],
)
def test_of_one_that_does_not_what_was_refuted_counts_and_nothing_is_proved(
    end: ChildEnd, words: str, *, fails: bool
):
    lines = say(ProofLine(rules=7), ProofLine(results=(PROVED, REFUTED)))
    proof, trouble = read_proof(ChildEnd(end.code, lines + end.output))
    assert proof.claims == (REFUTED,)
    assert words in proof.problem
    assert trouble == (proof.problem if fails else "")


OF_NOW = say(ProofLine(rules=1), ProofLine(results=(PROVED,)), ProofLine(printed=1))
OPEN = say(ProofLine(rules=1), ProofLine(results=(REFUTED,)), ProofLine(printed=1))
CHURN = say(ProofLine(problem="the rules change faster than they can be read", printed=0))


class Watched:
    """The part with processes that are played: what each prints, and how it ends."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("FIRST_S", "SETTLED_S", "RETRY_S"):
            monkeypatch.setattr(schedule, name, 0.0)
        monkeypatch.setattr(claim_watch, "run_limited_child", lambda *_: self.ends.pop(0)())
        self.ends: list[Callable[[], ChildEnd]] = []
        self.changes = schedule.RuleChanges()
        self.settings = SimpleNamespace(prove=True)
        self.troubles = Troubles(lambda _: None)
        self.state = State(tmp_path)
        self.state.guard_file.write_text("")
        self.watch = ClaimWatch(
            self.state,
            self.troubles,
            know=lambda: cast("Any", SimpleNamespace(settings=self.settings)),
            listen=lambda: cast("Any", SimpleNamespace(count_changes=lambda: self.changes)),
        )

    def change(self) -> None:
        self.changes = schedule.RuleChanges(self.changes.rules + 1, 0)

    def look(
        self, *ends: Callable[[], ChildEnd], has_solver: bool = True, has_changed: bool = True
    ) -> StandingProof | None:
        """What is known once rules have changed, and these processes have ended."""
        if has_changed:
            self.change()
        self.ends = list(ends)
        self.watch._prove_if_due(has_solver=has_solver)
        assert self.ends == []
        return self.watch.find_proof()


def ends(
    output: bytes, code: int | None = 0, *, meanwhile: Callable[[], object] = bool
) -> Callable[[], ChildEnd]:
    """A process that ends so, and what happens before it does."""

    def run() -> ChildEnd:
        meanwhile()
        return ChildEnd(code, output, 0.1)

    return run


def test_what_is_refuted_stays_so_until_a_proof_comes_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO", "qmesh")
    watched = Watched(tmp_path, monkeypatch)
    found = watched.look(ends(OPEN))
    assert found is not None
    for end in (ends(CHURN), ends(b"", None), ends(b"", -9), ends(b"", 1), cannot_start):
        kept = watched.look(end)
        assert kept is not None
        assert (kept.list_refuted(), kept.at) == ((REFUTED,), found.at)
        assert kept.problem
        assert kept.behind_s is not None
    kept = watched.look(has_solver=False)
    assert kept is not None
    assert kept.list_refuted() == (REFUTED,)
    assert "no claim is refuted" not in caplog.text

    kept = watched.look(ends(OF_NOW))
    assert kept is not None
    assert (kept.list_refuted(), kept.problem, kept.behind_s) == ((), "", None)
    assert caplog.text.count("no claim is refuted any more") == 1


def cannot_start() -> ChildEnd:
    raise OSError(11, "no more processes")


@pytest.mark.parametrize("is_wanted", [True, False])
def test_where_nothing_is_proved_any_more_no_part_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_wanted: bool
):
    watched = Watched(tmp_path, monkeypatch)
    watched.look(ends(OF_NOW))
    watched.look(ends(b"", 1))
    assert [each.part for each in watched.troubles.list_troubles()] == [PROVING]
    watched.settings.prove = is_wanted
    watched.look(has_solver=not is_wanted)
    assert watched.troubles.list_troubles() == ()

    watched.settings.prove = True
    watched.look(ends(OF_NOW))
    watched.settings.prove = is_wanted
    watched.look(has_solver=not is_wanted, has_changed=False)
    watched.settings.prove = True
    found = watched.look(ends(OF_NOW), has_changed=False)  # at once, as nothing is known
    assert found is not None
    assert found.claims == (PROVED,)


def test_what_is_refuted_while_apply_loads_the_guard_is_proved_again_before_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    watched = Watched(tmp_path, monkeypatch)

    def write() -> None:
        new = tmp_path / "new"
        new.write_text("")
        new.replace(watched.state.guard_file)

    for meanwhile in (watched.change, write, watched.state.guard_file.unlink):
        watched.look(ends(OPEN, meanwhile=meanwhile), ends(OF_NOW))
        write()
    assert "claim-refuted" not in caplog.text
    assert "not so" not in caplog.text

    kept = watched.look(ends(OPEN, meanwhile=watched.change), ends(CHURN))
    assert kept is not None
    assert kept.list_refuted() == (REFUTED,)
    watched.look(ends(OF_NOW))
    watched.look(ends(OPEN, meanwhile=watched.change), ends(OPEN, meanwhile=watched.change))
    assert caplog.text.count("not so") == 2
    watched.look(ends(OPEN, meanwhile=watched.change))  # that was said


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


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), claim_process.NO_MEMORY),
        (RuntimeError("Resource temporarily unavailable"), claim_process.NO_MEMORY),
        (BadInput("no\nport", hint=""), "no\\nport"),
    ],
)
def test_the_process_says_why_there_is_no_proof(
    error: Exception, words: str, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
):
    def prove(_: str) -> Iterator[ProofLine]:
        yield ProofLine(rules=7)
        yield ProofLine(results=(PROVED, REFUTED))
        raise error

    monkeypatch.setattr(claim_process, "_prove", prove)
    monkeypatch.setattr(signal, "alarm", bool)
    claim_process.main("")
    proof, trouble = read_proof(ChildEnd(0, capfdbinary.readouterr().out))
    assert (proof.claims, proof.problem, trouble) == ((REFUTED,), words, "")


WHO = """
import os, resource, sys
from qmesh.agent.daemon import claim_process
lines = claim_process._prove(sys.argv[1])
next(lines)
print(resource.getrlimit(resource.RLIMIT_FSIZE), resource.getrlimit(resource.RLIMIT_CORE))
print(os.getresuid(), os.getresgid(), os.getgroups())
print(open("/proc/self/status").read().partition("CapEff:")[2].split()[0])
"""


@pytest.mark.lab
def test_who_solves_has_no_rights(own_machine: None):
    with Machine() as machine:
        words = [sys.executable, "-c", WHO, str(machine.state.guard_file)]
        done = subprocess.run(words, capture_output=True, text=True, check=True, env={**os.environ})
        nobody = "(65534, 65534, 65534)"
        assert done.stdout.splitlines() == ["(0, 0) (0, 0)", f"{nobody} {nobody} []", "0000000000000000"]


ESCAPE = """
import os, sys, time
from pathlib import Path
from qmesh.host.unprivileged import become_nobody

def main():
    become_nobody()
    for leave in (os.setsid, lambda: os.setpgid(0, 0)):
        if os.fork() == 0:
            try:
                leave()
            except OSError as error:
                os.write(1, f"{error.errno}\\n".encode())
            time.sleep(1000)
    time.sleep(1000)

main()
"""


@pytest.mark.lab
def test_who_is_taken_over_by_the_rules_that_it_reads_ends_when_it_should(
    own_machine: None, monkeypatch: pytest.MonkeyPatch
):
    """A child in a session of its own would go on, as nobody, for as long as it wants."""
    if not can_confine():
        pytest.skip("this machine cannot: its system calls are not known")
    monkeypatch.setattr(schedule, "FIRST_S", 0.0)
    monkeypatch.setattr(claim_watch, "_LIMITS", claim_watch._LIMITS._replace(wait_s=patience(4)))
    monkeypatch.setattr(claim_watch, "build_command_line", lambda *_, **__: (sys.executable, "-c", ESCAPE))
    said: list[bytes] = []

    def note(ended: ChildEnd) -> tuple[StandingProof, str]:
        said.append(ended.output)
        return StandingProof(), ""

    monkeypatch.setattr(claim_watch, "read_proof", note)
    with Machine() as machine:
        machine.look()
        assert [each.split() for each in said] == [[b"1", b"1"]]
        wait_until(lambda: not any("    for leave in" in words for _, words in read_of_each("cmdline")))
