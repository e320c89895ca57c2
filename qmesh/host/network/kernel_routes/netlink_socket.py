"""A socket of rtnetlink that filters dumps, and what is read by it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from qmesh.host.network.kernel_routes import messages
from qmesh.host.network.netlink import open_rtnetlink
from qmesh.host.network.netlink_messages import read_whole_dump, send_request

_SOL_NETLINK, _GET_STRICT_CHK = 270, 12


@contextmanager
def open_route_socket(doing: str) -> Iterator[socket.socket]:
    """A socket, for as long as it takes; errors met while `doing` are refusals."""
    with open_rtnetlink(doing) as netlink:
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
