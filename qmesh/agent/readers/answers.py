"""The agent's answers to readers, by question. Each makes so much work at most, however often it is asked."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final

import msgspec

from qmesh.agent.limited_command import run_limited_command
from qmesh.agent.metrics.collector import MetricsCollector
from qmesh.agent.readers.shared_answer import SharedAnswer
from qmesh.errors import MachineRefused
from qmesh.host.readers.server import ReaderAnswer, build_size_error
from qmesh.host.state.directory import State
from qmesh.mesh.decode import Malformed, decode_json
from qmesh.mesh.view.answers import (
    LogAnswer,
    RefusalAnswer,
    ReportAnswer,
    StatusAnswer,
    keep_shown_fields,
)
from qmesh.mesh.view.questions import MOST_ANSWER, ROOT, Caller, ReaderQuestion, build_refusal

KEPT: Final[dict[ReaderQuestion, tuple[float, float]]] = {
    "status": (2.0, 10.0),
    "check": (30.0, 10.0),
    "log": (2.0, 10.0),
    "metrics": (0.5, 3.0),
    "view": (1.0, 3.0),
}
"""Seconds for which an answer is given to all who ask, at least, and how many times longer than it took.

Of the last two what takes long is bounded where it is looked at.
"""
_MOST_SAID: Final = 2 * MOST_ANSWER
"""Bytes of what a command says, of which readers see a part."""


class ReaderAnswers:
    """Of one machine's agent. From any thread."""

    def __init__(self, state: State, metrics: MetricsCollector) -> None:
        self._state = state
        self._metrics = metrics
        finders: dict[ReaderQuestion, Callable[[], bytes]] = {
            "status": self._find_status,
            "check": self._find_check,
            "log": self._find_log,
            "metrics": self._find_metrics,
            "view": self._find_view,
        }
        self._shared = {
            question: SharedAnswer(find, least_s=KEPT[question][0], times=KEPT[question][1])
            for question, find in finders.items()
        }

    def find_answer(self, question: ReaderQuestion, caller: Caller) -> ReaderAnswer:
        """The answer to that process: to root one that is found now. Raises QmeshError."""
        return self._shared[question].find_answer(is_fresh=caller.user == ROOT)

    def forget_old(self) -> None:
        """Let go of what is not given any more."""
        for shared in self._shared.values():
            shared.forget_old()

    def _find_status(self) -> bytes:
        return self._run("status", StatusAnswer)

    def _find_check(self) -> bytes:
        return self._run("check", ReportAnswer)

    def _find_log(self) -> bytes:
        return self._run("log", LogAnswer)

    def _run(self, command: str, kind: type) -> bytes:
        """What a command says to root, of which readers see the fields of a type."""
        said, _ = run_limited_command(self._state, command, "--json", most_octets=_MOST_SAID)
        if len(said) >= _MOST_SAID:
            raise build_size_error()
        return select_shown(said, kind, command)

    def _find_metrics(self) -> bytes:
        text = self._metrics.render_all()
        if not text:
            raise _build_early_error()
        return text

    def _find_view(self) -> bytes:
        view = self._metrics.build_view()
        if view is None:
            raise _build_early_error()
        return msgspec.json.encode(view)


def select_shown(said: bytes, kind: type, command: str) -> bytes:
    """The part of what a command said that readers see. Raises QmeshError where it said no."""
    with contextlib.suppress(Malformed):
        return keep_shown_fields(said, kind)
    refusal = None
    with contextlib.suppress(Malformed):
        refusal = decode_json(said, RefusalAnswer)
    if refusal is None:
        raise MachineRefused(
            f"this machine's agent had no answer from `qmesh {command}`",
            hint=f"have root run `qmesh {command}`",
        )
    raise build_refusal(refusal.error, refusal.hint, refusal.exit_code)


def _build_early_error() -> MachineRefused:
    return MachineRefused("this machine's agent has not looked at it yet", hint="try again in some seconds")
