"""The latest answer times of all workers, as many as a plot shows, for a browser that comes later."""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec

from qmesh.mesh.page.picture import PagePicture

MOST_SAMPLES: Final = 60
MOST_NUMBERS: Final = 60_000
"""Of all samples together: of thousands of workers there are fewer samples, and a few hundred kB to send."""
LEAST_SAMPLES: Final = 8


class AnswerSample(msgspec.Struct, frozen=True):
    """A machine's workers at one look. first, answers: as of `PageMachine`."""

    first: int
    answers: tuple[int | None, ...]


class AnswerHistory:
    """Sample after sample, oldest first; the oldest goes where there are too many."""

    def __init__(self) -> None:
        self._samples: deque[tuple[AnswerSample, ...]] = deque()

    @property
    def samples(self) -> tuple[tuple[AnswerSample, ...], ...]:
        """All that are kept."""
        return tuple(self._samples)

    def note_picture(self, picture: PagePicture) -> None:
        """Keep what a look at the workers has measured, once: many pictures are of one look."""
        sample = tuple(AnswerSample(each.first, each.answers) for each in picture.machines if each.answers)
        if self._samples and self._samples[-1] == sample:
            return
        self._samples.append(sample)
        count = sum(len(each.answers) for each in sample)
        most = min(MOST_SAMPLES, max(LEAST_SAMPLES, MOST_NUMBERS // max(1, count)))
        while len(self._samples) > most:
            self._samples.popleft()
