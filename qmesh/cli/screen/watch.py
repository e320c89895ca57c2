"""Looks again and again at something that takes a while, and draws in place what was seen last."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Final, Generic, NamedTuple, TypeVar

from qmesh.cli.screen.live_screen import LiveScreen
from qmesh.cli.screen.spans import Lines
from qmesh.cli.screen.terminal_traits import TerminalTraits, read_terminal_traits
from qmesh.cli.streams import find_stdout_failure
from qmesh.errors import QmeshError

T = TypeVar("T")

DRAWN_EVERY_S: Final = 1.0
"""Seconds after which what is drawn says again how old it is."""
_MOST_TALK: Final = 3


class LookState(NamedTuple):
    """at: when the last look that succeeded ended, in Unix time; age_s: seconds since then.

    failure: why the newest look failed; None where it did not. talk: what was logged during it.
    every_s: seconds between looks, at least.
    """

    at: float
    age_s: float
    every_s: float
    failure: str | None = None
    talk: tuple[str, ...] = ()


class _Looked(NamedTuple, Generic[T]):
    """What a look ended with."""

    facts: T | None
    error: Exception | None


def watch_in_place(
    look: Callable[[], T],
    draw: Callable[[T, LookState, TerminalTraits], Lines],
    *,
    every_s: float,
    on_end: Callable[[T], None],
) -> None:
    """Look and draw until Ctrl-C, which is raised, or until standard output is written no more.

    look: is called in a thread, never twice at once, and no more often than every so many seconds; between
        two looks is at least as much time as one takes. What it raises the first time is raised; later a
        QmeshError is shown beside what was seen before.
    on_end: is given what was seen last, once the terminal is as it was.
    """
    begun = time.monotonic()
    seen = [look()]
    try:
        _draw_looks(look, draw, seen, every_s=every_s, took_s=time.monotonic() - begun)
    finally:
        on_end(seen[0])


def _draw_looks(
    look: Callable[[], T],
    draw: Callable[[T, LookState, TerminalTraits], Lines],
    seen: list[T],
    *,
    every_s: float,
    took_s: float,
) -> None:
    """Draw what stands in `seen`, and put there what is seen next."""
    events: SimpleQueue[_Looked[T] | None] = SimpleQueue()
    at, ended = time.time(), time.monotonic()
    due, failure, begun = ended + max(every_s, took_s), None, None
    with _collect_talk() as talk, LiveScreen(lambda: events.put(None)) as screen:
        while find_stdout_failure() is None:
            now = time.monotonic()
            state = LookState(at, now - ended, every_s, failure, tuple(talk))
            traits = read_terminal_traits()
            screen.show(draw(seen[0], state, traits), is_coloured=traits.is_coloured)
            if begun is None and now >= due:
                begun = now
                talk.clear()
                threading.Thread(target=_look_once, args=(look, events), daemon=True).start()
            try:
                wait_s = DRAWN_EVERY_S if begun is not None else min(DRAWN_EVERY_S, max(0.0, due - now))
                event = events.get(timeout=wait_s)
            except Empty:
                continue
            if event is None or begun is None:
                continue
            now = time.monotonic()
            due, begun = now + max(every_s, now - begun), None
            if event.error is None:
                assert event.facts is not None
                seen[0], at, ended, failure = event.facts, time.time(), now, None
            elif isinstance(event.error, QmeshError):
                failure = f"{event.error.message} (hint: {event.error.hint})"
            else:
                raise event.error


def _look_once(look: Callable[[], T], events: SimpleQueue[_Looked[T] | None]) -> None:
    try:
        events.put(_Looked(look(), None))
    except Exception as error:  # noqa: BLE001 - the main thread raises it
        events.put(_Looked(None, error))


class _TalkHandler(logging.Handler):
    """Keeps what is logged, where else it would be written into the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        if len(self.lines) < _MOST_TALK and line not in self.lines:
            self.lines.append(line)


@contextlib.contextmanager
def _collect_talk() -> Iterator[list[str]]:
    """What is logged meanwhile, the first few lines of it, instead of on standard error."""
    talk, collected = logging.getLogger("qmesh"), _TalkHandler()
    handlers = list(talk.handlers)
    talk.handlers[:] = [collected]
    try:
        yield collected.lines
    finally:
        talk.handlers[:] = handlers
