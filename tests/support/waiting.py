"""Waiting for what comes about by itself, and failing where it does not in time.

Every time-out of the tests is from here. Its seconds are those of an idle machine; where this one is
slower, because it is busy or emulated, the time-out is as many times longer.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final

REFERENCE_S: Final = 0.06
"""What `_measured` takes on an idle machine of two cores."""
_MOST: Final = 12.0
"""More does not count: a moment in which nothing starts is not how slow a machine is, and tests whose waits
grow with it would take hours."""
HANDED_ON: Final = "QMESH_TEST_SLOWNESS"
"""The variable by which a program of the lab knows how slow this machine is."""
POLL_S: Final = 0.01


def slowness(*, anew: bool = False) -> float:
    """How many times slower than an idle machine this one is; 1 at least.

    Never less than before, but for `forget_slowness`.

    anew: measure again, instead of taking what was measured at first.
    """
    if anew:
        _slowest[0] = max(_slowest[0], _measure_slowness())
    return max(_slowest[0], _at_first())


def forget_slowness() -> None:
    """Measure anew where that was long ago. Between tests: other work may have ended."""
    if time.monotonic() > _forgotten[0] + _FORGOTTEN_S:
        _forgotten[0] = time.monotonic()
        _slowest[0] = 1.0
        _at_first.cache_clear()
        slowness()


_slowest = [1.0]
_forgotten = [time.monotonic()]
_FORGOTTEN_S: Final = 60.0


@functools.cache
def _at_first() -> float:
    told = os.environ.get(HANDED_ON)
    return float(told) if told else _measure_slowness()


def _measure_slowness() -> float:
    return min(_measured() / REFERENCE_S, _MOST)


def _measured() -> float:
    """Seconds of a small piece of work of the kind that the tests wait for: the start of a Python.

    Of three the one in the middle; where one takes that long by itself, it is enough.
    """
    taken: list[float] = []
    while len(taken) < 3 and sum(taken) < 1:
        began = time.monotonic()
        subprocess.run([sys.executable, "-I", "-S", "-c", "import asyncio, ssl"], check=True)
        taken.append(time.monotonic() - began)
    return statistics.median(taken)


def patience(seconds: float) -> float:
    """Seconds of this machine for so many of an idle one."""
    return seconds * slowness()


class Deadline:
    """So many seconds of an idle machine from now on."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._began = time.monotonic()

    def left(self) -> float:
        """Seconds until it is over, 0 when it is."""
        return max(0.0, self._began + patience(self.seconds) - time.monotonic())

    def is_over(self) -> bool:
        """Whether it is; where it seems so, by how slow this machine is by now."""
        if self.left():
            return False
        slowness(anew=True)
        return not self.left()

    def __str__(self) -> str:
        return f"{self.seconds:g} s, {slowness():.1f} times as long here"


def comes_true(condition: Callable[[], object], seconds: float, *, every_s: float = POLL_S) -> bool:
    """Whether it does in that time."""
    deadline, asked = Deadline(seconds), time.monotonic()
    while not condition():
        if deadline.is_over():
            return False
        # Who asks by whole commands would leave no processor to what is waited for, nor to other tests.
        pause(max(every_s, 2 * (time.monotonic() - asked)))
        asked = time.monotonic()
    return True


def wait_until(condition: Callable[[], object], seconds: float = 15.0, *, every_s: float = POLL_S) -> None:
    """Ask again and again, for so many seconds at most. Raises AssertionError."""
    assert comes_true(condition, seconds, every_s=every_s), f"not within {Deadline(seconds)}"


def pause(seconds: float = POLL_S) -> None:
    """Let others go on, between asking and asking again."""
    time.sleep(seconds)


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """What is done inside takes no longer. Raises AssertionError."""
    deadline = Deadline(seconds)
    yield
    assert not deadline.is_over(), f"it took longer than {deadline}"


@contextlib.contextmanager
def limit_time(limit_s: float) -> Iterator[None]:
    """What is done inside, by the main thread, is given up after so long, whatever it waits for.

    By SIGINT, which a lab handles once each process that it starts is known; where it waits for just that, at
    once a while later. Raises TimeoutError.
    """
    given_up: list[str] = []

    def give_up(*_: object) -> None:
        if given_up:
            raise TimeoutError(given_up[0])
        given_up.append(f"not over after {limit_s:.0f} s")
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGALRM, give_up)
    around = signal.setitimer(signal.ITIMER_REAL, limit_s, max(limit_s / 10, POLL_S))
    try:
        yield
    except KeyboardInterrupt as where:
        if not given_up:
            raise
        raise TimeoutError(given_up[0]) from where
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *around)


def idle(seconds: float) -> None:
    """Let time pass in which nothing is to happen; that nothing did is for the caller to see."""
    time.sleep(seconds)


def some_time(least_s: float, most_s: float) -> None:
    """Let time pass until a moment that nobody chose, for a crash: seconds of an idle machine.

    On a slow one all crashes would else be before what is to be cut off.
    """
    time.sleep(patience(random.uniform(least_s, most_s)))  # noqa: S311 - no secret
