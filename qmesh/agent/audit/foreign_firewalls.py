"""Which packets this machine's part in the mesh needs, and what other firewalls do to them."""

from __future__ import annotations

import ipaddress
import socket
from typing import Final

from qmesh.agent.local import Local
from qmesh.host.firewall import foreign_rulesets
from qmesh.host.network import routes
from qmesh.mesh.foreign.lookups import Answers, Lookups
from qmesh.mesh.foreign.obstacles import Obstacle, find_obstacles
from qmesh.mesh.foreign.packets import Packet, list_required_packets
from qmesh.mesh.foreign.rulesets import Listing, build_tables
from qmesh.mesh.inventory import list_workers
from qmesh.mesh.state import Guard, NodeState
from qmesh.mesh.values import DEFAULT_LISTEN_PORT

SAMPLE: Final = 16
MOST_ROUNDS: Final = 8
"""Of questions about sets: what is not known is followed both ways, so one is mostly enough."""
STRANGERS: Final = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
"""Addresses of nobody (RFC 5737, RFC 3849): for machines that may ask the control node from anywhere."""


def find_firewall_obstacles(
    here: Local, desired: NodeState, observed: NodeState
) -> tuple[tuple[Obstacle, ...], tuple[str, ...]]:
    """What the machine's other firewalls do to the packets that its part in the mesh needs.

    Besides, what of them could not be read. Rules rarely tell members apart: some stand for all.

    Raises MachineRefused where it could not look.
    """
    guard, tunnel = desired.guard, desired.tunnel
    if not isinstance(guard, Guard) or tunnel is None:  # nothing is needed of a machine that is in no mesh
        return (), ()
    listing = foreign_rulesets.read_rulesets()
    peers = () if observed.tunnel is None else observed.tunnel.peers
    keys = {each.public_key for each in here.inventory.machines}
    ends = [
        (peer.endpoint.host, peer.endpoint.port)
        for peer in peers
        if peer.endpoint is not None and peer.public_key in keys
    ]
    ways = tuple(way for host, port in ends[:SAMPLE] if (way := routes.find_route(host, port)) is not None)
    if here.settings.control:
        ways += routes.list_inbound_routes(guard.interface, STRANGERS, DEFAULT_LISTEN_PORT)
    others = [worker for worker in list_workers(here.inventory) if worker.machine != here.settings.name]
    members = tuple(dict.fromkeys((worker.address, worker.port) for worker in others))[:SAMPLE]
    # And one that has not joined yet.
    joining = (str(ipaddress.ip_network(here.inventory.network)[-2]), here.inventory.base_port)
    packets = list_required_packets(guard, tunnel, (*members, joining), ways)
    return _find_obstacles(listing, tuple(packets))


def _find_obstacles(
    listing: Listing, packets: tuple[Packet, ...]
) -> tuple[tuple[Obstacle, ...], tuple[str, ...]]:
    """Ask the kernel for what rules look up in sets, until no question is open; a rule may lead to others."""
    tables = build_tables(listing)
    answers: Answers = {}
    obstacles: tuple[Obstacle, ...] = ()
    unread: tuple[str, ...] = ()
    for _ in range(MOST_ROUNDS):
        lookups = Lookups(answers)
        obstacles = find_obstacles(
            tables, packets, listing.lasting, lookups=lookups, interfaces=listing.interfaces
        )
        if not lookups.open or unread:
            return obstacles, unread
        found, failed = foreign_rulesets.answer_questions(lookups.open)
        answers |= found
        unread += failed
    return obstacles, unread
