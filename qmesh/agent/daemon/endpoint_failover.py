"""A worker machine's agent takes another way to its control node when the one in use dies."""

from __future__ import annotations

import time

import msgspec

from qmesh.agent.control_endpoint import (
    FIRST_S,
    MOVED_S,
    find_control_peer,
    measure_round_trip,
    resolve_candidate_endpoints,
    save_endpoint_order,
)
from qmesh.agent.local import Local, list_control_endpoints, load_local
from qmesh.agent.rollback import find_active_rollback
from qmesh.host import wireguard
from qmesh.host.log.events import report_event
from qmesh.host.network import links, routes
from qmesh.host.state.directory import State
from qmesh.host.wireguard import Backend
from qmesh.mesh.endpoints import ControlNodeActivity, choose_next_endpoint, move_endpoint_first
from qmesh.mesh.values import Endpoint


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
            measure_round_trip(here, wait_s=FIRST_S)
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
            peer = find_control_peer(here, backend)
            way = None if peer is None else choose_next_endpoint(tuple(self._ways), peer.endpoint)
            if peer is None or way is None:
                return
            backend.reset_session(here.settings.interface, msgspec.structs.replace(peer, endpoint=way))
        self._contact = contact.record_endpoint_change()
        if contact.tried_endpoints < len(self._ways):
            report_event(
                "control-endpoint-tried",
                "the control node is unreachable via %s: trying %s",
                peer.endpoint,
                way,
            )
        measure_round_trip(here, wait_s=MOVED_S)
        self._update_activity(here, backend)

    def _save_working_endpoint(self, here: Local, works: Endpoint) -> None:
        report_event("control-endpoint-found", "the control node is reachable via %s", works)
        endpoint = self._ways.get(works)
        if endpoint is not None:
            with self._state.lock():
                # The control role may have moved meanwhile: these are the old one's ways then.
                if load_local(self._state).inventory.control == here.inventory.control:
                    save_endpoint_order(
                        self._state, move_endpoint_first(list_control_endpoints(here), endpoint)
                    )
