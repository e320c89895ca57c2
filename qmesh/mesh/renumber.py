"""How the machines behind a gap in the core numbers close it, so that as few as can be are renumbered.

Every machine has a row of core numbers, and rows follow each other without holes. When cores fall out,
machines from behind may move into the gap where a group of them fits, or all behind move up.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

MOST_LOOKS: Final = 1_000_000
"""Looks at a machine while orders are tried: a quarter of a second. Machines that are alike need few."""


class _PartialOrder(NamedTuple):
    """The first machines of an order: how many it renumbers at least, and what it has placed."""

    at_least: int
    left: int
    order: tuple[int, ...]
    at: int
    moved: int


def close_gap(sizes: Sequence[int], gap: int) -> tuple[int, ...]:
    """The order, by position in `sizes`, in which machines behind a gap close it.

    sizes: their counts of cores, as they stand now. gap: cores that fell out before the first.

    No other order renumbers fewer, unless the machines are so many and so unlike that it is not found
    in `MOST_LOOKS`: then machines from the end that fill the gap move there, and if none do, all move up.
    """
    simple = _fill_from_end(sizes, gap)
    found = _search_order(sizes, gap, fewer_than=count_renumbered(sizes, gap, simple))
    return simple if found is None else found


def count_renumbered(sizes: Sequence[int], gap: int, order: Sequence[int]) -> int:
    """How many machines have other numbers in that order."""
    starts, at, count = _list_start_offsets(sizes, gap), 0, 0
    for machine in order:
        count += starts[machine] != at
        at += sizes[machine]
    return count


def _list_start_offsets(sizes: Sequence[int], gap: int) -> list[int]:
    starts = [gap]
    for size in sizes:
        starts.append(starts[-1] + size)
    return starts


def _fill_from_end(sizes: Sequence[int], gap: int) -> tuple[int, ...]:
    """The shortest end of the row that has machines which together fill the gap; else as they stand."""
    everyone = tuple(range(len(sizes)))
    # Bit N of the last one is set when some of the machines looked at so far have N cores together.
    sums, within = [1], (1 << (gap + 1)) - 1
    for size in reversed(sizes):
        sums.append((sums[-1] | sums[-1] << size) & within)
        if sums[-1] >> gap & 1:
            break
    else:
        return everyone
    missing, filling = gap, set()
    for machine, before in zip(everyone[-len(sums) + 1 :], reversed(sums[:-1]), strict=True):
        if not before >> missing & 1:
            filling.add(machine)
            missing -= sizes[machine]
    return (*sorted(filling), *(machine for machine in everyone if machine not in filling))


def _search_order(sizes: Sequence[int], gap: int, *, fewer_than: int) -> tuple[int, ...] | None:
    """The order that renumbers fewest, by A*; None when none is found that renumbers fewer."""
    starts = _list_start_offsets(sizes, gap)
    end = sum(sizes)
    # A machine with a number beyond the new end has to move, whatever the order.
    lost = sum(starts[machine] + size > end for machine, size in enumerate(sizes))
    waiting = [_PartialOrder(lost, len(sizes), (), 0, 0)]
    for _ in range(0, MOST_LOOKS, len(sizes) ** 2 or 1):
        if not waiting or waiting[0].at_least >= fewer_than:
            return None
        best = heapq.heappop(waiting)
        if not best.left:
            return best.order
        for each in _extend_order(best, sizes, starts, end):
            heapq.heappush(waiting, each)
    return None


def _extend_order(
    begun: _PartialOrder, sizes: Sequence[int], starts: Sequence[int], end: int
) -> Iterator[_PartialOrder]:
    unplaced = sorted(set(range(len(sizes))).difference(begun.order))
    lost = {machine for machine in unplaced if starts[machine] < begun.at or starts[machine + 1] > end}
    tried = set()
    for machine in unplaced:
        # Those that move in any case are alike where they have as many cores.
        if machine in lost and sizes[machine] in tried:
            continue
        if machine in lost:
            tried.add(sizes[machine])
        moved, at = begun.moved + (starts[machine] != begun.at), begun.at + sizes[machine]
        still = sum(starts[other] < at or starts[other + 1] > end for other in unplaced if other != machine)
        yield _PartialOrder(moved + still, begun.left - 1, (*begun.order, machine), at, moved)
