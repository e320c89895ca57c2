"""A thread's heartbeat, by which the monitor can tell a thread that waits from one that hangs.

Code that may wait long announces it where it waits, and need not know whether the thread is monitored: in a
thread without a pulse (`qmesh.host.pulse`) all of this does nothing.
"""

from __future__ import annotations

import _thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qmesh.host.pulse import Pulse

_this = _thread._local()  # noqa: SLF001 - what threading.local is, without all that is loaded with it


def set_pulse(pulse: Pulse | None) -> None:
    """Have the calling thread beat by that from now on; by none where it is None."""
    _this.pulse = pulse


def find_pulse() -> Pulse | None:
    """That of the calling thread."""
    found: Pulse | None = getattr(_this, "pulse", None)
    return found


def beat() -> None:
    """Show that the calling thread goes on."""
    if (pulse := find_pulse()) is not None:
        pulse.beat(allowed_s=pulse.allowed_s)


class allow_wait:  # noqa: N801 - it is used as a function
    """Have it known that the calling thread waits in this block, for so long at most."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._outer_s = 0.0
        self._pulse = find_pulse()

    def __enter__(self) -> None:
        if self._pulse is not None:
            self._outer_s = self._pulse.allowed_s
            self._pulse.beat(allowed_s=max(self._seconds, self._outer_s))

    def __exit__(self, *_: object) -> None:
        if self._pulse is not None:
            self._pulse.beat(allowed_s=self._outer_s)
