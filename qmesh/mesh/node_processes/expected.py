"""What the node's processes on one machine should do: inventory and config in, addresses and ports out."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping
from typing import Final

import msgspec

from qmesh.mesh.inventory import CoreOwners, Inventory, list_worker_places, worker_ports
from qmesh.mesh.node_processes.observed import Protocol
from qmesh.mesh.nodeconfig import Key, ParsedConfig, read_settings
from qmesh.mesh.values import CONTROL_PORTS, P2P_PORT, STREAM_PORT, Profile

P2P_KEY: Final = Key("p2p", "listenMultiaddr")
_PLACE: Final = re.compile(r"/(?:ip4|ip6|dns4|dns6|dns)/[^/]+/(tcp|udp)/([1-9][0-9]{0,4})(?:/|\Z)")


class ExpectedNode(msgspec.Struct, frozen=True, kw_only=True):
    """The node on this machine, as the mesh wants it.

    addresses: of this machine, at which its workers listen.
    network: the tunnel network.
    cores: address and port of each of its workers, by core; none once the mesh has removed it.
    owners: names of machines by core, of all the mesh.
    closed: ports that the guard closes or has closed here: a worker may listen at one of them still.
    others, p2p: ports of this machine that are no worker's, though they may lie between those of workers.
    stream_address: where its workers connect to the control process; None before node 2.1.
    readers: numbers of the users who can read config.yml; None where anyone may.
    """

    name: str
    control: str
    profile: Profile
    base_port: int
    network: str
    addresses: frozenset[str]
    cores: Mapping[int, tuple[str, int]]
    owners: Mapping[int, str]
    closed: frozenset[int] = frozenset()
    others: frozenset[int] = frozenset()
    p2p: range = range(0)
    stream_address: str | None = None
    readers: frozenset[int] | None = None

    @property
    def is_control(self) -> bool:
        """Whether this machine should run the control process."""
        return self.name == self.control

    def is_in_tunnel(self, address: str) -> bool:
        """Whether an address, as text, is one of the tunnel network."""
        return ipaddress.ip_address(address) in ipaddress.ip_network(self.network)


def build_expected_node(
    inventory: Inventory,
    name: str,
    *,
    closed_ports: Collection[int] = (),
    readers: Collection[int] | None = None,
    removed: bool = False,
) -> ExpectedNode:
    """The node on machine `name`, as the mesh wants it. Raises BadInput for an unknown name.

    removed: whether the mesh has removed this machine; what it holds of the mesh is older.
    """
    machine = inventory.machine(name)
    cores = {} if removed else list_worker_places(inventory, name)
    guarded = (each.port for each in machine.guarded_ports)
    owners = CoreOwners(inventory, without=name if removed else None)
    base = inventory.p2p_base_port
    return ExpectedNode(
        name=name,
        control=inventory.control,
        profile=inventory.node,
        base_port=inventory.base_port,
        network=inventory.network,
        addresses=frozenset({machine.address, *(address for address, _ in cores.values())}),
        cores=cores,
        owners=owners,
        closed=frozenset(closed_ports).union(worker_ports(inventory, name)),
        others=frozenset({*CONTROL_PORTS[inventory.node], inventory.service_port, *guarded}),
        p2p=range(0) if base is None else range(base, base + len(owners)),
        stream_address=inventory.control_node.address
        if STREAM_PORT in CONTROL_PORTS[inventory.node]
        else None,
        readers=None if readers is None else frozenset(readers),
    )


def list_control_ports(config: str | ParsedConfig, profile: Profile) -> tuple[tuple[Protocol, int], ...]:
    """Protocol and port of each socket at which the control process is reached, as its config.yml says.

    Empty where that cannot be known: the node of Go listens nowhere that it was not told.
    Raises BadInput when the text does not load.
    """
    (told,) = read_settings(config, [(P2P_KEY, False)])
    ports: list[tuple[Protocol, int]] = []
    if found := _PLACE.match(told if isinstance(told, str) else ""):
        ports.append(("tcp" if found[1] == "tcp" else "udp", int(found[2])))
    elif not told and profile == "2.1-rust":
        ports.append(("udp", P2P_PORT))
    if STREAM_PORT in CONTROL_PORTS[profile]:
        ports.append(("tcp", STREAM_PORT))
    return tuple(ports)
