"""A thread that waits, one that works, and one that hangs: they are told apart."""

from __future__ import annotations

import contextlib
import ctypes
import os
import tempfile
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
    monkeypatch.setattr(pulse, "REST_S", patience(0.2))
    monkeypatch.setattr(pulse, "PATIENCE", 3600.0)
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


def wait_in_steps(over: threading.Event) -> None:
    while not over.wait(0.05):
        pass


def wait_in_the_kernel(over: threading.Event) -> None:
    """For a child to begin, which waits for a pipe to be opened: no signal ends that, as with a disk."""
    with tempfile.TemporaryDirectory() as directory:
        pipe, libc = f"{directory}/pipe".encode(), ctypes.CDLL(None)
        os.mkfifo(pipe)
        actions, child = ctypes.create_string_buffer(256), ctypes.c_int()
        libc.posix_spawn_file_actions_init(actions)
        libc.posix_spawn_file_actions_addopen(actions, 0, pipe, os.O_RDONLY, 0)
        words = (ctypes.c_char_p * 2)(b"true", None)

        def open_pipe() -> None:
            over.wait()
            os.close(os.open(pipe, os.O_WRONLY))

        opening = threading.Thread(target=open_pipe)
        opening.start()
        assert libc.posix_spawn(ctypes.byref(child), b"/bin/true", actions, None, words, None) == 0
        opening.join()
        os.waitpid(child.value, 0)


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


@pytest.mark.parametrize("do", [wait_in_steps, wait_in_the_kernel])
def test_one_that_comes_to_its_turn_or_is_in_the_kernel_is_given_longer(do, monkeypatch):
    with thread(do) as found:
        assert not becomes_stuck(found, 2)
        monkeypatch.setattr(pulse, "PATIENCE", 1.0)
        assert becomes_stuck(found, 30)


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
