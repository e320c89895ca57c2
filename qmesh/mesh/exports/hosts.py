"""The mesh's tunnel addresses as lines for /etc/hosts. Source: hosts(5)."""

from __future__ import annotations

import msgspec

from qmesh.mesh.exports.text import render_header, tunnel_host_name, validate_plain
from qmesh.mesh.inventory import Inventory, list_members


class Host(msgspec.Struct, frozen=True):
    """One line. name: the machine's with `.qmesh` behind it.

    Its own name is left to mean what it means: `ssh machine-b` would else go to the tunnel address, where
    the guard drops it. And a machine may be called localhost.
    """

    address: str
    name: str


class HostsFile(msgspec.Struct, frozen=True, kw_only=True):
    """Every member, in the order of the inventory; no machine that is invited only."""

    machine: str
    revision: int
    hosts: tuple[Host, ...]


def hosts_file(inventory: Inventory, name: str) -> HostsFile:
    """The members' names as the machine `name` knows them."""
    hosts = (Host(machine.address, tunnel_host_name(machine.name)) for machine in list_members(inventory))
    return HostsFile(machine=name, revision=inventory.revision, hosts=tuple(hosts))


def render_hosts_file(file: HostsFile) -> str:
    """The lines."""
    top = render_header("hosts", file.machine, file.revision)
    return top + "".join(
        f"{validate_plain(host.address)}\t{validate_plain(host.name)}\n" for host in file.hosts
    )
