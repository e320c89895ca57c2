"""What is known of a thread by its heartbeat: whether it waits, works or hangs."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Final

from qmesh.host.system import heartbeat

STUCK_S: Final = 5.0
"""Seconds without a beat after which a thread that uses no processor time hangs."""
ENDLESS_S: Final = 60.0
"""The same for one that does use it: a slow machine is no fault, a loop without an end is."""
PATIENCE: Final = 3.0
"""So many times as long may a thread take that uses little of a processor, but has come to its turn."""
REST_S: Final = 1.0
"""Seconds in which one that has not come to its turn at all does not wait for a busy machine."""
_IN_USE: Final = 0.02
"""The part of the time for which a thread that works, and does not wait, has a processor at the least."""
_BUSY: Final = ("R", "D")
"""States of a thread that waits for a processor, or within the kernel. Source: proc_pid_status(5)."""
_TURNS: Final = ("State:", "voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:")


class Pulse:
    """Of one thread at a time: of the one that last called `attach_thread`."""

    def __init__(self) -> None:
        self._thread: int | None = None
        self._number = 0
        # When it was looked at, and how often it had come to its turn by then.
        self._seen: tuple[float, tuple[str, ...]] = 0.0, ()
        self._processor_time = 0
        self._begun = self._used = 0.0
        self.allowed_s = 0.0
        """Seconds that its thread may wait now, besides `STUCK_S`."""

    def attach_thread(self) -> None:
        """Be the calling thread's from now on."""
        heartbeat.set_pulse(self)
        self._processor_time = time.pthread_getcpuclockid(threading.get_ident())
        self._number, self._seen = threading.get_native_id(), (0.0, ())
        self.beat()
        self._thread = threading.get_ident()

    def detach_thread(self) -> None:
        """Belong to no thread: one that has ended does not hang."""
        self._thread = None
        heartbeat.set_pulse(None)

    def beat(self, *, allowed_s: float = 0.0) -> None:
        """Show that the thread goes on. allowed_s: seconds that it may wait now, besides `STUCK_S`."""
        self.allowed_s = allowed_s
        self._used = time.clock_gettime(self._processor_time)
        self._begun = time.monotonic()

    def reset_timer(self) -> None:
        """Take it for having beaten now, from another thread: all of this process had stopped."""
        self._begun = time.monotonic()

    @property
    def silent_s(self) -> float:
        """Seconds since the last beat; 0 where it belongs to no thread."""
        return 0.0 if self._thread is None else time.monotonic() - self._begun

    @property
    def is_stuck(self) -> bool:
        """Whether its thread hangs."""
        silent_s, allowed_s = self.silent_s, STUCK_S + self.allowed_s
        if silent_s <= allowed_s - REST_S:
            return False
        try:
            is_at_rest = self._is_at_rest()
            used = time.clock_gettime(self._processor_time) - self._used
        except OSError:  # it has just ended
            return False
        if silent_s <= allowed_s:
            return False
        if used < _IN_USE * silent_s and (is_at_rest or silent_s > PATIENCE * allowed_s):
            return True
        return silent_s > max(ENDLESS_S, allowed_s)

    def _is_at_rest(self) -> bool:
        """Whether its thread sleeps, and did all the time since an earlier call. Raises OSError.

        One that waits for a processor, or within the kernel for a disk or for others' rules, does not.
        """
        with Path(f"/proc/self/task/{self._number}/status").open(
            encoding="ascii", errors="replace"
        ) as status:
            told = tuple(line for line in status if line.startswith(_TURNS))
        now, (seen_at, before) = time.monotonic(), self._seen
        if told != before:
            self._seen = now, told
            return False
        return now - seen_at >= 0.9 * REST_S and told[0].split()[1] not in _BUSY

    def format_stack(self) -> str:
        """What its thread is at, innermost last."""
        frame = sys._current_frames().get(self._thread or 0)  # noqa: SLF001 - documented, with that name
        return "".join(traceback.format_stack(frame)) if frame else "it has ended\n"
