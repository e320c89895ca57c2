"""Which ports of each machine have to be open to the internet, at its provider's firewall too."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Literal, TypeAlias

import msgspec

from qmesh.mesh.inventory import Inventory, worker_ports
from qmesh.mesh.reachability.announcements import find_hosts_in_use, find_public_host
from qmesh.mesh.values import P2P_PORT, STREAM_PORT

Purpose: TypeAlias = Literal["WireGuard", "node", "workers"]


class OpenPorts(msgspec.Struct, frozen=True):
    """Ports of one protocol and purpose, ascending."""

    protocol: Literal["udp", "tcp"]
    ports: tuple[int, ...]
    purpose: Purpose


class MachinePorts(msgspec.Struct, frozen=True):
    """What has to be open of one machine, and where the network comes for it.

    host: the announced one; None where none is known, or the node announces none.
    is_forwarded: whether the router of the control node's network has that address, and forwards these ports.
    shared_with: other machines that are reached at that host.
    """

    machine: str
    host: str | None
    is_forwarded: bool
    shared_with: tuple[str, ...]
    open: tuple[OpenPorts, ...]

    @property
    def without_neighbours(self) -> MachinePorts:
        """The same, whoever else is reached there."""
        return msgspec.structs.replace(self, shared_with=())


def list_all_open_ports(inventory: Inventory, listen_ports: Mapping[str, int]) -> tuple[MachinePorts, ...]:
    """What has to be open of each member, in the mesh's order.

    listen_ports: UDP ports of WireGuard by machine, as far as they are known; an endpoint's goes before.
    """
    hosts = find_hosts_in_use(inventory)
    members = (machine.name for machine in inventory.machines if machine.state != "invited")
    return tuple(_build_machine_ports(inventory, name, listen_ports, hosts) for name in members)


def find_open_ports(inventory: Inventory, name: str, listen_ports: Mapping[str, int]) -> MachinePorts:
    """The same of machine `name`."""
    return _build_machine_ports(inventory, name, listen_ports, find_hosts_in_use(inventory))


def list_changed_ports(
    before: Inventory, after: Inventory, listen_ports: Mapping[str, int]
) -> tuple[MachinePorts, ...]:
    """What has to be open after a change, of the machines for which that is something else than before."""
    old = {each.without_neighbours for each in list_all_open_ports(before, listen_ports)}
    new = list_all_open_ports(after, listen_ports)
    return tuple(each for each in new if each.without_neighbours not in old)


def _build_machine_ports(
    inventory: Inventory, name: str, listen_ports: Mapping[str, int], hosts: Mapping[str, Collection[str]]
) -> MachinePorts:
    found = find_public_host(inventory, name)
    host = None if inventory.p2p_base_port is None else found.host
    others = () if host is None else tuple(each for each in hosts.get(host, ()) if each != name)
    ports = tuple(_find_open_ports(inventory, name, listen_ports))
    return MachinePorts(name, host, host is not None and found.source == "control node", others, ports)


def _find_open_ports(inventory: Inventory, name: str, listen_ports: Mapping[str, int]) -> Iterator[OpenPorts]:
    is_control, base = name == inventory.control, inventory.p2p_base_port
    wireguard = {each.port for each in inventory.machine(name).endpoints}
    if is_control and not wireguard and name in listen_ports:
        wireguard = {listen_ports[name]}
    if wireguard:
        yield OpenPorts("udp", tuple(sorted(wireguard)), "WireGuard")
    if is_control:
        yield OpenPorts("udp", (P2P_PORT,), "node")
        if base is not None:
            yield OpenPorts("tcp", (STREAM_PORT,), "node")
    cores = inventory.cores.get(name)
    if cores is None or base is None:
        return
    ports = () if inventory.master_proxy else tuple(cores.ports(base))
    if inventory.stream == "public":
        ports = (*ports, *worker_ports(inventory, name))
    if ports:
        yield OpenPorts("tcp", tuple(sorted(ports)), "workers")
