"""Which packets pass on the way to the membership service and back, by exchanges of TCP with it.

An echo that is lost says little: hosts and routers limit echoes, or drop them all. TCP repeats what is lost,
so an exchange that stands still with full segments, while one with small ones ends, has met a path that
swallows large packets. TCP_MAXSEG limits the segments of both directions. Source: tcp(7).
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from typing import Final, Literal, NamedTuple, TypeAlias

from qmesh.errors import EnrolmentRefused
from qmesh.host.api.client import send_request
from qmesh.host.api.messages import PACKETS, ControlNodeUnavailable
from qmesh.host.system import heartbeat

Direction: TypeAlias = Literal["to", "from", "both"]

CONNECT_S: Final = 1.0
"""Seconds to wait for a connection."""
FIRST_S: Final = 1.5
"""Seconds that an exchange has, beyond four round trips: TCP repeats what is lost three times in them."""
AGAIN_S: Final = 0.7
"""The same for those that follow: TCP repeats twice in them."""
_LARGE: Final = 3000
"""Bytes that fill two segments of any tunnel."""
_SMALL: Final = 16
_STEP: Final = 4
"""Bytes to within which the largest packet is found."""
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: what is left unsent is dropped at the end


class ServiceUnreachable(Exception):
    """There is no connection to the service, whose packets are all small: that is no question of sizes."""


class LostPackets(NamedTuple):
    """What is lost on a path. passes: bytes of the largest packet that arrives; None where not even `least`.

    direction: to the other machine, from it, or both.
    """

    passes: int | None
    direction: Direction


def find_lost_packets(address: str, port: int, *, most: int, least: int) -> LostPackets | None:
    """What of large packets is lost between this machine and the service; None where nothing is.

    None too where that cannot be told, as the service does not answer small packets either.
    most: bytes of the largest packet that is sent; least: of the smallest that would be of use.
    Takes a few round trips where nothing is lost, and some ten seconds at most.
    """
    with contextlib.suppress(ServiceUnreachable):
        return _find_lost_packets((address, port), most, least)
    return None


def _find_lost_packets(place: tuple[str, int], most: int, least: int) -> LostPackets | None:
    def is_lost(sent: int, received: int, packet: int | None = None, wait_s: float = AGAIN_S) -> bool:
        return measure_exchange(place, sent, received, packet=packet, wait_s=wait_s) is None

    if not is_lost(_LARGE, _LARGE, wait_s=FIRST_S):
        return None
    if is_lost(_SMALL, _SMALL) or not is_lost(_LARGE, _LARGE):
        return None
    to, back = is_lost(_LARGE, _SMALL), is_lost(_SMALL, _LARGE)
    if not to and not back:  # it was lost by chance
        return None
    direction: Direction = "both" if to == back else "to" if to else "from"
    if is_lost(_LARGE, _LARGE, least):
        # Then the service must still answer, or this is no question of sizes.
        return None if is_lost(_SMALL, _SMALL) else LostPackets(None, direction)
    passes, fails = least, most
    while fails - passes > _STEP:
        middle = (passes + fails) // 2 & ~(_STEP - 1)
        if is_lost(_LARGE, _LARGE, middle):
            fails = middle
        else:
            passes = middle
    return LostPackets(passes, direction)


def measure_exchange(
    place: tuple[str, int], sent: int, received: int, *, wait_s: float, packet: int | None = None
) -> float | None:
    """Seconds until so many bytes are there and as many others are back; None where they are not in time.

    packet: bytes of the largest IP packet in both directions; None for what fits the interface.
    wait_s: beyond four round trips, for the answer's beginning and again for its rest.
    Raises ServiceUnreachable.
    """
    address, _ = place
    is_ipv6 = ":" in address
    began = time.monotonic()
    with socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_STREAM) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        if packet is not None:
            headers = 60 if is_ipv6 else 40
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, packet - headers)
        connection.settimeout(CONNECT_S)
        try:
            with heartbeat.allow_wait(CONNECT_S):
                connection.connect(place)
        except OSError as error:
            raise ServiceUnreachable(str(error)) from error
        wait_s += 4 * (time.monotonic() - began)
        path = f"{PACKETS}?octets={received}"
        with contextlib.suppress(EnrolmentRefused):  # too much of an answer is one that arrived
            try:
                send_request(connection, "POST", path, host="qmesh", body=bytes(sent), read_s=wait_s)
            except ControlNodeUnavailable:
                return None
    return time.monotonic() - began
