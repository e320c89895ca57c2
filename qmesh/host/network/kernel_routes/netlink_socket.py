"""A socket of rtnetlink that filters dumps, and what is read by it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from qmesh.host.network.kernel_routes import messages
from qmesh.host.network.netlink import translate_errors
from qmesh.host.network.netlink_messages import read_whole_dump, send_request

_ROUTE_PROTOCOL: Final = 0  # NETLINK_ROUTE
_SOL_NETLINK, _GET_STRICT_CHK = 270, 12


@contextmanager
def open_route_socket(doing: str) -> Iterator[socket.socket]:
    """A socket, for as long as it takes; errors met while `doing` are refusals."""
    with (
        translate_errors(doing),
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _ROUTE_PROTOCOL) as netlink,
    ):
        netlink.setsockopt(_SOL_NETLINK, _GET_STRICT_CHK, 1)
        yield netlink


def read_routes(
    netlink: socket.socket, family: int, *, table: int = 0, index: int | None = None
) -> list[messages.FoundRoute]:
    """The routes of a table (0: of all), of one interface where that is named.

    Raises OSError, with ENOENT where there is no such table, and ValueError.
    """
    request = messages.build_routes_request(family, table, index)
    dump = read_whole_dump(lambda: send_request(netlink, request))
    return [route for route in map(messages.parse_route, dump) if route is not None]
