"""DNS: names of endpoints to addresses. The only look-ups that qmesh makes.

A look-up may take as long as it likes: it has a thread of its own, and is waited for a short time
only. What comes too late is there for the next who asks.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Final

from qmesh.errors import BadInput
from qmesh.host.system import heartbeat
from qmesh.mesh.endpoints import find_translating_network
from qmesh.mesh.values import Endpoint, normalize_ip_address

WAIT_S: Final = 2.0
"""Seconds that a look-up is waited for, by all who ask together."""
LATELY_S: Final = 15.0
LATE_S: Final = 60.0
"""Seconds after which an answer that was not waited for is too old."""
MOST_AT_ONCE: Final = 32
"""Look-ups without an answer that may be under way at once; more are not started."""
_MOST_ADDRESSES: Final = 4
_IPV4_ONLY: Final = Endpoint("ipv4only.arpa", 1)
"""A name that has addresses of IPv4 alone: one of IPv6 is translated."""


class _LookUp:
    """A look-up under way, or done. asked: monotonic time, when it was begun."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.asked = time.monotonic()
        self.found: tuple[Endpoint, ...] = ()
        self.done = threading.Event()
        self._endpoint = endpoint
        threading.Thread(target=self._run, name=f"dns {endpoint.host}", daemon=True).start()

    def _run(self) -> None:
        try:
            self.found = _look_up_addresses(self._endpoint)
        finally:
            self.done.set()


_under_way: dict[Endpoint, _LookUp] = {}
_lately: dict[Endpoint, _LookUp] = {}


def resolve_addresses(endpoint: Endpoint, *, wait_s: float = WAIT_S) -> tuple[Endpoint, ...]:
    """All addresses of an endpoint's host, the best first; none when they cannot be looked up now."""
    if endpoint.is_address:
        return (endpoint,)
    looking = _find_or_start_lookup(endpoint)
    with heartbeat.allow_wait(wait_s):
        if looking is None or not looking.done.wait(max(0.0, looking.asked + wait_s - time.monotonic())):
            return ()
    _under_way.pop(endpoint, None)  # another thread may have had it too
    _lately[endpoint] = looking
    return looking.found


def resolve_all(endpoints: Iterable[Endpoint]) -> dict[Endpoint, tuple[Endpoint, ...]]:
    """The same of each, looked up side by side."""
    names = tuple(endpoints)
    for name in names:
        if not name.is_address:
            _find_or_start_lookup(name)
    return {name: resolve_addresses(name) for name in names}


def _find_or_start_lookup(endpoint: Endpoint) -> _LookUp | None:
    """The look-up that is under way, or whose answer was not taken yet; else one started now."""
    looking = _under_way.get(endpoint)
    if looking is None or (looking.done.is_set() and time.monotonic() - looking.asked > LATE_S):
        if sum(not each.done.is_set() for each in tuple(_under_way.values())) >= MOST_AT_ONCE:
            return None
        looking = _under_way[endpoint] = _LookUp(endpoint)
    return looking


def resolve_cached(endpoint: Endpoint, *, wait_s: float = WAIT_S) -> tuple[Endpoint, ...]:
    """As `resolve_addresses`, but what was found is looked up again only after 15 s: for frequent callers."""
    last = _lately.get(endpoint)
    if last is not None and last.found and time.monotonic() - last.asked < LATELY_S:
        return last.found
    return resolve_addresses(endpoint, wait_s=wait_s)


def find_nat64_network(*, wait_s: float = WAIT_S) -> str | None:
    """The IPv6 network in which a network translates all of IPv4; None where none does. Source: RFC 7050."""
    found = (each.host for each in resolve_addresses(_IPV4_ONLY, wait_s=wait_s) if ":" in each.host)
    return next((network for host in found if (network := find_translating_network(host))), None)


def _look_up_addresses(endpoint: Endpoint) -> tuple[Endpoint, ...]:
    try:
        found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return ()
    hosts = dict.fromkeys(str(entry[4][0]) for entry in found)
    # A link-local one is good on one interface only, which Python does not name in the address.
    routed = [host for host in hosts if not host.startswith("fe80:")]
    return tuple(build_endpoints(routed, endpoint.port))[:_MOST_ADDRESSES]


def build_endpoints(hosts: Iterable[str], port: int) -> Iterator[Endpoint]:
    """Of what a name server said, what an endpoint can be: it may say anything."""
    for host in hosts:
        with contextlib.suppress(BadInput):
            yield Endpoint(normalize_ip_address(host), port)
