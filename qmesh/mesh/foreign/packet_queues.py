"""Rules that give packets to a program (`queue`, NFQUEUE): what becomes of them depends on who waits there.

Source: linux/netfilter/nf_tables.h, linux/netfilter/xt_NFQUEUE.h, net/netfilter/nf_queue.c.
"""

from __future__ import annotations

import struct
from typing import Final

from qmesh.mesh.foreign.lookups import Lookups, Question
from qmesh.mesh.foreign.rules import Ending

FAMILY: Final = "queue"
"""Of the question whether a program waits at a queue; the queue's number is the collection."""
_MOST_QUEUES: Final = 64
_BYPASS: Final = 1


def judge_queues(lookups: Lookups, first: int, count: int, *, bypasses: bool) -> Ending:
    """What becomes of packets that are given to one of these queues.

    A program that waits there lets pass what it does not mean to drop: that it runs is no reason to doubt.
    bypasses: whether packets pass where none waits; else they are dropped.
    """
    if bypasses:
        return "accept"
    asked = range(first, first + min(count, _MOST_QUEUES))
    found = [lookups.find_element(Question(FAMILY, "", str(number), b"")) for number in asked]
    waits = {element is not None if is_known else None for is_known, element in found}
    if waits == {True} and count <= _MOST_QUEUES:
        return "accept"
    return "drop" if waits == {False} and count <= _MOST_QUEUES else "unclear"


def read_queue_target(revision: int, content: bytes) -> tuple[int, int, bool]:
    """Of iptables' target: the first queue, how many, and whether it bypasses. Raises struct.error."""
    first, count, flags = struct.unpack_from("=HHH", content.ljust(6, b"\0") if revision < 2 else content)
    return first, count if revision else 1, bool(revision > 1 and flags & _BYPASS)
