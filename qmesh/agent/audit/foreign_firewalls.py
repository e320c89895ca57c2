"""Which packets this machine's part in the mesh needs, and what other firewalls do to them."""

from __future__ import annotations

import ipaddress
import itertools
import os
import socket
from collections.abc import Collection, Iterable, Iterator
from typing import Final, NamedTuple

import msgspec

from qmesh.agent.local import Local
from qmesh.errors import MachineRefused
from qmesh.host import wireguard
from qmesh.host.firewall import foreign_rulesets
from qmesh.host.firewall.bpf_programs import find_bpf_programs
from qmesh.host.firewall.ipsec_policies import read_ipsec_policies
from qmesh.host.firewall.packet_programs import (
    find_other_tables,
    find_packet_programs,
    find_queue_programs,
)
from qmesh.host.network import links, ports, routes, tcp_probe
from qmesh.host.system import systemd
from qmesh.mesh.foreign.lookups import Answers, Lookups
from qmesh.mesh.foreign.obstacles import (
    Obstacle,
    build_forwarded_packet,
    build_translation_obstacle,
    judge_packets,
)
from qmesh.mesh.foreign.other_hooks.ipsec_policies import find_ipsec_obstacles
from qmesh.mesh.foreign.other_hooks.packet_programs import (
    build_loopback_obstacle,
    build_mark_suspect,
    list_program_suspects,
)
from qmesh.mesh.foreign.other_hooks.source_checks import find_source_obstacles
from qmesh.mesh.foreign.other_hooks.unit_filters import find_unit_obstacles
from qmesh.mesh.foreign.packets import (
    EPHEMERAL,
    Packet,
    UnderlayRoute,
    list_path_errors,
    list_required_packets,
)
from qmesh.mesh.foreign.rules import Table, Translation
from qmesh.mesh.foreign.rulesets import Listing, build_tables
from qmesh.mesh.inventory import list_workers, worker_ports
from qmesh.mesh.node_processes.places import Place, list_accepting_places
from qmesh.mesh.state import Guard, NodeState
from qmesh.mesh.values import DEFAULT_LISTEN_PORT, NODE_PORTS

SAMPLE: Final = 16
MOST_ROUNDS: Final = 8
"""Of questions about sets: what is not known is followed both ways, so one is mostly enough."""
ANSWER_S: Final = 1.0
"""Seconds in which somebody answers on this machine, or in a container of it."""
STRANGERS: Final = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
"""Addresses of nobody (RFC 5737, RFC 3849): for machines that may ask the control node from anywhere."""


def find_firewall_obstacles(
    here: Local, desired: NodeState, observed: NodeState, *, mark: int
) -> tuple[tuple[Obstacle, ...], tuple[str, ...]]:
    """What the machine's other firewalls and IPsec policies do to the packets that its part needs.

    Besides, what of them could not be read. Rules rarely tell members apart: some stand for all.
    mark: of WireGuard's datagrams.

    Raises MachineRefused where it could not look.
    """
    packets = _list_packets(here, desired, observed, mark=mark)
    if not packets or desired.tunnel is None:  # nothing is needed of a machine that is in no mesh
        return (), ()
    judgement = _judge_packets(foreign_rulesets.read_rulesets(), packets)
    network = str(ipaddress.ip_interface(desired.tunnel.addresses[0]).network)
    loopback = links.read("lo")
    is_down = loopback is not None and not loopback.up
    return (
        *([build_loopback_obstacle()] if is_down else []),
        *judgement.obstacles,
        *_find_translation_obstacles(judgement),
        *find_ipsec_obstacles(read_ipsec_policies(), packets, network),
        *_find_unit_obstacles(here, network),
        *_find_source_obstacles(here, observed),
    ), judgement.unread


def find_path_error_obstacles(here: Local, observed: NodeState) -> tuple[Obstacle, ...]:
    """What keeps this machine from learning which packets are too large for the path to the control node.

    Raises MachineRefused where it could not look.
    """
    routers = {"ip": STRANGERS[socket.AF_INET], "ip6": STRANGERS[socket.AF_INET6]}
    packets = tuple(list_path_errors(_list_underlay_routes(here, observed), routers))
    return _judge_packets(foreign_rulesets.read_rulesets(), packets).obstacles if packets else ()


def find_container_workers(here: Local, places: Collection[Place]) -> frozenset[Place]:
    """Of these places of own workers those whose calls a rule sends on, as to a container, and are answered.

    Raises MachineRefused where it could not look.
    """
    packets = tuple(
        Packet(
            traffic="tunnel in",
            iif=here.settings.interface,
            protocol="tcp",
            source=here.inventory.control_node.address,
            source_port=EPHEMERAL,
            target=address,
            target_port=port,
        )
        for address, port in places
    )
    found = _judge_packets(foreign_rulesets.read_rulesets(), packets).translations
    answered = _probe_translations(found)
    return frozenset(
        (each.packet.target, each.packet.target_port)
        for each in found
        if (each.address, each.port) in answered
    )


def _find_unit_obstacles(here: Local, network: str) -> Iterator[Obstacle]:
    """Of units that may not speak with those that they need: the control node, and there the members."""
    mesh, own = here.inventory, here.settings.name
    needed = mesh.machines if here.settings.control else (mesh.control_node,)
    cores = mesh.core_numbers(own)
    try:
        filters = systemd.read_unit_filters(tuple(cores))
    except MachineRefused:  # which is said of the node's units
        return iter(())
    return find_unit_obstacles(filters, [each.address for each in needed[:SAMPLE]], network)


def _find_source_obstacles(here: Local, observed: NodeState) -> Iterator[Obstacle]:
    """Of those who call this machine at an address that the mesh knows of, and of anybody at a public one."""
    known = [end.host for end in here.machine.endpoints if end.is_address and ":" not in end.host]
    sources = [host for host, _ in _list_peer_ends(here, observed) if ":" not in host]
    public = [host for host in known if ipaddress.ip_address(host).is_global]
    return find_source_obstacles(
        (
            *routes.find_arrivals(dict.fromkeys(sources), known),
            *routes.find_arrivals((STRANGERS[socket.AF_INET],), public),
        )
    )


def read_mark(observed: NodeState) -> int:
    """The mark that WireGuard gives its datagrams; 0 for none. Raises MachineRefused."""
    interface = None if observed.tunnel is None else observed.tunnel.interface
    return 0 if interface is None else wireguard.find_backend(interface).read(interface).mark


def find_program_suspects(
    here: Local, desired: NodeState, observed: NodeState, *, mark: int
) -> tuple[Obstacle, ...]:
    """Programs that see the mesh's packets before any rule, and can't be read. Raises MachineRefused.

    mark: of WireGuard's datagrams.
    """
    interfaces = dict.fromkeys(packet.interface for packet in _list_packets(here, desired, observed))
    interfaces.pop("lo", None)
    programs = (
        *find_packet_programs(interfaces),
        *find_other_tables(interfaces),
        *find_queue_programs(),
        *find_bpf_programs(interfaces, _list_calling_processes(here)),
    )
    marked = [build_mark_suspect(here.settings.interface, mark)] if mark else []
    return (*marked, *list_program_suspects(programs))


def _list_calling_processes(here: Local) -> tuple[int, ...]:
    """Those of this machine that speak through the tunnel, as far as they listen; and this one."""
    mesh, own = here.inventory, here.settings.name
    asked = (*worker_ports(mesh, own), mesh.service_port, *NODE_PORTS[mesh.node])
    found = (each.process for each in ports.find_listeners(asked) if each.process)
    return tuple(dict.fromkeys((os.getpid(), *found)))


def _list_packets(
    here: Local, desired: NodeState, observed: NodeState, *, mark: int = 0
) -> tuple[Packet, ...]:
    guard, tunnel = desired.guard, desired.tunnel
    if not isinstance(guard, Guard) or tunnel is None:
        return ()
    ways = tuple(msgspec.structs.replace(way, mark=mark) for way in _list_underlay_routes(here, observed))
    if here.settings.control:
        ways += routes.list_inbound_routes(guard.interface, STRANGERS, DEFAULT_LISTEN_PORT)
    others = [worker for worker in list_workers(here.inventory) if worker.machine != here.settings.name]
    members = tuple(dict.fromkeys((worker.address, worker.port) for worker in others))[:SAMPLE]
    # And one that has not joined yet.
    joining = (str(ipaddress.ip_network(here.inventory.network)[-2]), here.inventory.base_port)
    return tuple(list_required_packets(guard, tunnel, (*members, joining), ways))


def _list_underlay_routes(here: Local, observed: NodeState) -> tuple[UnderlayRoute, ...]:
    """How WireGuard's datagrams go to machines of the mesh."""
    ends = _list_peer_ends(here, observed)
    return tuple(way for host, port in ends if (way := routes.find_route(host, port)) is not None)


def _list_peer_ends(here: Local, observed: NodeState) -> tuple[tuple[str, int], ...]:
    """Where machines of the mesh are, as WireGuard has it: some of many stand for all."""
    peers = () if observed.tunnel is None else observed.tunnel.peers
    keys = {each.public_key for each in here.inventory.machines}
    ends = (
        (peer.endpoint.host, peer.endpoint.port)
        for peer in peers
        if peer.endpoint is not None and peer.public_key in keys
    )
    return tuple(itertools.islice(ends, SAMPLE))


class _Judgement(NamedTuple):
    """What rules do to packets. unread: what could not be read of them, in words."""

    listing: Listing
    tables: tuple[Table, ...]
    answers: Answers
    obstacles: tuple[Obstacle, ...] = ()
    translations: tuple[Translation, ...] = ()
    unread: tuple[str, ...] = ()


def _judge_packets(listing: Listing, packets: tuple[Packet, ...]) -> _Judgement:
    """Ask the kernel for what rules look up in sets, until no question is open; a rule may lead to others."""
    found = _Judgement(listing, build_tables(listing), {})
    for _ in range(MOST_ROUNDS):
        lookups = Lookups(found.answers)
        obstacles, translations = judge_packets(
            found.tables, packets, listing.lasting, lookups=lookups, interfaces=listing.interfaces
        )
        found = found._replace(obstacles=obstacles, translations=translations)
        if not lookups.open or found.unread:
            break
        answers, failed = foreign_rulesets.answer_questions(lookups.open)
        found = found._replace(answers=found.answers | answers, unread=failed)
    return found


def _find_translation_obstacles(judgement: _Judgement) -> Iterator[Obstacle]:
    """Of connections that rules send on: whether they get there, and somebody answers."""
    translations = judgement.translations
    if not translations:
        return
    forwarded = [
        build_forwarded_packet(each, way.interface)
        for each in translations
        if each.packet.iif
        and each.address != each.packet.target
        and (way := routes.find_route(each.address, each.port)) is not None
    ]
    listing = judgement.listing
    yield from judge_packets(
        judgement.tables,
        forwarded,
        listing.lasting,
        lookups=Lookups(judgement.answers),
        interfaces=listing.interfaces,
    )[0]
    answered, listening = _probe_translations(translations), frozenset(ports.list_listeners())
    for each in translations:
        if each.packet.protocol == "tcp" and (each.address, each.port) not in answered:
            asked = list_accepting_places((each.packet.target, each.packet.target_port))
            yield build_translation_obstacle(each, listens_here=not listening.isdisjoint(asked))


def _probe_translations(translations: Iterable[Translation]) -> frozenset[Place]:
    """Which of the new targets answer. Of UDP nobody can tell."""
    places = {(each.address, each.port) for each in translations if each.packet.protocol == "tcp"}
    return frozenset(tcp_probe.measure_connect_times(places, wait_s=ANSWER_S))
