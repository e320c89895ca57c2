"""A worker machine's way to its control node: the nearest at first, another when that dies.

Only a machine that holds the control node's key answers through the tunnel, so every measurement is
one of TCP's answers inside it, by whichever endpoint WireGuard has at the moment.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Final

import msgspec

from qmesh.agent.local import Local, list_control_endpoints, load_local
from qmesh.agent.rollback import find_active_rollback
from qmesh.errors import EnrolmentRefused
from qmesh.host import wireguard
from qmesh.host.linux import Linux
from qmesh.host.network import dns, links, path_mtu, routes, tcp_probe
from qmesh.host.state.directory import State
from qmesh.host.wireguard import Backend
from qmesh.mesh.audit import BlackHole, NarrowPath
from qmesh.mesh.endpoints import (
    MOST_ENDPOINTS,
    ControlNodeActivity,
    choose_next_endpoint,
    move_endpoint_first,
    sort_by_latency,
    sort_by_locality,
)
from qmesh.mesh.mtu import LEAST_MTU, LEAST_MTU_IPV4, compute_room
from qmesh.mesh.state import NodeState, Peer, Tunnel
from qmesh.mesh.values import Endpoint

log = logging.getLogger("qmesh")

FIRST_S: Final = 1.0
"""Seconds to wait for an answer by a way, while none is known that works."""
LONGER_S: Final = 0.3
"""Seconds beyond the nearest way's time to wait for another: a slower one is of no use."""
IN_ALL_S: Final = 5.0
MOVED_S: Final = 1.0
_TIMES: Final = 3
_DRAIN: Final = 3
"""Round trips until nothing is under way any more of a connection that was hung up."""


def use_nearest_endpoint(state: State, here: Local, linux: Linux) -> None:
    """Compare the ways to the control node, take the nearest of those that answer, and remember it.

    The session stays: only the endpoint changes, and what no way answers leaves it as it was.
    """
    peer = _find_control_peer(here, linux.backend)
    ways = resolve_candidate_endpoints(here)
    if peer is None or peer.endpoint is None or len(ways) < 2:
        return
    order = sort_by_locality(ways, routes.list_attached_networks(here.settings.interface))
    times: dict[Endpoint, float] = {}
    try:
        times = _measure_candidates(here, linux.backend, peer, order)
    finally:
        if not times:  # or it was interrupted
            _set_endpoint(here, linux.backend, peer, peer.endpoint)
    if not times:
        return
    nearest, *_ = found = sort_by_latency(order, times)
    _settle_endpoint(here, linux.backend, peer, nearest, drain_s=_DRAIN * max(times.values()))
    if nearest != peer.endpoint:
        log.info("the nearest endpoint of the control node is %s: %.1f ms", nearest, times[nearest] * 1000)
    endpoints = tuple(dict.fromkeys(ways[way] for way in found))
    _save_endpoint_order(state, (*endpoints, *list_control_endpoints(here)))


def use_endpoint(state: State, here: Local, linux: Linux, endpoint: Endpoint) -> None:
    """Reach the control node there from now on. Holds the lock.

    Raises EnrolmentRefused where it does not answer there, with the way as it was.
    """
    interface, peer = here.settings.interface, _find_control_peer(here, linux.backend)
    if peer is None:
        raise _no_answer_error(endpoint)
    for way in dns.resolve_addresses(endpoint):
        # A session that the control node has lost, on a new machine, would keep this one silent for long.
        linux.backend.reset_session(interface, msgspec.structs.replace(peer, endpoint=way))
        if _measure_round_trip(here, wait_s=MOVED_S * _TIMES) is not None and _is_using_endpoint(
            here, linux.backend, way
        ):
            _save_endpoint_order(state, (endpoint, *list_control_endpoints(here)))
            return
    linux.backend.reset_session(interface, peer)
    raise _no_answer_error(endpoint)


def _no_answer_error(endpoint: Endpoint) -> EnrolmentRefused:
    return EnrolmentRefused(
        f"the control node does not answer at {endpoint}; this machine still uses the endpoint it had",
        hint=f"check the address, and on the control node: UDP port {endpoint.port} open,"
        " and what `qmesh check` says of the agent",
    )


def resolve_candidate_endpoints(here: Local) -> dict[Endpoint, Endpoint]:
    """The addresses at which the control node may be, best first, each with the endpoint that it is of."""
    ways: dict[Endpoint, Endpoint] = {}
    endpoints = list_control_endpoints(here)
    for endpoint in endpoints:
        dns.start_lookup(endpoint)
    for endpoint in endpoints:
        for address in dns.resolve_addresses(endpoint):
            ways.setdefault(address, endpoint)
    return ways


def _measure_candidates(
    here: Local, backend: Backend, peer: Peer, order: tuple[Endpoint, ...]
) -> dict[Endpoint, float]:
    """Seconds of a round trip by each way that answers, the one in use first."""
    times: dict[Endpoint, float] = {}
    until = time.monotonic() + IN_ALL_S
    for way in sorted(order, key=lambda way: way != peer.endpoint):
        if time.monotonic() > until or routes.find_route(way.host, way.port) is None:
            continue
        _set_endpoint(here, backend, peer, way)
        took = _measure_round_trip(here, wait_s=min(times.values()) + LONGER_S if times else FIRST_S)
        # WireGuard follows its peer: what came by another way is no answer of this one.
        if took is not None and _is_using_endpoint(here, backend, way):
            times[way] = took
            time.sleep(_DRAIN * took)
    return times


def _settle_endpoint(here: Local, backend: Backend, peer: Peer, way: Endpoint, *, drain_s: float) -> None:
    """Have both ends use a way, until what was under way by another, which they would follow, is through."""
    for _ in range(_TIMES):
        _set_endpoint(here, backend, peer, way)
        _measure_round_trip(here, wait_s=FIRST_S)
        time.sleep(drain_s)
        if _is_using_endpoint(here, backend, way):
            return


def _is_using_endpoint(here: Local, backend: Backend, way: Endpoint) -> bool:
    peer = _find_control_peer(here, backend)
    return peer is not None and peer.endpoint == way


def _measure_round_trip(here: Local, *, wait_s: float) -> float | None:
    place = (here.inventory.control_node.address, here.inventory.service_port)
    first = tcp_probe.measure_connect_times([place], wait_s=wait_s).get(place)
    if first is None:
        return None
    others = (
        tcp_probe.measure_connect_times([place], wait_s=wait_s).get(place, first) for _ in range(_TIMES)
    )
    return min(first, *others)


def _find_control_peer(here: Local, backend: Backend) -> Peer | None:
    key = here.inventory.control_node.public_key
    peers = backend.read(here.settings.interface).peers
    return next((peer for peer in peers if peer.public_key == key), None)


def _set_endpoint(here: Local, backend: Backend, peer: Peer, endpoint: Endpoint) -> None:
    backend.set_peers(here.settings.interface, [msgspec.structs.replace(peer, endpoint=endpoint)])


def _save_endpoint_order(state: State, endpoints: tuple[Endpoint, ...]) -> None:
    """Keep the order of endpoints for the next start. Holds the lock."""
    settings = state.settings()
    ordered = tuple(dict.fromkeys(endpoints))[:MOST_ENDPOINTS]
    if ordered != settings.control_endpoints:
        state.save_settings(msgspec.structs.replace(settings, control_endpoints=ordered))


def find_black_hole(here: Local, desired: NodeState, observed: NodeState) -> BlackHole | None:
    """A path to the control node that lets small packets through, and swallows those that fill the tunnel.

    An exchange of TCP decides: lost echoes may only be limited. Not looked for with another MTU than desired:
    what is lost of packets of another size says nothing of the path.
    """
    control, tunnel = here.inventory.control_node, observed.tunnel
    if here.settings.control or tunnel is None or not tunnel.up or _has_other_mtu(desired, tunnel):
        return None
    from qmesh.host.api.packet_probe import find_lost_packets  # noqa: PLC0415 - a control node has no use for it

    least = LEAST_MTU if ":" in control.address else LEAST_MTU_IPV4
    lost = find_lost_packets(control.address, here.inventory.service_port, most=tunnel.mtu, least=least)
    if lost is None:
        return None
    by = _find_endpoint_in_use(here, tunnel)
    return BlackHole(control.name, str(by), tunnel.mtu, lost.passes, lost.direction)


def find_narrow_path(
    here: Local, desired: NodeState, observed: NodeState, directory: Path
) -> NarrowPath | None:
    """The path to the control node, where the tunnel's packets do not fit it once WireGuard has wrapped them.

    Not on the control node: it does not know which MTU a member has.
    directory: where what routers said is kept.
    """
    tunnel = observed.tunnel
    if here.settings.control or tunnel is None or _has_other_mtu(desired, tunnel):
        return None
    endpoint = _find_endpoint_in_use(here, tunnel)
    if endpoint is None:
        return None
    path = path_mtu.find_path_mtus([endpoint], probe=False, directory=directory).get(endpoint)
    fits = path is None or tunnel.mtu <= compute_room(endpoint, path)
    return None if path is None or fits else NarrowPath(endpoint, path)


def _has_other_mtu(desired: NodeState, tunnel: Tunnel) -> bool:
    return desired.tunnel is None or desired.tunnel.mtu != tunnel.mtu


def _find_endpoint_in_use(here: Local, tunnel: Tunnel) -> Endpoint | None:
    key = here.inventory.control_node.public_key
    return next((peer.endpoint for peer in tunnel.peers if peer.public_key == key), None)


class EndpointFailover:
    """For a worker machine's agent: sees that the control node is heard, and changes over when it is not."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._contact: ControlNodeActivity | None = None
        self._ways: dict[Endpoint, Endpoint] = {}

    def check_control_node(self, here: Local) -> bool:
        """Look whether the control node was heard; whether to look again at once, as there are other ways.

        Blocks for two seconds or so at most, and for a name that is looked up. Raises MachineRefused.
        """
        link = links.read(here.settings.interface)
        if link is None or find_active_rollback(self._state) is not None:
            self._contact = None
            return False
        backend = wireguard.find_link_backend(link)
        contact = self._update_activity(here, backend)
        if contact is None or not contact.is_probe_due(time.monotonic()):
            return False
        if not contact.tried_endpoints:
            _measure_round_trip(here, wait_s=FIRST_S)
            contact = self._update_activity(here, backend)
        if contact is None or not contact.is_lost(time.monotonic()):
            return False
        self._try_next_endpoint(here, backend, contact)
        return 0 < self._count_tried_endpoints() < len(self._ways)

    def _count_tried_endpoints(self) -> int:
        return 0 if self._contact is None else self._contact.tried_endpoints

    def _update_activity(self, here: Local, backend: Backend) -> ControlNodeActivity | None:
        now = time.monotonic()
        counters = backend.read(here.settings.interface).counters
        count = counters.get(here.inventory.control_node.public_key)
        if count is None:
            self._contact = None
            return None
        before = self._contact or ControlNodeActivity(count.rx_bytes, now)
        self._contact = before.record_received(count.rx_bytes, now)
        if before.tried_endpoints and not self._contact.tried_endpoints and count.endpoint is not None:
            self._save_working_endpoint(here, count.endpoint)
        return self._contact

    def _try_next_endpoint(self, here: Local, backend: Backend, contact: ControlNodeActivity) -> None:
        self._ways = {
            way: endpoint
            for way, endpoint in resolve_candidate_endpoints(here).items()
            if routes.find_route(way.host, way.port) is not None
        }
        with self._state.lock():
            peer = _find_control_peer(here, backend)
            way = None if peer is None else choose_next_endpoint(tuple(self._ways), peer.endpoint)
            if peer is None or way is None:
                return
            backend.reset_session(here.settings.interface, msgspec.structs.replace(peer, endpoint=way))
        self._contact = contact.record_endpoint_change()
        if contact.tried_endpoints < len(self._ways):
            log.info("the control node is unreachable via %s: trying %s", peer.endpoint, way)
        _measure_round_trip(here, wait_s=MOVED_S)
        self._update_activity(here, backend)

    def _save_working_endpoint(self, here: Local, works: Endpoint) -> None:
        log.info("the control node is reachable via %s", works)
        endpoint = self._ways.get(works)
        if endpoint is not None:
            with self._state.lock():
                # The control role may have moved meanwhile: these are the old one's ways then.
                if load_local(self._state).inventory.control == here.inventory.control:
                    _save_endpoint_order(
                        self._state, move_endpoint_first(list_control_endpoints(here), endpoint)
                    )
