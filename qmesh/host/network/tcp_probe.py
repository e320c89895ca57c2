"""TCP connections that are made to see whether somebody answers, many at once, and hung up again."""

from __future__ import annotations

import errno
import math
import selectors
import socket
import time
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from qmesh.host.system import heartbeat

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
    places: Iterable[tuple[str, int]], *, wait_s: float, most_s: float = math.inf
) -> dict[tuple[str, int], ProbeResult]:
    """What became of a connection to each address and TCP port.

    wait_s: seconds to wait for each. most_s: for all; those whose turn had not come by then have ETIMEDOUT.
    """
    until = time.monotonic() + most_s
    waiting = iter(dict.fromkeys(places))
    found: dict[tuple[str, int], ProbeResult] = {}
    with heartbeat.allow_wait(wait_s * _LONGER), selectors.DefaultSelector() as selector:
        while True:
            if time.monotonic() > until:
                found |= dict.fromkeys(waiting, ProbeResult(0.0, errno.ETIMEDOUT))
            for place in _take_places(waiting, AT_ONCE - len(selector.get_map())):
                began, end, error = _start_connect(place)
                if end is not None:
                    selector.register(end, selectors.EVENT_WRITE, (place, began))
                else:
                    found[place] = ProbeResult(0.0, error)
            if not selector.get_map():
                return found
            _collect_answers(selector, found, wait_s)


def _take_places(waiting: Iterator[tuple[str, int]], most: int) -> Iterator[tuple[str, int]]:
    for _ in range(most):
        place = next(waiting, None)
        if place is None:
            return
        yield place


def _start_connect(place: tuple[str, int]) -> tuple[float, socket.socket | None, int]:
    """When it was begun, and the socket; or the errno of why there is none."""
    began = time.monotonic()
    try:
        end = socket.socket(socket.AF_INET6 if ":" in place[0] else socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:  # this process has no room for one, or the kernel no such family
        return began, None, error.errno or errno.EIO
    end.setblocking(False)  # noqa: FBT003 - a method of the library
    refused = end.connect_ex(place)
    if refused not in {0, errno.EINPROGRESS}:
        end.close()
        return began, None, refused
    return began, end, 0


def _collect_answers(
    selector: selectors.BaseSelector, found: dict[tuple[str, int], ProbeResult], wait_s: float
) -> None:
    """Wait until something is decided; who waited too long is decided as well."""
    now = time.monotonic()
    until = min(key.data[1] for key in selector.get_map().values()) + wait_s
    ready = selector.select(max(0.0, until - now))
    now = time.monotonic()
    for key, _ in ready:
        end, (place, began) = key.fileobj, key.data
        assert isinstance(end, socket.socket)
        error = end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        found[place] = ProbeResult(now - began, error)
        _close_socket(selector, end)
    for key in list(selector.get_map().values()):
        if key.data[1] + wait_s <= now:
            found[key.data[0]] = ProbeResult(wait_s, errno.ETIMEDOUT)
            _close_socket(selector, key.fileobj)


def _close_socket(selector: selectors.BaseSelector, end: object) -> None:
    assert isinstance(end, socket.socket)
    selector.unregister(end)
    end.close()
