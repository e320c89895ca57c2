"""A worker machine's way to its control node: the nearest at first, another when that dies.

Only a machine that holds the control node's key answers through the tunnel, so every measurement is
one of TCP's answers inside it, by whichever endpoint WireGuard has at the moment.
"""

from __future__ import annotations

import logging
import time
from typing import Final

import msgspec

from qmesh.agent.local import Here, control_endpoints, load
from qmesh.agent.rollback import undone_here
from qmesh.errors import EnrolmentRefused
from qmesh.host import wireguard
from qmesh.host.linux import Linux
from qmesh.host.network import dns, links, path_mtu, routes, tcp_probe
from qmesh.host.state.directory import State
from qmesh.host.wireguard import Backend
from qmesh.mesh.audit import BlackHole
from qmesh.mesh.model import Endpoint, NodeState, Peer
from qmesh.mesh.reaching import (
    LEAST_MTU,
    LEAST_MTU_IPV4,
    MOST_ENDPOINTS,
    Contact,
    by_nearness,
    likely_first,
    next_way,
    remembered,
)

log = logging.getLogger("qmesh")

FIRST_S: Final = 1.0
"""Seconds to wait for an answer by a way, while none is known that works."""
LONGER_S: Final = 0.3
"""Seconds beyond the nearest way's time to wait for another: a slower one is of no use."""
IN_ALL_S: Final = 5.0
MOVED_S: Final = 1.0
SMALL: Final = 100
"""Octets of a packet that every path carries."""
_TIMES: Final = 3
_DRAIN: Final = 3
"""Round trips until nothing is under way any more of a connection that was hung up."""


def take_nearest(state: State, here: Here, linux: Linux) -> None:
    """Compare the ways to the control node, take the nearest of those that answer, and remember it.

    The session stays: only the endpoint changes, and what no way answers leaves it as it was.
    """
    peer = _control_peer(here, linux.backend)
    ways = ways_to_control(here)
    if peer is None or peer.endpoint is None or len(ways) < 2:
        return
    order = likely_first(ways, routes.attached_networks(here.settings.interface))
    times: dict[Endpoint, float] = {}
    try:
        times = _measured(here, linux.backend, peer, order)
    finally:
        if not times:  # or it was interrupted
            _set_endpoint(here, linux.backend, peer, peer.endpoint)
    if not times:
        return
    nearest, *_ = found = by_nearness(order, times)
    _settle(here, linux.backend, peer, nearest, drain_s=_DRAIN * max(times.values()))
    if nearest != peer.endpoint:
        log.info("the nearest way to the control node is %s: %.1f ms", nearest, times[nearest] * 1000)
    endpoints = tuple(dict.fromkeys(ways[way] for way in found))
    _remember(state, (*endpoints, *control_endpoints(here)))


def take_way(state: State, here: Here, linux: Linux, endpoint: Endpoint) -> None:
    """Reach the control node there from now on. Holds the lock.

    Raises EnrolmentRefused where it does not answer there, with the way as it was.
    """
    interface, peer = here.settings.interface, _control_peer(here, linux.backend)
    if peer is None:
        raise _no_answer(endpoint)
    for way in dns.addresses(endpoint):
        # A session that the control node has lost, on a new machine, would keep this one silent for long.
        linux.backend.forget_session(interface, msgspec.structs.replace(peer, endpoint=way))
        if _round_trip(here, wait_s=MOVED_S * _TIMES) is not None and _is_at(here, linux.backend, way):
            _remember(state, (endpoint, *control_endpoints(here)))
            return
    linux.backend.forget_session(interface, peer)
    raise _no_answer(endpoint)


def _no_answer(endpoint: Endpoint) -> EnrolmentRefused:
    return EnrolmentRefused(
        f"the control node does not answer at {endpoint}; the way to it is as it was",
        hint="is that its address, its agent up, and its UDP port open to this machine?",
    )


def ways_to_control(here: Here) -> dict[Endpoint, Endpoint]:
    """The addresses at which the control node may be, best first, each with the endpoint that it is of."""
    ways: dict[Endpoint, Endpoint] = {}
    endpoints = control_endpoints(here)
    for endpoint in endpoints:
        dns.begin(endpoint)
    for endpoint in endpoints:
        for address in dns.addresses(endpoint):
            ways.setdefault(address, endpoint)
    return ways


def _measured(here: Here, backend: Backend, peer: Peer, order: tuple[Endpoint, ...]) -> dict[Endpoint, float]:
    """Seconds of a round trip by each way that answers, the one in use first."""
    times: dict[Endpoint, float] = {}
    until = time.monotonic() + IN_ALL_S
    for way in sorted(order, key=lambda way: way != peer.endpoint):
        if time.monotonic() > until or routes.way_to(way.host, way.port) is None:
            continue
        _set_endpoint(here, backend, peer, way)
        took = _round_trip(here, wait_s=min(times.values()) + LONGER_S if times else FIRST_S)
        # WireGuard follows its peer: what came by another way is no answer of this one.
        if took is not None and _is_at(here, backend, way):
            times[way] = took
            time.sleep(_DRAIN * took)
    return times


def _settle(here: Here, backend: Backend, peer: Peer, way: Endpoint, *, drain_s: float) -> None:
    """Have both ends use a way, until what was under way by another, which they would follow, is through."""
    for _ in range(_TIMES):
        _set_endpoint(here, backend, peer, way)
        _round_trip(here, wait_s=FIRST_S)
        time.sleep(drain_s)
        if _is_at(here, backend, way):
            return


def _is_at(here: Here, backend: Backend, way: Endpoint) -> bool:
    peer = _control_peer(here, backend)
    return peer is not None and peer.endpoint == way


def _round_trip(here: Here, *, wait_s: float) -> float | None:
    place = (here.inventory.control_node.address, here.inventory.service_port)
    first = tcp_probe.answer_times([place], wait_s=wait_s).get(place)
    if first is None:
        return None
    others = (tcp_probe.answer_times([place], wait_s=wait_s).get(place, first) for _ in range(_TIMES))
    return min(first, *others)


def _control_peer(here: Here, backend: Backend) -> Peer | None:
    key = here.inventory.control_node.public_key
    peers = backend.read(here.settings.interface).peers
    return next((peer for peer in peers if peer.public_key == key), None)


def _set_endpoint(here: Here, backend: Backend, peer: Peer, endpoint: Endpoint) -> None:
    backend.set_peers(here.settings.interface, [msgspec.structs.replace(peer, endpoint=endpoint)])


def _remember(state: State, endpoints: tuple[Endpoint, ...]) -> None:
    """Keep the order of endpoints for the next start. Holds the lock."""
    settings = state.settings()
    ordered = tuple(dict.fromkeys(endpoints))[:MOST_ENDPOINTS]
    if ordered != settings.control_endpoints:
        state.save_settings(msgspec.structs.replace(settings, control_endpoints=ordered))


def found_black_hole(here: Here, observed: NodeState) -> BlackHole | None:
    """A path to the control node that lets small packets through, and swallows those that fill the tunnel."""
    control, tunnel = here.inventory.control_node, observed.tunnel
    if here.settings.control or tunnel is None or not tunnel.up:
        return None
    least = LEAST_MTU if ":" in control.address else LEAST_MTU_IPV4
    took = path_mtu.echo_time(control.address, SMALL, wait_s=FIRST_S)
    if took is None:
        return None
    wait_s = took + LONGER_S
    if path_mtu.echo_time(control.address, tunnel.mtu, wait_s=wait_s) is not None:
        return None
    passes = path_mtu.largest_echoed(control.address, fails=tunnel.mtu, least=least, wait_s=wait_s)
    by = next((peer.endpoint for peer in tunnel.peers if peer.public_key == control.public_key), None)
    return BlackHole(control.name, str(by), tunnel.mtu, passes)


class Reach:
    """For a worker machine's agent: sees that the control node is heard, and changes over when it is not."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._contact: Contact | None = None
        self._ways: dict[Endpoint, Endpoint] = {}

    def turn(self, here: Here) -> bool:
        """Look whether the control node was heard; whether to look again at once, as there are other ways.

        Blocks for two seconds or so at most, and for a name that is looked up. Raises MachineRefused.
        """
        link = links.read(here.settings.interface)
        if link is None or undone_here(self._state) is not None:
            self._contact = None
            return False
        backend = wireguard.backend_of(link)
        contact = self._heard(here, backend)
        if contact is None or not contact.wants_an_answer(time.monotonic()):
            return False
        if not contact.moves:
            _round_trip(here, wait_s=FIRST_S)
            contact = self._heard(here, backend)
        if contact is None or not contact.is_lost(time.monotonic()):
            return False
        self._change_over(here, backend, contact)
        return 0 < self._contact_moves() < len(self._ways)

    def _contact_moves(self) -> int:
        return 0 if self._contact is None else self._contact.moves

    def _heard(self, here: Here, backend: Backend) -> Contact | None:
        now = time.monotonic()
        counters = backend.read(here.settings.interface).counters
        count = counters.get(here.inventory.control_node.public_key)
        if count is None:
            self._contact = None
            return None
        before = self._contact or Contact(count.rx_bytes, now)
        self._contact = before.heard(count.rx_bytes, now)
        if before.moves and not self._contact.moves and count.endpoint is not None:
            self._keep(here, count.endpoint)
        return self._contact

    def _change_over(self, here: Here, backend: Backend, contact: Contact) -> None:
        self._ways = {
            way: endpoint
            for way, endpoint in ways_to_control(here).items()
            if routes.way_to(way.host, way.port) is not None
        }
        with self._state.lock():
            peer = _control_peer(here, backend)
            way = None if peer is None else next_way(tuple(self._ways), peer.endpoint)
            if peer is None or way is None:
                return
            backend.forget_session(here.settings.interface, msgspec.structs.replace(peer, endpoint=way))
        self._contact = contact.moved()
        if contact.moves < len(self._ways):
            log.info("the control node is not heard by way of %s: trying %s", peer.endpoint, way)
        _round_trip(here, wait_s=MOVED_S)
        self._heard(here, backend)

    def _keep(self, here: Here, works: Endpoint) -> None:
        log.info("the control node is reached by way of %s", works)
        endpoint = self._ways.get(works)
        if endpoint is not None:
            with self._state.lock():
                # The control role may have moved meanwhile: these are the old one's ways then.
                if load(self._state).inventory.control == here.inventory.control:
                    _remember(self._state, remembered(control_endpoints(here), endpoint))
