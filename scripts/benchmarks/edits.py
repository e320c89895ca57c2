"""What an edit of the worker list changes outside of it: nothing, in files of every kind."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from benchmarks.measuring import Figure

from tests.support.config_files import corpus, edit_worker_list, lists_for, random_edit
from tests.support.outside import entries_of, octets_changed


def figures(one_in: int, random_files: int) -> list[Figure]:
    """Octets outside the list that edits changed, judged as the tests judge them.

    one_in: of how many of the corpus's files one is edited, in every way.
    """
    files = list(corpus().values())[::one_in]
    kept = [(text, wanted) for text in files for wanted in lists_for(entries_of(text)).values()]
    return [
        *judged(f"{len(files)} files, {len(kept):,} edits", kept),
        # The same files each time, so that what is found is found again.
        *judged(f"{random_files:,} random files", map(random_edit, map(Random, range(random_files)))),
    ]


def judged(size: str, edits: Iterable[tuple[str, tuple[str, ...]]]) -> list[Figure]:
    """Octets changed outside, and by rendering once more."""
    outside, again = 0, 0
    for text, wanted in edits:
        result = edit_worker_list(text, wanted, "2.0")
        outside += octets_changed(text, result, wanted)
        again += edit_worker_list(result, wanted, "2.0") != result
    return [
        Figure("octets changed outside the worker list", size, outside, None, "", "0", outside == 0),
        Figure("files that a second rendering changed", size, again, None, "", "0", again == 0),
    ]
