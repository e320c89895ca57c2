"""Which packets this machine's part in the mesh needs, and what other firewalls do to them."""

from __future__ import annotations

import ipaddress
import socket
from typing import Final

from qmesh.agent.local import Local
from qmesh.host import wireguard
from qmesh.host.firewall import foreign_rulesets
from qmesh.host.firewall.ipsec_policies import read_ipsec_policies
from qmesh.host.firewall.packet_programs import find_packet_programs
from qmesh.host.network import links, routes
from qmesh.mesh.foreign.lookups import Answers, Lookups
from qmesh.mesh.foreign.obstacles import Obstacle, find_obstacles
from qmesh.mesh.foreign.other_hooks.ipsec_policies import find_ipsec_obstacles
from qmesh.mesh.foreign.other_hooks.packet_programs import (
    build_loopback_obstacle,
    build_mark_suspect,
    list_program_suspects,
)
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
    """What the machine's other firewalls and IPsec policies do to the packets that its part needs.

    Besides, what of them could not be read. Rules rarely tell members apart: some stand for all.

    Raises MachineRefused where it could not look.
    """
    packets = _list_packets(here, desired, observed)
    if not packets or desired.tunnel is None:  # nothing is needed of a machine that is in no mesh
        return (), ()
    obstacles, unread = _find_obstacles(foreign_rulesets.read_rulesets(), packets)
    network = str(ipaddress.ip_interface(desired.tunnel.addresses[0]).network)
    loopback = links.read("lo")
    is_down = loopback is not None and not loopback.up
    return (
        *([build_loopback_obstacle()] if is_down else []),
        *obstacles,
        *find_ipsec_obstacles(read_ipsec_policies(), packets, network),
    ), unread


def find_program_suspects(here: Local, desired: NodeState, observed: NodeState) -> tuple[Obstacle, ...]:
    """Programs that see the mesh's packets before any rule, and can't be read. Raises MachineRefused."""
    interfaces = dict.fromkeys(packet.interface for packet in _list_packets(here, desired, observed))
    programs = find_packet_programs(each for each in interfaces if each != "lo")
    mark = 0
    if observed.tunnel is not None:
        mark = wireguard.find_backend(observed.tunnel.interface).read(observed.tunnel.interface).mark
    marked = [build_mark_suspect(here.settings.interface, mark)] if mark else []
    return (*marked, *list_program_suspects(programs))


def _list_packets(here: Local, desired: NodeState, observed: NodeState) -> tuple[Packet, ...]:
    guard, tunnel = desired.guard, desired.tunnel
    if not isinstance(guard, Guard) or tunnel is None:
        return ()
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
    return tuple(list_required_packets(guard, tunnel, (*members, joining), ways))


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
