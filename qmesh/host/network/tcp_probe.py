"""TCP connections that are made to see whether somebody answers, many at once, and hung up again."""

from __future__ import annotations

import errno
import itertools
import math
import operator
import select
import socket
import time
from collections.abc import Iterable
from typing import Final, NamedTuple

from qmesh.host.system import heartbeat

_MOST_YOUNG: Final = 50
"""Connections that are young and not answered: a tunnel's queue has 500 packets, and each sends three."""
_YOUNG_S: Final = 0.02
"""Seconds after which what was sent is in no queue of this machine any more."""
_LONGER: Final = 10
"""Times the wait for one that thousands of places may take."""
AT_ONCE: Final = 400
"""Connections that are waited for at a time: by default a process has 1,024 descriptors."""


def measure_connect_times(
    places: Iterable[tuple[str, int]], *, wait_s: float
) -> dict[tuple[str, int], float]:
    """The seconds that each address and TCP port took to answer; those that did not are left out.

    wait_s: seconds to wait for each. Nothing is sent to who answers.
    """
    probed = probe_places(places, wait_s=wait_s)
    return {place: each.seconds for place, each in probed.items() if not each.error}


class ProbeResult(NamedTuple):
    """What became of a connection. error: as of errno(3), 0 where it was answered, ETIMEDOUT for nothing.

    seconds: until that was so.
    """

    seconds: float
    error: int


def probe_places(
    places: Iterable[tuple[str, int]], *, wait_s: float, most_s: float = math.inf, at_once: int | None = None
) -> dict[tuple[str, int], ProbeResult]:
    """What became of a connection to each address and TCP port.

    wait_s: seconds to wait for each. most_s: for all; those whose turn had not come by then have ETIMEDOUT.
    at_once: as of `AT_ONCE`.
    """
    most = at_once or AT_ONCE
    until = time.monotonic() + most_s
    waiting = iter(dict.fromkeys(places))
    found: dict[tuple[str, int], ProbeResult] = {}
    begun: dict[int, _Attempt] = {}
    with heartbeat.allow_wait(wait_s * _LONGER), select.epoll() as poll:
        while True:
            if time.monotonic() > until:
                found |= dict.fromkeys(waiting, ProbeResult(0.0, errno.ETIMEDOUT))
            for place in itertools.islice(waiting, _count_room(begun, most)):
                attempt = _start_connect(place)
                if isinstance(attempt, int):
                    found[place] = ProbeResult(0.0, attempt)
                else:
                    poll.register(attempt.end, select.EPOLLOUT)
                    begun[attempt.end.fileno()] = attempt
            has_more = operator.length_hint(waiting) > 0
            if begun:
                pause_s = _YOUNG_S if has_more and len(begun) < most else math.inf
                _collect_answers(poll, begun, found, wait_s, pause_s)
            elif not has_more:
                return found


class _Attempt(NamedTuple):
    """A connection that is being made. began: by the monotonic clock."""

    place: tuple[str, int]
    began: float
    end: socket.socket


def _count_room(begun: dict[int, _Attempt], most: int) -> int:
    """How many may be begun now. One that nobody answers takes no other's room for long."""
    since = time.monotonic() - _YOUNG_S
    young = itertools.takewhile(lambda each: each.began > since, reversed(begun.values()))
    return max(0, min(_MOST_YOUNG - sum(1 for _ in young), most - len(begun)))


def _start_connect(place: tuple[str, int]) -> _Attempt | int:
    """The connection; or the errno of why there is none."""
    began = time.monotonic()
    family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
    try:
        end = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError as error:  # this process has no room for one, or the kernel no such family
        return error.errno or errno.EIO
    refused = end.connect_ex(place)
    if refused not in {0, errno.EINPROGRESS}:
        end.close()
        return refused
    return _Attempt(place, began, end)


def _collect_answers(
    poll: select.epoll,
    begun: dict[int, _Attempt],
    found: dict[tuple[str, int], ProbeResult],
    wait_s: float,
    pause_s: float,
) -> None:
    """Wait so long at most until something is decided; who waited too long is decided as well.

    begun: by descriptor, the oldest first. Of thousands that answer one by one, none is looked at again.
    """
    oldest = next(iter(begun.values()))
    ready = poll.poll(min(pause_s, max(0.0, oldest.began + wait_s - time.monotonic())))
    now = time.monotonic()
    for descriptor, _ in ready:
        place, began, end = begun.pop(descriptor)
        error = end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        found[place] = ProbeResult(now - began, error)
        end.close()
    for late in list(itertools.takewhile(lambda each: each.began + wait_s <= now, begun.values())):
        del begun[late.end.fileno()]
        found[late.place] = ProbeResult(wait_s, errno.ETIMEDOUT)
        late.end.close()
