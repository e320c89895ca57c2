"""What became of an input, and a run of many."""

from __future__ import annotations

import time
import traceback
from collections import Counter
from random import Random
from typing import TYPE_CHECKING

import msgspec

from qmesh.errors import QmeshError

if TYPE_CHECKING:
    from tests.support.readers.table import Reader


class Tally(msgspec.Struct):
    """What became of many inputs. others: by the error and where it was raised, with the first input.

    is_cut_off: by Ctrl-C, before all were tried.
    """

    accepted: int = 0
    refused: int = 0
    slowest_s: float = 0.0
    slowest: bytes = b""
    counts: Counter[str] = msgspec.field(default_factory=Counter)
    others: dict[str, bytes] = msgspec.field(default_factory=dict)
    is_cut_off: bool = False

    @property
    def other(self) -> int:
        """How many ended with another error than one of qmesh's."""
        return sum(self.counts.values())

    @property
    def inputs(self) -> int:
        """How many there were."""
        return self.accepted + self.refused + self.other


def other_error(reader: Reader, octets: bytes) -> tuple[bool, str]:
    """Whether the reader took it; and what else than one of qmesh's errors it ended with, if anything."""
    try:
        reader.read(octets)
    except QmeshError:
        return False, ""
    except Exception as error:  # noqa: BLE001 - to be told of, whatever it is
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return (
            False,
            f"{type(error).__name__} at {frame.filename.rpartition('/')[2]}:{frame.lineno}: {error}"[:200],
        )
    return True, ""


def tried(reader: Reader, count: int, seed: int) -> Tally:
    """So many inputs from a seed, or what Ctrl-C left of them."""
    random, tally = Random(f"{reader.name} {seed}"), Tally()  # noqa: S311 - to be the same again
    try:
        _try(reader, count, random, tally)
    except KeyboardInterrupt:
        tally.is_cut_off = True
    return tally


def _try(reader: Reader, count: int, random: Random, tally: Tally) -> None:
    for _ in range(count):
        octets = reader.mutate(random, reader.seeds)
        begun = time.perf_counter()
        is_accepted, other = other_error(reader, octets)
        took = time.perf_counter() - begun
        if took > tally.slowest_s:
            tally.slowest_s, tally.slowest = took, octets
        if other:
            place = other.partition(": ")[0]
            tally.counts[place] += 1
            tally.others.setdefault(place, octets)
        elif is_accepted:
            tally.accepted += 1
        else:
            tally.refused += 1
