"""Paths to other machines: how large a packet may be, outside the tunnel and inside. Source: ip(7)."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Iterable
from typing import Final

from qmesh.host import pulse, surroundings
from qmesh.host.netlink import refusals
from qmesh.mesh.model import Endpoint

PROBE_S: Final = 60.0
"""Seconds between two probes of one path: the kernel forgets what it learnt after 600."""
WAIT_S: Final = 0.3
"""Seconds in which a router says that a packet was too large for it."""
_PROBES: Final = 2
_ROUTERS: Final = 4
"""On one path, each with a narrower link than the one before."""
_IP_MTU_DISCOVER, _IP_MTU, _IPV6_MTU_DISCOVER, _IPV6_MTU, _DO = 10, 14, 23, 24, 2
_IP_RECVERR, _IPV6_RECVERR = 11, 25
_ECHO, _ECHO_REPLY, _ECHO6, _ECHO_REPLY6 = 8, 0, 128, 129

_probed: dict[Endpoint, float] = {}


def mtus(endpoints: Iterable[Endpoint], *, probe: bool) -> dict[Endpoint, int]:
    """The MTU of the way to each endpoint, in octets, as far as the kernel knows; not where no way leads.

    probe: send full-size datagrams that nobody answers, and wait until a router says that they were
        too large; each endpoint's path at most once a minute.
    """
    found = {}
    for endpoint in dict.fromkeys(endpoints):
        path = _connected(endpoint)
        if path is not None:
            with path:  # one after the other: there may be thousands
                if probe and _is_due(endpoint):
                    _probe(path)
                found[endpoint] = _mtu(path)
    return found


def _is_due(endpoint: Endpoint) -> bool:
    """Whether to probe now: on the way to a neighbour there is no router that could say anything."""
    now = time.monotonic()
    if endpoint in _probed and now - _probed[endpoint] < PROBE_S:
        return False
    _probed[endpoint] = now
    return surroundings.is_routed(endpoint.host)


def _connected(endpoint: Endpoint) -> socket.socket | None:
    if not endpoint.is_address:
        return None
    is_ipv6 = ":" in endpoint.host
    try:
        path = socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
    except OSError:
        return None
    try:
        level, discover, errors = (
            (socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _IPV6_RECVERR)
            if is_ipv6
            else (socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_RECVERR)
        )
        path.setsockopt(level, discover, _DO)
        path.setsockopt(level, errors, 1)
        path.connect((endpoint.host, endpoint.port))
    except OSError:
        path.close()
        return None
    return path


def _mtu(path: socket.socket) -> int:
    if path.family == socket.AF_INET6:
        return path.getsockopt(socket.IPPROTO_IPV6, _IPV6_MTU)
    return path.getsockopt(socket.IPPROTO_IP, _IP_MTU)


def _probe(path: socket.socket) -> None:
    """Send until no router complains any more. What else is said, such as "no such port", is no matter."""
    poll = select.poll()
    poll.register(path, 0)  # errors alone
    for _ in range(_ROUTERS):
        mtu = _mtu(path)
        room = mtu - (48 if path.family == socket.AF_INET6 else 28)
        for _ in range(_PROBES):
            with contextlib.suppress(OSError):  # also what a router said of the one before
                path.send(bytes(min(room, 1472)))
        if not poll.poll(WAIT_S * 1000):
            return
        _forget_errors(path)
        if _mtu(path) == mtu:
            return


def _forget_errors(path: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while path.recvmsg(1, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT):
            pass
    path.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def echo_time(address: str, octets: int, *, wait_s: float, tries: int = 2) -> float | None:
    """Seconds until an IP packet of that many octets, not to be fragmented, is echoed; None if it is not.

    Raises MachineRefused when it could not ask at all.
    """
    with refusals(f"ask {address} for an echo"):
        asking = _echo_socket(address)
    with asking, pulse.allowed(tries * wait_s):
        for number in range(tries):
            took = _echoed(asking, address, octets, number, wait_s)
            if took is not None:
                return took
    return None


def _echo_socket(address: str) -> socket.socket:
    if ":" in address:
        asking = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        asking.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _DO)
    else:
        asking = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        asking.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _DO)
    return asking


def _echoed(asking: socket.socket, address: str, octets: int, number: int, wait_s: float) -> float | None:
    is_ipv6 = ":" in address
    nonce = os.urandom(8)
    body = nonce + bytes(max(0, octets - (48 if is_ipv6 else 28) - len(nonce)))
    header = struct.pack("!BBHHH", _ECHO6 if is_ipv6 else _ECHO, 0, 0, os.getpid() & 0xFFFF, number)
    checksum = 0 if is_ipv6 else _checksum(header + body)  # for IPv6 the kernel makes it
    began = time.monotonic()
    try:
        asking.sendto(header[:2] + struct.pack("!H", checksum) + header[4:] + body, (address, 0))
    except OSError:
        return None
    while (left := began + wait_s - time.monotonic()) > 0:
        if not select.select([asking], [], [], left)[0]:
            return None
        answer, sender = asking.recvfrom(1 << 16)
        message = answer if is_ipv6 else answer[(answer[0] & 15) * 4 :]
        is_reply = message[:1] == bytes([_ECHO_REPLY6 if is_ipv6 else _ECHO_REPLY])
        if is_reply and sender[0] == address and message[8:16] == nonce:
            return time.monotonic() - began
    return None


def _checksum(octets: bytes) -> int:
    """Source: RFC 1071."""
    padded = octets + bytes(len(octets) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int(~total & 0xFFFF)


def largest_echoed(address: str, *, fails: int, least: int, wait_s: float) -> int | None:
    """The most octets of a packet that is echoed, to within 4; None when not even `least` is.

    fails: octets of one that is not.
    """
    if echo_time(address, least, wait_s=wait_s) is None:
        return None
    passes = least
    while fails - passes > 4:
        middle = (passes + fails) // 2 & ~3
        if echo_time(address, middle, wait_s=wait_s) is None:
            fails = middle
        else:
            passes = middle
    return passes
