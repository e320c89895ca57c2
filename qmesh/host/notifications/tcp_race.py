"""A TCP connection to a name that has many addresses, of which some may be dead. Source: RFC 8305.

Each is tried a moment after the one before, while those go on; the first that answers is taken. So a machine
that has addresses of IPv6 and no way out by it loses a moment for each, and not all the time that there is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import time
from collections import deque
from typing import Any, Final, NamedTuple

AGAIN_S: Final = 0.25
"""Seconds after which the next address is tried, where none has answered by then."""
MOST_ADDRESSES: Final = 16


class _Place(NamedTuple):
    """Where to connect, as of `socket`."""

    family: int
    address: Any


def open_first_connection(host: str, port: int, wait_s: float) -> socket.socket:
    """A connection to whichever of the host's addresses answers first. wait_s: seconds for all of them.

    Raises OSError: TimeoutError where one of them says nothing, else what the last of them said.
    """
    until = time.monotonic() + wait_s
    places = deque(_list_places(host, port))
    failure = OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))
    with contextlib.ExitStack() as begun, selectors.DefaultSelector() as selector:
        while places or selector.get_map():
            if places:
                failure = _begin(places.popleft(), begun, selector) or failure
            left_s = max(0.0, until - time.monotonic())
            for key, _ in selector.select(min(left_s, AGAIN_S) if places else left_s):
                each = key.fileobj
                assert isinstance(each, socket.socket)
                selector.unregister(each)
                code = each.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if not code:
                    return socket.socket(each.family, each.type, fileno=each.detach())
                failure = OSError(code, os.strerror(code))
            if time.monotonic() >= until:
                raise TimeoutError
    raise failure


def _begin(place: _Place, begun: contextlib.ExitStack, selector: selectors.BaseSelector) -> OSError | None:
    """Begin to connect; what is wrong with that address at once, or None."""
    try:
        each = begun.enter_context(socket.socket(place.family, socket.SOCK_STREAM))
        each.settimeout(0)
        code = each.connect_ex(place.address)
    except OSError as error:  # this kernel has no such addresses
        return error
    if code in {0, errno.EINPROGRESS}:
        selector.register(each, selectors.EVENT_WRITE)
        return None
    return OSError(code, os.strerror(code))


def _list_places(host: str, port: int) -> list[_Place]:
    """Where the name leads, in the system's order of each family; the families in turn."""
    found: dict[int, list[_Place]] = {}
    for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        found.setdefault(family, []).append(_Place(family, address))
    ranked = sorted(
        (rank, turn, each) for turn, of in enumerate(found.values()) for rank, each in enumerate(of)
    )
    return [each for _, _, each in ranked][:MOST_ADDRESSES]
