"""Whether the kernel may send packets another way: what it tells of rules, routes, links and addresses.

Source: rtnetlink(7), linux/rtnetlink.h. Of a route that goes with its link or address it tells nothing else.
"""

from __future__ import annotations

import select
from typing import Final

from qmesh.host.firewall.table_events import open_netlink_socket, receive_datagrams

_ROUTE_PROTOCOL: Final = 0  # NETLINK_ROUTE
_LINK, _NEXT_HOP = 1, 32
_ADDRESSES, _ROUTES, _RULES = (5, 9), (7, 11), (8, 19)
"""RTNLGRP_*: numbers of groups; of IPv4, and of IPv6."""
_GROUPS: Final = sum(1 << (each - 1) for each in (_LINK, _NEXT_HOP, *_ADDRESSES, *_ROUTES, *_RULES))


class RouteNotices:
    """The kernel keeps them until they are taken. Raises OSError where it tells nothing."""

    def __init__(self) -> None:
        self._socket = open_netlink_socket(_ROUTE_PROTOCOL, _GROUPS)

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()

    def wait(self, seconds: float) -> bool:
        """Whether any comes within that time; none does in less than none."""
        waiting = select.poll()
        waiting.register(self._socket, select.POLLIN)
        return bool(waiting.poll(max(0.0, seconds) * 1000))

    def take(self) -> bool:
        """Whether any came since the last time. Raises OSError."""
        return sum(1 for _ in receive_datagrams(self._socket)) > 0  # all are taken
