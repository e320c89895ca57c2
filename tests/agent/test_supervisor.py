"""Parts that end are begun again and named; what hangs is found, and borne longer each time."""

from __future__ import annotations

import logging
import re
import threading
import time
from pathlib import Path

import pytest

from qmesh.agent.daemon import supervisor
from qmesh.agent.daemon.supervisor import WELL, AgentPart, Retries, Troubles, Watchdog
from qmesh.errors import MachineRefused
from qmesh.host.pulse import Pulse
from qmesh.mesh.audit.surroundings import SERVICE
from tests.support.checkout import CHECKOUT
from tests.support.lab.broken_parts import NAMES
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(supervisor, "AGAIN_S", (0.01, 0.02))


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def troubles(told) -> Troubles:
    return Troubles(told.append)


def test_a1_what_is_wrong_is_said_once_with_what_to_do_and_so_is_its_end(troubles, told, caplog):
    caplog.set_level(logging.INFO, "qmesh")
    for _ in range(3):
        troubles.note_error("disk", MachineRefused("it is full", hint="free it"))
        troubles.report_status()
    (now,) = troubles.list_troubles()
    assert (now.part, now.reason, now.hint) == ("disk", "it is full", "free it")
    troubles.note("disk", "it is gone")
    troubles.report_status()
    for _ in range(3):
        troubles.clear("disk")
        troubles.report_status()
    assert caplog.messages == ["disk: it is full (hint: free it)", "disk: it is gone", "disk: works again"]
    assert told == ["disk: it is full", "disk: it is gone", WELL]


def test_of_an_unforeseen_error_the_log_has_the_place(troubles, caplog):
    with pytest.raises(ZeroDivisionError) as unforeseen:
        _ = 1 / 0
    troubles.note_error("look", unforeseen.value)
    troubles.note_error("disk", OSError(28, "No space left on device"))
    assert [record.exc_info is not None for record in caplog.records] == [True, False]


def end_part(part: AgentPart) -> None:
    """End it, and wait until its thread has: it would be one of the next test's."""
    part.stop()
    wait_until(lambda: "part" not in {thread.name for thread in threading.enumerate()})


@pytest.mark.parametrize("end", [None, KeyError("x"), SystemExit(3), MachineRefused("no", hint="wait")])
def test_a1_a_part_that_ends_is_begun_again_and_named(troubles, end):
    runs, go = [], threading.Event()

    def run() -> None:
        runs.append(troubles.list_troubles())
        if len(runs) < 4:
            if end is not None:
                raise end
            return
        go.wait()

    part = AgentPart("part", run, troubles)
    part.start()
    part.start()  # it runs already
    wait_until(lambda: len(runs) == 4)
    assert runs == [(), (), (), ()]  # while it runs nothing is wrong
    (restart,) = troubles.recent_restarts()
    assert (restart.part, restart.times) == ("part", 3)
    go.set()
    end_part(part)


def test_a1_a_part_that_is_down_is_named_until_it_runs(troubles, told, monkeypatch):
    monkeypatch.setattr(supervisor, "AGAIN_S", (3600.0,))
    part = AgentPart("part", lambda: 1 / 0, troubles)
    part.start()
    wait_until(lambda: bool(troubles.list_troubles()))
    assert troubles.list_troubles()[0].reason == "ZeroDivisionError: division by zero"
    wait_until(lambda: told == ["part: ZeroDivisionError: division by zero"])
    end_part(part)


def test_intervals_grow_until_it_has_run_for_a_while(monkeypatch):
    monkeypatch.setattr(supervisor, "AGAIN_S", (10.0, 20.0, 30.0))
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    retries = Retries()
    assert retries.wait_s == 0
    waits = []
    for _ in range(4):
        retries.note_start()
        now[0] += 5
        retries.note_failure()
        waits.append(retries.wait_s)
        now[0] += waits[-1]
    assert waits == [10, 20, 30, 30]
    retries.note_start()
    now[0] += supervisor.SETTLED_S + 1
    retries.note_failure()
    assert retries.wait_s == 10


class Hung(Pulse):
    """One that says what it is told to."""

    seconds = 0.0

    @property
    def silent_s(self) -> float:
        return self.seconds

    @property
    def is_stuck(self) -> bool:
        return self.seconds > 5

    def reset_timer(self) -> None:
        self.seconds = 0.0


def test_a1_what_hangs_is_found_and_borne_longer_each_time(troubles):
    pulse, found = Hung(), []
    watchdog = Watchdog(lambda: {"part": pulse}, troubles, lambda name, _: found.append(name))
    for seconds, times in [(4, 0), (6, 1), (0, 1)]:
        pulse.seconds = seconds
        watchdog.check_pulses()
        assert found == ["part"] * times
    for _ in range(4):
        troubles.note_restart("part", "it hung")
    for seconds, times in [(15, 1), (17, 2)]:
        pulse.seconds = seconds
        watchdog.check_pulses()
        assert found == ["part"] * times


def test_a_process_that_had_stopped_as_a_whole_is_not_taken_for_one_that_hangs(troubles, monkeypatch):
    pulse, found = Hung(), []
    watchdog = Watchdog(lambda: {"part": pulse}, troubles, lambda name, _: found.append(name))
    pulse.seconds = 60
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 60)
    watchdog.check_pulses()
    assert found == []


def test_an_agent_that_has_begun_anew_knows_of_it(troubles, monkeypatch):
    for _ in range(2):
        troubles.note_restart("part", "it hung")
    monkeypatch.setenv(supervisor._RESTARTS, "")
    with pytest.MonkeyPatch.context() as patch:
        words = []
        patch.setattr("os.execv", lambda path, argv: words.append((path, argv)))
        supervisor.restart_agent_process("part", Hung(), troubles, Path("/state"))
        (restart,) = Troubles(lambda _: None).recent_restarts()
    assert (restart.part, restart.times) == ("part", 3)
    assert words[0][1][-6:] == ["-I", "-m", "qmesh", "agent", "--state", "/state"]
    assert Troubles(lambda _: None).recent_restarts() == ()  # it is not handed on for ever


@pytest.mark.parametrize("said", ["", "no", "{}", '[{"part": 1}]', "[" * 1000])
def test_an_environment_of_somebody_elses_is_no_matter(said, monkeypatch):
    monkeypatch.setenv(supervisor._RESTARTS, said)
    assert Troubles(lambda _: None).recent_restarts() == ()


def test_a1_every_part_is_broken_by_the_tests():
    """Of each `AgentPart`, and of the threads that have a pulse of their own."""
    written = [path.read_text(encoding="utf-8") for path in (CHECKOUT / "qmesh/agent").rglob("*.py")]
    made = re.compile(r"\bAgentPart\(\s*(?:supervisor\.)?([A-Z]+),")
    parts = {getattr(supervisor, name) for text in written for name in made.findall(text)}
    assert len(parts) >= 9
    others = {supervisor.LOOK, SERVICE, supervisor.METRICS_PORT}
    # One is there only while the control role moves: it keeps nobody waiting, see tests/lab/test_handover.py.
    assert (parts | others) - {supervisor.RETIRING} == set(NAMES.values())
