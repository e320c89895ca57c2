"""How much a process says: of the same text a few times a minute, and of all of it so many octets."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

SAME: Final = 10
"""Times that a text is said in `SAME_S` seconds."""
SAME_S: Final = 60.0
BURST: Final = 32 * 1024
"""Octets that are said at once, at most."""
PER_S: Final = 256.0
"""Octets a second, over a longer time: 22 MB a day."""
MOST_LINE: Final = 8 * 1024
_MOST_TEXTS: Final = 1000


class RateLimit:
    """What is said: a few of each text, and so many octets in all.

    clock: seconds, of a clock that is never set.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._texts: dict[str, tuple[float, int]] = {}
        self._left = float(BURST)
        self._at = clock()
        self._unsaid = 0

    def is_recent(self, text: str) -> bool:
        """Whether it was said lately: what more there is to it then was said too."""
        return text in self._texts and self._clock() - self._texts[text][0] <= SAME_S

    def check_limit(self, text: str, octets: int) -> int | None:
        """How many were not said since one was, where this one is said; else None.

        octets: of all of it, a traceback among them.
        """
        now = self._clock()
        self._left = min(float(BURST), self._left + (now - self._at) * PER_S)
        self._at = now
        if self._is_repeated(text, now) or octets > self._left:
            self._unsaid += 1
            return None
        self._left -= octets
        unsaid, self._unsaid = self._unsaid, 0
        return unsaid

    def _is_repeated(self, text: str, now: float) -> bool:
        begun, times = self._texts.pop(text, (now, 0))
        if now - begun > SAME_S:
            begun, times = now, 0
        if len(self._texts) >= _MOST_TEXTS:
            self._texts.pop(next(iter(self._texts)))
        self._texts[text] = begun, times + 1
        return times >= SAME


def describe_unsaid(unsaid: int) -> str:
    """What is said behind a line before which others were left out."""
    return f" ({unsaid} messages before this one were left out)" if unsaid else ""
