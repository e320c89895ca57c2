"""Which way this machine's packets to members go, and what else it has in the tunnel's network.

The kernel is asked for each member; its tables are read only for what it answers otherwise than expected.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from qmesh.agent.local import Local
from qmesh.errors import BadInput
from qmesh.host.network import routes
from qmesh.host.network.kernel_routes.questions import ask_kernel
from qmesh.host.network.kernel_routes.tables import read_routing_tables
from qmesh.mesh.inventory import Inventory, list_tunnel_addresses
from qmesh.mesh.machine import Machine
from qmesh.mesh.routes.detours import (
    Detour,
    SentProbe,
    TunnelPlace,
    find_expected_detour,
    group_detours,
    is_answer_right,
)
from qmesh.mesh.routes.lookup import SentPacket
from qmesh.mesh.routes.overlaps import NetworkOverlap, list_overlaps


def find_detours(here: Local) -> tuple[Detour, ...]:
    """Packets to members, on a worker machine to the control node, that do not go into the tunnel.

    And those to this machine itself, where they do not stay here.

    While that is not up, all of them. Raises MachineRefused.
    """
    tunnel = _locate_tunnel(here)
    asked = list(_list_packets(here))
    answers = ask_kernel([packet for _, packet in asked])
    strayed = [
        SentProbe(machine.name, packet, answer)
        for (machine, packet), answer in zip(asked, answers, strict=True)
        if not is_answer_right(answer, packet, tunnel)
    ]
    if not strayed:
        return ()
    tables = read_routing_tables(tunnel.network, except_interface=tunnel.interface)
    return group_detours(strayed, tables, tunnel)


def find_overlaps(here: Local) -> tuple[NetworkOverlap, ...]:
    """What else of this machine's network has addresses of the tunnel's. Raises MachineRefused."""
    return _find_overlaps(_locate_tunnel(here), frozenset(list_tunnel_addresses(here.inventory)))


def refuse_collisions(tunnel: TunnelPlace, machines: Mapping[str, str], *, hint: str) -> None:
    """Raise BadInput where this machine would send packets elsewhere that are for the tunnel.

    It is what `check` would call an error once the tunnel were up. machines: addresses by name.
    Raises MachineRefused where it could not look.
    """
    tables = read_routing_tables(tunnel.network, except_interface=tunnel.interface)
    detour = None if tables is None else find_expected_detour(machines, tables, tunnel)
    if detour is not None:
        raise BadInput(
            f"the tunnel network {tunnel.network} collides with another use of it on this machine:"
            f" packets for {detour.address}: {detour.reason}",
            hint=f"run `{detour.cure}`; {hint}",
        )
    for overlap in _find_overlaps(tunnel, frozenset(machines.values())):
        if overlap.is_harmful:
            raise BadInput(
                f"the tunnel network {tunnel.network} collides with another use of it on this machine:"
                f" {overlap.reason}",
                hint=f"{overlap.cure}; {hint}",
            )


def _find_overlaps(tunnel: TunnelPlace, members: frozenset[str]) -> tuple[NetworkOverlap, ...]:
    tables = read_routing_tables(tunnel.network, except_interface=tunnel.interface)
    if tables is None:
        return ()
    return tuple(list_overlaps(tables, routes.list_resolvers(), members, tunnel))


def _locate_tunnel(here: Local) -> TunnelPlace:
    return TunnelPlace(here.settings.interface, here.inventory.network, here.machine.address)


def _list_packets(here: Local) -> Iterator[tuple[Machine, SentPacket]]:
    """Of the control process's kind, and answers: those have this machine's address from the start."""
    inventory, own = here.inventory, here.machine
    yield own, SentPacket(own.address)
    users = dict.fromkeys((os.geteuid(), _find_node_user(here)))
    for machine in inventory.machines if own in inventory.hubs else inventory.hubs:
        if machine.name != own.name:
            port = _find_port(inventory, machine)
            for user in users:
                for source in (None, own.address):
                    yield machine, SentPacket(machine.address, source, user, port)


def _find_node_user(here: Local) -> int:
    directory = here.settings.node_directory
    return os.geteuid() if directory is None or directory.owner is None else directory.owner


def _find_port(inventory: Inventory, machine: Machine) -> int:
    """Where this machine is called: its first worker's port, or the membership service's."""
    cores = inventory.cores.get(machine.name)
    if machine.name == inventory.control or cores is None:
        return inventory.service_port
    return cores.ports(inventory.base_port)[0]
