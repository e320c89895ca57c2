"""What systemd's watchdog is told by an agent: more time where looks are slow, and none less than is safe."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from qmesh.agent.daemon import monitor as monitoring
from qmesh.agent.daemon.loop_events import LookRequests
from qmesh.agent.daemon.membership.server import MembershipService
from qmesh.agent.daemon.monitor import Monitor
from qmesh.agent.daemon.supervisor import LOOK, Troubles
from qmesh.errors import MachineRefused
from qmesh.host.api.messages import ServiceUnresponsive
from qmesh.host.firewall import holder_client
from qmesh.host.firewall.holder import SOCKET
from qmesh.host.pulse import Pulse
from qmesh.host.state.directory import State
from qmesh.mesh.audit.surroundings import HOLDER
from qmesh.mesh.systemd.units import WATCHDOG_S
from tests.support.waiting import wait_until


def nothing(*_: object) -> None:
    pass


@pytest.fixture
def systemd(tmp_path, monkeypatch) -> Iterator[list[str]]:
    """What it was told, in order."""
    path = tmp_path / "notify"
    told: list[str] = []
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as here:
        here.bind(str(path))
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))

        def hear() -> None:
            while (said := here.recv(4096)) != b"end":
                told.append(said.decode())

        hearing = threading.Thread(target=hear)
        hearing.start()
        yield told
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as last:
            last.sendto(b"end", str(path))
        hearing.join()


@pytest.fixture
def monitor(tmp_path) -> Monitor:
    state, troubles = State(tmp_path / "state"), Troubles(nothing)
    service = MembershipService(state, look=nothing, turns=LookRequests(nothing), troubles=troubles)
    pulse = Pulse()
    return Monitor(
        state, service, pulses=lambda: {LOOK: pulse}, troubles=troubles, look=nothing, begin_anew=nothing
    )


@pytest.fixture
def holder(monitor) -> Iterator[subprocess.Popen[str]]:
    """One that has its lock, and answers nothing."""
    state = monitor._state
    state.directory.mkdir(mode=0o700)
    state.held_file.touch(mode=0o600)
    words = ["flock", "--no-fork", state.hold_lock_file, "sh", "-c", "echo has it; exec sleep 1000"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "has it\n"
        yield process
        process.kill()


def seconds(told: list[str]) -> list[int]:
    """Those that the watchdog was given, one after the other."""
    said = "WATCHDOG_USEC="
    return [int(each.removeprefix(said)) // 1_000_000 for each in told if each.startswith(said)]


def test_a1_the_watchdog_is_fed_by_each_look_and_waits_longer_where_they_are_slow(monitor, systemd):
    for took_s in (0.02, 0.02, 3.0, 0.02):
        monitor.feed_watchdog(took_s)
    wait_until(lambda: systemd.count("WATCHDOG=1") == 4 and len(seconds(systemd)) == 3)
    quick, slow, less_slow = seconds(systemd)
    assert quick == WATCHDOG_S
    assert slow >= WATCHDOG_S + 3 * 3  # the next one may take three times as long
    assert WATCHDOG_S < less_slow < slow


def test_a1_the_watchdog_is_as_quick_again_when_looks_are(monitor, systemd):
    for took_s in (3.0, *[0.02] * 60):
        monitor.feed_watchdog(took_s)
    wait_until(lambda: systemd.count("WATCHDOG=1") == 61 and seconds(systemd)[-1] == WATCHDOG_S)


def test_a1_a_loop_that_waits_feeds_the_watchdog_and_is_not_slow(monitor, systemd, monkeypatch):
    monitor.feed_watchdog(0.02)
    monkeypatch.setattr(monitoring, "SLOW_S", 1000.0)
    monitor._loop_heard -= 1000.0
    monitor.note_rest()
    monitor._extend_watchdog_if_slow()
    wait_until(lambda: systemd.count("WATCHDOG=1") == 2)
    assert seconds(systemd) == [WATCHDOG_S]


def test_a1_a_look_that_is_not_ended_in_time_is_borne_once_and_no_longer_than_it_takes(
    monitor, systemd, monkeypatch
):
    monitor.feed_watchdog(0.02)
    monkeypatch.setattr(monitoring, "SLOW_S", 0.0)
    stopped = threading.Event()
    watching = threading.Thread(target=monitor.run, args=(stopped,))
    watching.start()
    try:
        wait_until(lambda: len(seconds(systemd)) == 2)
    finally:
        stopped.set()
        watching.join()
    monkeypatch.undo()
    assert seconds(systemd) == [WATCHDOG_S, 10 * WATCHDOG_S]


@pytest.mark.usefixtures("holder")
@pytest.mark.parametrize(("started_s", "begun"), [(holder_client.STARTED_S, 0), (0.0, 2)])
def test_a1_a_holder_that_a_command_is_starting_is_not_ended_and_one_that_hangs_so_is(
    monitor, monkeypatch, started_s, begun
):
    begun_anew: list[State] = []
    monkeypatch.setattr(holder_client, "STARTED_S", started_s)
    monkeypatch.setattr(holder_client, "replace_holder", begun_anew.append)
    for _ in range(4):
        monitor._probe_holder()
    assert len(begun_anew) == begun


@pytest.mark.usefixtures("holder")
def test_a1_a_holder_that_hangs_is_asked_again_at_once(monitor, monkeypatch):
    monkeypatch.setattr(monitoring, "PROBED_S", 0.1)
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as silent:
        silent.bind(str(monitor._state.directory / SOCKET))
        silent.listen()
        assert monitor._get_pause_s() > monitoring.STARTING_S
        monitor._probe_holder()
    assert monitor._silent == {HOLDER: 1}
    assert monitor._get_pause_s() == monitoring.STARTING_S


class FailingService:
    """One that says of its registry that it is missing. meanwhile: what happens before it is heard."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        self._meanwhile = meanwhile

    def probe(self, *, wait_s: float) -> None:
        assert wait_s > 0
        self._meanwhile()
        raise MachineRefused("it answers: its registry is missing", hint="")


@pytest.mark.parametrize(
    ("changed", "troubles"),
    [({}, 1), ({"_running": None}, 0), ({"_answered": "the new control node's answer"}, 0)],
    ids=["nothing", "ended", "handed over"],
)
def test_a1_a_service_whose_registry_has_gone_with_its_role_is_no_trouble(monitor, changed, troubles):
    service = monitor._service
    failing = FailingService(lambda: vars(service).update(changed))
    service._running = ("place", failing, "control node")
    monitor._probe_service()
    assert len(service._troubles.list_troubles()) == troubles


class Unresponsive(MembershipService):
    """A service that does not answer this machine."""

    work_done = 0
    serves = True

    def probe(self, *, wait_s: float) -> None:
        raise ServiceUnresponsive(f"it does not answer in {wait_s} s")


@pytest.fixture
def unresponsive(tmp_path) -> Unresponsive:
    return Unresponsive(
        State(tmp_path / "state"), look=nothing, turns=LookRequests(nothing), troubles=Troubles(nothing)
    )


def test_a1_a_service_that_works_for_others_is_slow_and_not_begun_anew(monitor, unresponsive, monkeypatch):
    """Where many join at once, all of them would lose their turn."""
    monitor._service = unresponsive
    for done in range(1, 9):
        unresponsive.work_done = done
        monitor._probe_service()
    assert not unresponsive.is_suspect

    now = time.monotonic() + monitoring.SLOWEST_S
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for done in range(9, 11):
        unresponsive.work_done = done
        monitor._probe_service()
    assert unresponsive.is_suspect


def test_a1_who_gave_no_answer_is_asked_again_at_once(monitor, unresponsive):
    monitor._service, monitor._probe_at = unresponsive, time.monotonic() + 1000
    assert monitor._get_pause_s() > monitoring.STARTING_S
    monitor._probe_service()
    assert monitor._get_pause_s() == monitoring.STARTING_S


def test_a1_a_holder_that_has_ended_is_left_to_who_may_be_starting_another(monitor):
    monitor._state.directory.mkdir(mode=0o700)
    monitor._state.held_file.touch(mode=0o600)
    monitor._probe_holder()
    assert monitor._silent == {HOLDER: 1}
    assert monitor._get_pause_s() > monitoring.STARTING_S


def test_a1_a_service_that_does_nothing_is_begun_anew(monitor, unresponsive):
    monitor._service, unresponsive.work_done = unresponsive, 5
    monitor._probe_service()  # what it did before nobody asked counts once
    monitor._probe_service()
    assert not unresponsive.is_suspect
    monitor._probe_service()
    assert unresponsive.is_suspect
