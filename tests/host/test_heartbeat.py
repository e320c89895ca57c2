"""A thread that waits, one that works, and one that hangs: they are told apart."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import pytest

from qmesh.host import pulse
from qmesh.host.pulse import Pulse
from qmesh.host.system import heartbeat
from tests.support.waiting import comes_true, patience


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(pulse, "STUCK_S", patience(0.4))
    monkeypatch.setattr(pulse, "ENDLESS_S", 3600.0)


@contextlib.contextmanager
def thread(do: Callable[[threading.Event], object]) -> Iterator[Pulse]:
    """A pulse whose thread does that until an event is set."""
    found, begun, over = Pulse(), threading.Event(), threading.Event()

    def run() -> None:
        found.attach_thread()
        begun.set()
        do(over)
        found.detach_thread()

    running = threading.Thread(target=run)
    running.start()
    try:
        assert begun.wait(10)
        yield found
    finally:
        over.set()
        running.join()
    assert not found.is_stuck  # what has ended does not hang


def becomes_stuck(found: Pulse, seconds: float) -> bool:
    return comes_true(lambda: found.is_stuck, seconds)


def work(over: threading.Event) -> None:
    while not over.is_set():
        sum(range(1000))


def beat_and_wait(over: threading.Event) -> None:
    while not over.wait(0.01):
        heartbeat.beat()


def wait_as_said(over: threading.Event) -> None:
    with heartbeat.allow_wait(3600.0), heartbeat.allow_wait(0.1):  # the longer one of the outer counts
        over.wait()


def wait_after_what_was_said(over: threading.Event) -> None:
    with heartbeat.allow_wait(3600.0):
        pass
    over.wait()


def test_nobodys_is_not_stuck():
    assert not becomes_stuck(Pulse(), 0.5)


def test_a1_one_that_shows_nothing_hangs_and_it_is_told_where():
    with thread(threading.Event.wait) as found:
        assert becomes_stuck(found, 30)
        assert "in wait" in found.format_stack()
        found.reset_timer()
        assert not found.is_stuck
        assert becomes_stuck(found, 30)


@pytest.mark.parametrize("do", [beat_and_wait, wait_as_said, work])
def test_one_that_beats_waits_as_it_said_or_works_does_not_hang(do):
    with thread(do) as found:
        assert not becomes_stuck(found, 0.6)


def test_a1_one_that_works_without_an_end_hangs(monkeypatch):
    monkeypatch.setattr(pulse, "ENDLESS_S", 0.5)
    with thread(work) as found:
        assert becomes_stuck(found, 30)


def test_a1_what_was_allowed_is_over_with_its_block():
    with thread(wait_after_what_was_said) as found:
        assert becomes_stuck(found, 30)


def test_a_thread_without_a_pulse_may_say_what_it_likes():
    heartbeat.beat()
    with heartbeat.allow_wait(1.0):
        heartbeat.beat()
