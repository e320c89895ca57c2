"""A worker machine's way to its control node: the nearest at first, another when that dies.

Only a machine that holds the control node's key answers through the tunnel, so every measurement is
one of TCP's answers inside it, by whichever endpoint WireGuard has at the moment.
"""

from __future__ import annotations

import time
from typing import Final

import msgspec

from qmesh.agent.local import Local, list_control_endpoints
from qmesh.errors import EnrolmentRefused
from qmesh.host.linux import Linux
from qmesh.host.log.events import report_event
from qmesh.host.network import dns, routes, tcp_probe
from qmesh.host.state.directory import State
from qmesh.host.wireguard import Backend
from qmesh.mesh.endpoints import (
    MOST_ENDPOINTS,
    index_addresses,
    sort_by_latency,
    sort_by_locality,
)
from qmesh.mesh.state import Peer
from qmesh.mesh.values import Endpoint

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
    peer = find_control_peer(here, linux.backend)
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
        report_event(
            "control-endpoint-found",
            "the nearest endpoint of the control node is %s: %.1f ms",
            nearest,
            times[nearest] * 1000,
        )
    endpoints = tuple(dict.fromkeys(ways[way] for way in found))
    save_endpoint_order(state, (*endpoints, *list_control_endpoints(here)))


def use_endpoint(state: State, here: Local, linux: Linux, endpoint: Endpoint) -> None:
    """Reach the control node there from now on. Holds the lock.

    Raises EnrolmentRefused where it does not answer there, with the way as it was.
    """
    interface, peer = here.settings.interface, find_control_peer(here, linux.backend)
    if peer is None:
        raise _no_answer_error(endpoint)
    for way in dns.resolve_addresses(endpoint):
        # A session that the control node has lost, on a new machine, would keep this one silent for long.
        linux.backend.reset_session(interface, msgspec.structs.replace(peer, endpoint=way))
        if measure_round_trip(here, wait_s=MOVED_S * _TIMES) is not None and _is_using_endpoint(
            here, linux.backend, way
        ):
            save_endpoint_order(state, (endpoint, *list_control_endpoints(here)))
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
    return index_addresses(dns.resolve_all(list_control_endpoints(here)))


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
        took = measure_round_trip(here, wait_s=min(times.values()) + LONGER_S if times else FIRST_S)
        # WireGuard follows its peer: what came by another way is no answer of this one.
        if took is not None and _is_using_endpoint(here, backend, way):
            times[way] = took
            time.sleep(_DRAIN * took)
    return times


def _settle_endpoint(here: Local, backend: Backend, peer: Peer, way: Endpoint, *, drain_s: float) -> None:
    """Have both ends use a way, until what was under way by another, which they would follow, is through."""
    for _ in range(_TIMES):
        _set_endpoint(here, backend, peer, way)
        measure_round_trip(here, wait_s=FIRST_S)
        time.sleep(drain_s)
        if _is_using_endpoint(here, backend, way):
            return


def _is_using_endpoint(here: Local, backend: Backend, way: Endpoint) -> bool:
    peer = find_control_peer(here, backend)
    return peer is not None and peer.endpoint == way


def measure_round_trip(here: Local, *, wait_s: float) -> float | None:
    """Seconds until the control node answers through the tunnel; None where it does not in that time."""
    place = (here.inventory.control_node.address, here.inventory.service_port)
    first = tcp_probe.measure_connect_times([place], wait_s=wait_s).get(place)
    if first is None:
        return None
    others = (
        tcp_probe.measure_connect_times([place], wait_s=wait_s).get(place, first) for _ in range(_TIMES)
    )
    return min(first, *others)


def find_control_peer(here: Local, backend: Backend) -> Peer | None:
    """The control node as WireGuard has it; None where it is no peer."""
    key = here.inventory.control_node.public_key
    peers = backend.read(here.settings.interface).peers
    return next((peer for peer in peers if peer.public_key == key), None)


def _set_endpoint(here: Local, backend: Backend, peer: Peer, endpoint: Endpoint) -> None:
    backend.set_peers(here.settings.interface, [msgspec.structs.replace(peer, endpoint=endpoint)])


def save_endpoint_order(state: State, endpoints: tuple[Endpoint, ...]) -> None:
    """Keep the order of endpoints for the next start. Holds the lock."""
    settings = state.settings()
    ordered = tuple(dict.fromkeys(endpoints))[:MOST_ENDPOINTS]
    if ordered != settings.control_endpoints:
        state.save_settings(msgspec.structs.replace(settings, control_endpoints=ordered))
