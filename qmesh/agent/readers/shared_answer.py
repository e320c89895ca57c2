"""One answer for all who ask within some seconds: asking more often makes no more work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from qmesh.errors import Busy, MachineRefused, QmeshError
from qmesh.host.log.events import report_event
from qmesh.host.readers.server import ReaderAnswer

WAIT_S: Final = 60.0
"""Seconds that one who asks waits for what another one has asked for."""


class SharedAnswer:
    """Of one question. find: finds the answer; raises QmeshError. From any thread.

    least_s: seconds for which an answer is kept, at least; times: how many times longer than it took, so that
        a part of one processor at most is spent on it. clock: seconds, of a clock that is never set.
    """

    def __init__(
        self,
        find: Callable[[], bytes],
        *,
        least_s: float,
        times: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._find = find
        self._least_s = least_s
        self._times = times
        self._clock = clock
        self._lock = threading.Lock()
        self._held: tuple[bytes | QmeshError, float] | None = None
        self._due = 0.0

    def find_answer(self, *, is_fresh: bool = False, wait_s: float = WAIT_S) -> ReaderAnswer:
        """The answer, found now or kept. Raises QmeshError where there is none.

        is_fresh: whether it must not have been found for who asked before.
        """
        asked_at = self._clock()
        if not self._lock.acquire(timeout=wait_s):
            raise Busy("this machine's agent is still at this question", hint="try again in a minute")
        try:
            is_due = self._held is None or self._clock() >= self._due
            if is_due or (is_fresh and self._held is not None and self._held[1] < asked_at):
                self._renew()
            assert self._held is not None
            found, at = self._held
        finally:
            self._lock.release()
        if isinstance(found, QmeshError):
            raise found.with_traceback(None)  # which would grow with each caller
        return ReaderAnswer(found, max(0.0, self._clock() - at))

    def forget_old(self) -> None:
        """Let go of an answer that is not given any more: it may be large."""
        if self._lock.acquire(blocking=False):
            try:
                if self._clock() >= self._due:
                    self._held = None
            finally:
                self._lock.release()

    def _renew(self) -> None:
        began = self._clock()
        found: bytes | QmeshError
        try:
            found = self._find()
        except QmeshError as error:
            found = error
        except Exception as error:  # noqa: BLE001 - logged
            report_event("request-failed", "a question of a reader could not be answered", error=error)
            found = MachineRefused(
                "this machine's agent could not find the answer",
                hint="its log says why: have root look there",
            )
        ended = self._clock()
        self._held = found, began
        self._due = ended + max(self._least_s, self._times * (ended - began))
