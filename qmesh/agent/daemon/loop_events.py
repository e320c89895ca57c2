"""What the agent's loop waits for, and who waits for the loop."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from qmesh.agent.local import Local
from qmesh.host.lean.bare_socket import BareSocket

LOOK_S: Final = 5.0
"""Seconds between two looks at the machine, at most."""
REST_S: Final = 2.0
"""Seconds after which a loop that waits says that it does, and again."""
BREATH_S: Final = 0.02
"""Seconds between two looks, at least: another program may change the rules without end."""


class LoopEvents:
    """What the loop waits for: that it is time, a word from elsewhere in this process, or a notice.

    notices: gives what is readable when the kernel has something to tell.
    """

    def __init__(self, notices: Callable[[], Sequence[BareSocket]]) -> None:
        self._woken, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._notices = notices
        self._stopped = False
        self._next = 0.0
        self.request_look()

    def close(self) -> None:
        """Wait no more."""
        os.close(self._woken)
        os.close(self._wake)

    def request_look(self) -> None:
        """Have a look come at once. From any thread, and from a signal handler."""
        with contextlib.suppress(BlockingIOError):  # then many are waiting to be read
            os.write(self._wake, b"\n")

    def stop(self) -> None:
        """Have no look come any more. As `look`."""
        self._stopped = True
        self.request_look()

    def wait(self, seconds: float, resting: Callable[[], None]) -> bool:
        """Wait for the next look, so long at most; False when there is to be none.

        resting: called from time to time while nothing happens.
        """
        time.sleep(max(0.0, self._next - time.monotonic()))
        until = time.monotonic() + seconds
        while not self._is_told(min(REST_S, until - time.monotonic())) and time.monotonic() < until:
            resting()
        self._next = time.monotonic() + BREATH_S
        with contextlib.suppress(BlockingIOError):
            os.read(self._woken, 1 << 16)
        return not self._stopped

    def _is_told(self, seconds: float) -> bool:
        """Whether anything is there to be read, or comes in that time."""
        told = [self._woken, *(each.fileno() for each in self._notices())]
        return bool(select.select(told, [], [], max(0.0, seconds))[0])


class LookRequests:
    """The agent's looks at its machine, for other threads that need one more.

    ask: has one come.
    """

    def __init__(self, ask: Callable[[], None]) -> None:
        self._ask = ask
        self._begun = self._ended = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def track_look(self) -> Iterator[None]:
        """One that ends well when the block does."""
        with self._changed:
            self._begun += 1
        yield
        with self._changed:
            self._ended = self._begun
            self._changed.notify_all()

    def wait_for_look(self, seconds: float) -> bool:
        """Wait for one that begins from now on; whether it ended well in that time."""
        with self._changed:
            before = self._begun
            self._ask()
            return self._changed.wait_for(lambda: self._ended > before, seconds)


class LookResult(NamedTuple):
    """What a look at the machine has found. at: when it ended, by the monotonic clock."""

    here: Local
    at: float


class LastLook:
    """The last look that ended well, for the agent's other threads."""

    def __init__(self) -> None:
        self.result: LookResult | None = None
        """None before the first."""
        self._ended = threading.Event()

    @property
    def here(self) -> Local | None:
        """What it has found; None before the first."""
        return None if self.result is None else self.result.here

    def note(self, here: Local) -> None:
        """One has ended well, and has found this."""
        self.result = LookResult(here, time.monotonic())
        self._ended.set()

    def wait(self, seconds: float) -> None:
        """Wait for the next one, so long at most. Of one thread."""
        self._ended.wait(seconds)
        self._ended.clear()
