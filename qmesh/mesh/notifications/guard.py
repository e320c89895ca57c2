"""How often other programs have changed the guard's first table, which was restored each time.

Those that restore it count that, each since its own start. A program that changes the guard again and again
is told ever more rarely, with how many times it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from qmesh.mesh.notifications.change import ToldChange
from qmesh.mesh.values import UnixTime

AGAIN_S: Final = 600
"""Seconds until it is told a second time; then twice as long each time."""
MOST_AGAIN_S: Final = 86_400
"""At most; and after so many seconds in which nothing was told, it counts as the first time again."""


class AlterationCount(msgspec.Struct, frozen=True, array_like=True):
    """What one process has counted. keeper: which one counts; start: another one for each process.

    by: the program that was seen last, `nft (process 123)`; empty where that is not known.
    """

    keeper: str
    start: str
    count: int
    by: str = ""


class AlterationMemory(msgspec.Struct, frozen=True, kw_only=True):
    """What was told of that. counted: up to which counts; told_at: when; times: how often in a row."""

    counted: tuple[AlterationCount, ...] = ()
    told_at: UnixTime = 0
    times: int = 0


def parse_alterations(keeper: str, text: str) -> AlterationCount | None:
    """What a process tells of its count, as a line; None where that is not understood."""
    start, _, rest = text.partition(" ")
    count, _, by = rest.partition(" ")
    if not start or not re.fullmatch("[0-9]{1,15}", count):
        return None
    return AlterationCount(keeper, start, int(count), by)


def note_alterations(
    memory: AlterationMemory, counts: Iterable[AlterationCount], *, machine: str, now: int
) -> tuple[AlterationMemory, ToldChange | None]:
    """What is to be told of these counts, if anything, and what is remembered then.

    What a process has counted before it is seen for the first time is not told. now: Unix time in seconds.
    """
    before = {each.keeper: each for each in memory.counted}
    known = {each.keeper: each for each in counts}
    fresh = {keeper: _count_since(before[keeper], each) for keeper, each in known.items() if keeper in before}
    times = max(fresh.values(), default=0)  # two that restore it may both have seen the same one
    first = tuple(each for keeper, each in known.items() if keeper not in before)
    since_s = now - memory.told_at
    if not times or 0 <= since_s < _find_gap(memory.times):
        counted = (*memory.counted, *first)
        return msgspec.structs.replace(memory, counted=counted), None
    repeated = memory.times + 1 if 0 <= since_s <= MOST_AGAIN_S else 1
    by = next((known[keeper].by for keeper, count in fresh.items() if count and known[keeper].by), "")
    change = ToldChange(
        at=now,
        kind="guard-changed",
        phase="happened",
        machine=machine,
        detail=by,
        times=times,
        hold_s=_find_gap(repeated),
    )
    counted = tuple({**before, **known}.values())
    return AlterationMemory(counted=counted, told_at=now, times=repeated), change


def _count_since(before: AlterationCount, now: AlterationCount) -> int:
    return max(0, now.count - before.count) if now.start == before.start else now.count


def _find_gap(times: int) -> int:
    """Seconds until it is told again, after so many times; 0 where it was not told yet."""
    return min(AGAIN_S << min(times - 1, 16), MOST_AGAIN_S) if times else 0
