"""What the agent's loop waits for."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time

import pytest

from qmesh.agent.daemon import loop_events
from qmesh.agent.daemon.loop_events import BREATH_S, LOOK_S, LoopEvents
from tests.support.waiting import within


def do_nothing() -> None:
    """While nothing happens."""


@pytest.fixture
def notices():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def calls(notices):
    with contextlib.closing(LoopEvents(lambda: [notices[0]])) as calls:
        assert calls.wait(LOOK_S, do_nothing)  # the first look is at once
        yield calls


def test_it_is_time_after_a_while(calls):
    began = time.monotonic()
    assert calls.wait(0.2, do_nothing)
    assert time.monotonic() - began >= 0.2


def test_a1_it_says_that_it_waits_until_there_is_something_to_do(calls, monkeypatch):
    monkeypatch.setattr(loop_events, "REST_S", 0.05)
    rests: list[float] = []

    def note_rest() -> None:
        rests.append(time.monotonic())
        if len(rests) == 3:
            calls.request_look()

    with within(LOOK_S - 1):
        assert calls.wait(LOOK_S, note_rest)
    assert len(rests) == 3
    assert rests[2] - rests[0] >= 0.1


@pytest.mark.parametrize("word", ["request_look", "stop"])
def test_a_word_of_another_thread_is_heard(calls, word):
    timer = threading.Timer(0.05, getattr(calls, word))
    with within(LOOK_S - 1):
        timer.start()
        assert calls.wait(LOOK_S, do_nothing) is (word == "request_look")
    timer.join()


def test_many_words_are_one_look(calls):
    for _ in range(200_000):
        calls.request_look()
    assert calls.wait(LOOK_S, do_nothing)
    began = time.monotonic()
    assert calls.wait(0.2, do_nothing)
    assert time.monotonic() - began >= 0.2


def test_a_signal_handlers_word_is_heard(calls):
    before = signal.signal(signal.SIGUSR1, lambda *_: calls.stop())
    timer = threading.Timer(0.05, os.kill, [os.getpid(), signal.SIGUSR1])  # to the process, as of another one
    timer.start()
    try:
        with within(LOOK_S - 1):
            assert not calls.wait(LOOK_S, do_nothing)
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)


def test_notices_without_end_leave_time_for_others(calls, notices):
    notices[1].send(b"for ever")
    looks, until = 0, time.monotonic() + 0.5
    while time.monotonic() < until:
        assert calls.wait(LOOK_S, do_nothing)
        looks += 1
    assert 1 <= looks <= 0.5 / BREATH_S + 1
