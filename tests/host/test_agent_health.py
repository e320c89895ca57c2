"""What an agent says of itself, and what it is when it says nothing."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qmesh.host.system import agent_health
from qmesh.host.system.agent_health import Health, NoAnswer, Restart, Trouble

WELL = Health(process=7, looked_s=0.5, troubles=(), restarts=())
ILL = Health(
    process=7,
    looked_s=None,
    troubles=(Trouble(part="look", reason="the disk is full", hint="free it", since=1.0),),
    restarts=(Restart(part="monitor", reason="it hung", times=2, last=2.0),),
)


@contextlib.contextmanager
def agent(directory: Path, answer: Callable[[socket.socket], object]) -> Iterator[None]:
    """Answers one who asks."""
    with agent_health.listen(directory) as listening:

        def run() -> None:
            caller, _ = listening.accept()
            with caller:
                answer(caller)

        answering = threading.Thread(target=run)
        answering.start()
        yield
        answering.join()


@pytest.mark.parametrize("said", [WELL, ILL])
def test_it_is_told_as_it_is(tmp_path, said):
    with agent(tmp_path, lambda caller: agent_health.send_health(caller, said)):
        assert agent_health.request_health(tmp_path, wait_s=10) == said


def test_root_alone_may_ask(tmp_path):
    with agent_health.listen(tmp_path):
        assert (tmp_path / agent_health.SOCKET).stat().st_mode & 0o777 == 0o600


def test_one_that_is_just_beginning_is_waited_for(tmp_path):
    began = threading.Timer(0.2, lambda: serve(tmp_path))
    began.start()
    assert agent_health.request_health(tmp_path, wait_s=30) == WELL
    began.join()


def serve(directory: Path) -> None:
    with agent(directory, lambda caller: agent_health.send_health(caller, WELL)):
        pass


def drip(caller: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            caller.sendall(b" ")
            threading.Event().wait(0.01)


def flood(caller: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            caller.sendall(b" " * 65536)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda caller: caller.recv(1), "no answer within"),  # until who asked goes away
        (lambda caller: caller.sendall(b"{}"), "not understood"),
        (lambda caller: caller.sendall(b"\xff" * 1000), "not understood"),
        (lambda caller: None, "not understood"),
        (drip, "no answer within"),
        (flood, "no answer within"),
    ],
)
def test_a1_no_sensible_answer_is_one_too(tmp_path, answer, why):
    with agent(tmp_path, answer), pytest.raises(NoAnswer, match=why):
        agent_health.request_health(tmp_path, wait_s=0.5)


def test_nobody_there(tmp_path):
    with pytest.raises(NoAnswer, match="nothing listens"):
        agent_health.request_health(tmp_path, wait_s=0.1)


def test_who_asks_and_does_not_listen_is_none_to_wait_for(tmp_path):
    with agent_health.listen(tmp_path) as listening, socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(tmp_path / agent_health.SOCKET))
        caller, _ = listening.accept()
        asking.close()
        agent_health.send_health(caller, WELL)
