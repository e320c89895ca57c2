"""Which packets pass on the way to the membership service and back, by exchanges of TCP with it.

An echo that is lost says little: hosts and routers limit echoes, or drop them all. TCP repeats what is lost,
so an exchange that stands still with full segments, while one with small ones ends, has met a path that
swallows large packets. TCP_MAXSEG limits the segments of both directions. Source: tcp(7).

An exchange has one full segment each way, never two in a row: those a tunnel may hand to the kernel as one
datagram (UDP_SEGMENT), which then leaves without the bit DF; routers divide it, and it arrives where a full
packet alone is lost. wireguard-go does so since 2023. Source: Linux, net/ipv4/ip_output.c, __ip_make_skb.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from typing import Final, Literal, NamedTuple, TypeAlias

import h11

from qmesh.errors import EnrolmentRefused
from qmesh.host.api.client import encode_request, send_request
from qmesh.host.api.messages import PACKETS, ControlNodeUnavailable
from qmesh.host.system import heartbeat

Direction: TypeAlias = Literal["to", "from", "both"]

CONNECT_S: Final = 1.0
"""Seconds to wait for a connection."""
FIRST_S: Final = 1.5
"""Seconds that an exchange has, beyond four round trips: TCP repeats what is lost three times in them."""
AGAIN_S: Final = 0.7
"""The same for those that follow: TCP repeats twice in them."""
_SMALL: Final = 16
"""Bytes of a request's and of an answer's body that fill no segment."""
_HOST: Final = "qmesh"
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
    def is_lost(fills: Direction | None, packet: int | None = None, wait_s: float = AGAIN_S) -> bool:
        return measure_exchange(place, fills, packet=packet, wait_s=wait_s) is None

    if not is_lost("both", wait_s=FIRST_S):
        return None
    if is_lost(None) or not is_lost("both"):
        return None
    to, back = is_lost("to"), is_lost("from")
    if not to and not back:  # it was lost by chance
        return None
    direction: Direction = "both" if to == back else "to" if to else "from"
    if is_lost("both", least):
        # Then the service must still answer, or this is no question of sizes.
        return None if is_lost(None) else LostPackets(None, direction)
    passes, fails = least, most
    while fails - passes > _STEP:
        middle = (passes + fails) // 2 & ~(_STEP - 1)
        if is_lost("both", middle):
            fails = middle
        else:
            passes = middle
    return LostPackets(passes, direction)


def measure_exchange(
    place: tuple[str, int], fills: Direction | None, *, wait_s: float, packet: int | None = None
) -> float | None:
    """Seconds until a request is there and its answer is back; None where they are not in time.

    fills: the directions in which a segment is sent that is full; None for neither.
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
        full = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
        # The service sends an answer's body apart from its head.
        path = f"{PACKETS}?octets={full if fills in ('from', 'both') else _SMALL}"
        body = bytes(full - _measure_head(path, full) if fills in ("to", "both") else _SMALL)
        with contextlib.suppress(EnrolmentRefused):  # too much of an answer is one that arrived
            try:
                send_request(connection, "POST", path, host=_HOST, body=body, read_s=wait_s)
            except ControlNodeUnavailable:
                return None
    return time.monotonic() - began


def _measure_head(path: str, length: int) -> int:
    """Bytes of a request's head where its body has so many."""
    http = h11.Connection(h11.CLIENT)
    return len(encode_request(http, "POST", path, host=_HOST, body=bytes(length))) - length
