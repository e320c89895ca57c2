"""Which way packets would go: the kernel's own answer, for many addresses in little time.

Source: rtnetlink(7), RTM_GETROUTE.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Final

from qmesh.host.network.kernel_routes import messages
from qmesh.host.network.kernel_routes.netlink_socket import open_route_socket
from qmesh.host.network.links import name_interface
from qmesh.host.network.netlink_messages import parse_messages, receive_octets
from qmesh.mesh.routes.detours import RouteAnswer
from qmesh.mesh.routes.lookup import SentPacket

BATCH: Final = 32
"""Questions that are sent at once: the kernel answers all of them before it returns, into a buffer that has
room for some forty answers."""


def ask_kernel(packets: Sequence[SentPacket]) -> tuple[RouteAnswer, ...]:
    """The kernel's answer for each packet, in their order. Raises MachineRefused where it does not answer."""
    name = lru_cache(None)(name_interface)
    with open_route_socket("ask for the routes to members") as netlink:
        return tuple(
            _build_answer(found, name)
            for start in range(0, len(packets), BATCH)
            for found in _ask(netlink, packets[start : start + BATCH])
        )


def _ask(netlink: socket.socket, packets: Sequence[SentPacket]) -> Iterator[messages.FoundAnswer]:
    """Raises OSError and ValueError."""
    requests = (
        messages.build_question(number, each.destination, each.source, each.user, each.port)
        for number, each in enumerate(packets)
    )
    netlink.sendto(b"".join(requests), (0, 0))
    found: dict[int, messages.FoundAnswer] = {}
    while len(found) < len(packets):
        for kind, _, message in parse_messages(receive_octets(netlink)):
            number, answer = messages.parse_answer(kind, message)
            found[number] = answer
    return (found[number] for number in range(len(packets)))


def _build_answer(found: messages.FoundAnswer, name: Callable[[int], str]) -> RouteAnswer:
    if found.error:
        return RouteAnswer(error=os.strerror(found.error).lower())
    return RouteAnswer(
        interface=None if found.index is None else name(found.index),
        is_local=found.kind == messages.LOCAL_TYPE,
        source=found.source,
        table=found.table or None,
    )
