"""The members of a mesh, in the order of their cores, and the rules for changing them.

Core 0 is the control process. The data workers are numbered from 1 over all active machines in
inventory order, and core N listens on port `base_port + N - 1`. So the order is the numbering,
and a machine that is appended renumbers no other one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Final, Literal, TypeAlias

import msgspec

from qmesh.errors import BadInput
from qmesh.mesh.machine import Cores, Machine, PendingKey, build_unknown_machine_error
from qmesh.mesh.networks import is_host_address, refuse_endpoint_inside
from qmesh.mesh.values import (
    CONTROL_PORTS,
    MOST_REVISION,
    SERVICE_PORTS,
    Port,
    Profile,
    normalize_ip_network,
    quote_text,
    validate_port,
)

Stream: TypeAlias = Literal["tunnel", "public"]

WILDCARD: Final = "0.0.0.0"  # noqa: S104 - what the node is to listen on
"""Every IPv4 address of a machine."""


class Inventory(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """All that a mesh's machines agree on. Valid by construction: building one raises BadInput.

    mesh: the mesh's identifier, hexadecimal.
    network: the tunnel network, canonical text.
    control: name of the control node.
    node: profile of the node software.
    base_port: the port of core 1, at which the control process dials it.
    service_port: TCP port of the membership service, on the control node's tunnel address only.
    revision: grows by one with each change.
    machines: active ones in core order; where paused and invited ones stand does not matter.
    p2p_base_port: the port of core 1 at which other provers dial it; None before node 2.1.
    stream: who may dial the workers' own ports: the control node through the `tunnel`, or the `public`,
        at each machine's endpoint, from node 2.1 on.
    master_proxy: whether other provers reach the workers via the control process.
    restart: whether agents restart the node's processes that have to be.
    stand_ins: second keys of machines; only the control node knows of them.
    successor: the member that is about to become the control node; all get ready for it.
    """

    mesh: str
    network: str
    control: str
    node: Profile
    base_port: Port
    service_port: Port
    revision: int
    machines: tuple[Machine, ...]
    p2p_base_port: Port | None = None
    stream: Stream = "tunnel"
    master_proxy: bool = False
    restart: bool = False
    stand_ins: tuple[PendingKey, ...] = ()
    successor: str | None = None

    def __post_init__(self) -> None:
        if normalize_ip_network(self.network) != self.network:
            raise BadInput(
                f"network {quote_text(self.network)} is not canonical",
                hint=f"write it as {normalize_ip_network(self.network)}",
            )
        if not 0 <= self.revision <= MOST_REVISION:
            raise BadInput(
                f"the mesh has no revision {self.revision}", hint=f"it goes from 0 to {MOST_REVISION}"
            )
        _refuse_duplicates("name", (machine.name for machine in self.machines))
        _refuse_duplicates("tunnel address", list_tunnel_addresses(self))
        _refuse_duplicates("public key", _list_public_keys(self))
        for machine in self.machines:
            _refuse_address_outside(machine.name, machine.address, self.network)
            for endpoint in machine.endpoints:
                refuse_endpoint_inside(self.network, endpoint.host)
        for each in self.stand_ins:
            self.machine(each.machine)
            if each.address is not None:
                _refuse_address_outside(each.machine, each.address, self.network)
        for name in (self.control, self.successor or self.control):
            if self.machine(name).state != "active":
                raise BadInput(
                    f"the control node {name} is {self.machine(name).state}",
                    hint="the control node must be an active machine",
                )
        self._refuse_port_conflicts()
        self._refuse_unsupported_options()

    def _refuse_port_conflicts(self) -> None:
        validate_port(self.service_port, "service port")
        bases = {"--worker-base-port": self.base_port}
        if self.p2p_base_port is not None:
            bases["--p2p-base-port"] = self.p2p_base_port
        count = sum(machine.workers or 0 for machine in self.machines)
        for option, base in bases.items():
            most = 65535 - validate_port(base, "worker base port") + 1
            if count > most:
                raise BadInput(
                    f"{count} workers do not fit into the ports from {base} to 65535",
                    hint=f"the whole mesh can have {most}; use fewer, or a lower {option}",
                )
            taken = self.cores[self.control].ports(base)
            others = {
                self.service_port: self._service_port_owner,
                **dict.fromkeys(CONTROL_PORTS[self.node], "the control process"),
            }
            for port, whose in others.items():
                if port in taken:
                    raise BadInput(
                        f"port {port} would be both {whose}'s and a worker's on {self.control}",
                        hint=f"pass another {'--listen-port or ' * (whose == 'WireGuard')}{option}",
                    )
        if self.p2p_base_port is not None:
            apart = abs(self.p2p_base_port - self.base_port)
            if any(cores.count > apart for cores in self.cores.values()):
                raise BadInput(
                    f"the port ranges from {self.p2p_base_port} and from {self.base_port} on would overlap",
                    hint="pass --worker-base-port and --p2p-base-port with a larger distance",
                )

    @property
    def _service_port_owner(self) -> str:
        """By what name the user knows it: a mesh may have it at WireGuard's number."""
        return "the membership service" if self.service_port in SERVICE_PORTS else "WireGuard"

    def _refuse_unsupported_options(self) -> None:
        if self.service_port in CONTROL_PORTS[self.node]:
            raise BadInput(
                f"port {self.service_port} would be both WireGuard's and the control process's",
                hint="pass another --listen-port",
            )
        if (self.p2p_base_port is None) != (self.node in {"1.4", "2.0"}):
            raise BadInput(
                f"node {self.node} and a base port for other provers do not go together",
                hint="set the node's version with `qmesh set --node`",
            )
        if self.p2p_base_port is None and (self.stream == "public" or self.master_proxy):
            raise BadInput(
                f"node {self.node} has neither public streams nor a master proxy",
                hint="they need node 2.1 or newer: `qmesh set --node 2.1`",
            )
        if self.stream == "public":
            for name in self.cores:
                public_address(self.machine(name))

    def machine(self, name: str) -> Machine:
        """The machine of that name. Raises BadInput when there is none."""
        found = self._machines_by_name.get(name)
        if found is not None:
            return found
        raise build_unknown_machine_error(self.machines, name)

    @cached_property
    def _machines_by_name(self) -> dict[str, Machine]:
        return {machine.name: machine for machine in self.machines}

    @cached_property
    def cores(self) -> Mapping[str, Cores]:
        """Each active machine's cores, by name, in core order. Counted once for all who ask."""
        cores: dict[str, Cores] = {}
        first = 1
        for machine in self.machines:
            if machine.state == "active":
                assert machine.workers is not None
                cores[machine.name] = Cores(first, machine.workers)
                first += machine.workers
        return cores

    @cached_property
    def _first_cores(self) -> list[tuple[int, str]]:
        return [(mine.first, name) for name, mine in self.cores.items()]

    def count_cores(self) -> int:
        """How many cores the mesh has: the number of the last."""
        first, name = self._first_cores[-1]
        return first + self.cores[name].count - 1

    def find_owner(self, core: int) -> str:
        """The active machine that has a core, of which there are as many as that."""
        return self._first_cores[bisect_right(self._first_cores, core, key=lambda each: each[0]) - 1][1]

    def worker_address(self, name: str) -> str:
        """The address at which a machine has its workers."""
        machine = self.machine(name)
        return machine.address if self.stream == "tunnel" else public_address(machine)

    def core_numbers(self, name: str) -> range:
        """The core numbers of a machine's workers; none while it is not active."""
        cores = self.cores.get(name)
        return range(0) if cores is None else cores.numbers

    @property
    def control_node(self) -> Machine:
        """The machine that runs the control process."""
        return self.machine(self.control)

    @property
    def hubs(self) -> tuple[Machine, ...]:
        """The machines that have a tunnel to every member: the control node, and its successor."""
        names = (self.control, self.successor)
        return tuple(self.machine(name) for name in names if name is not None)


def list_tunnel_addresses(inventory: Inventory) -> Iterator[str]:
    """The tunnel addresses that are in use, those of stand-ins among them."""
    yield from (machine.address for machine in inventory.machines)
    yield from (each.address for each in inventory.stand_ins if each.address is not None)


def _list_public_keys(inventory: Inventory) -> Iterator[str]:
    yield from (machine.public_key for machine in inventory.machines)
    yield from (each.public_key for each in inventory.stand_ins)


class Worker(msgspec.Struct, frozen=True):
    """One data worker: its core number, its machine, and where it listens."""

    core: int
    machine: str
    address: str
    port: int

    @property
    def multiaddr(self) -> str:
        """As the node's list has it: `/ip4/10.77.0.2/tcp/40003`. Source: multiformats/multiaddr."""
        version = 6 if ":" in self.address else 4
        return f"/ip{version}/{self.address}/tcp/{self.port}"


def list_workers(inventory: Inventory) -> Iterator[Worker]:
    """Every data worker of the mesh, in core order: the order of the node's list."""
    for name in inventory.cores:
        for core, (address, port) in list_worker_places(inventory, name).items():
            yield Worker(core, name, address, port)


class CoreOwners(Mapping[int, str]):
    """The machines of all cores, by core, without a list of them. without: a machine that counts as gone."""

    def __init__(self, inventory: Inventory, *, without: str | None = None) -> None:
        self._inventory = inventory
        self._without = without

    def __getitem__(self, core: int) -> str:
        if not 1 <= core <= self._inventory.count_cores():
            raise KeyError(core)
        owner = self._inventory.find_owner(core)
        if owner == self._without:
            raise KeyError(core)
        return owner

    def __iter__(self) -> Iterator[int]:
        return (core for core in range(1, self._inventory.count_cores() + 1) if core in self)

    def __len__(self) -> int:
        gone = 0 if self._without is None else len(self._inventory.core_numbers(self._without))
        return self._inventory.count_cores() - gone


def list_worker_places(inventory: Inventory, name: str) -> dict[int, tuple[str, int]]:
    """Address and port of each worker of a machine, by core; none while it is not active."""
    mine = inventory.cores.get(name)
    if mine is None:
        return {}
    address = inventory.worker_address(name)
    return {
        core: (address, port)
        for core, port in zip(mine.numbers, mine.ports(inventory.base_port), strict=True)
    }


def list_worker_ports(inventory: Inventory) -> range:
    """The listen ports of all workers: those of all machines follow one another, as their cores do."""
    return Cores(1, inventory.count_cores()).ports(inventory.base_port)


def find_core(inventory: Inventory, address: str, port: int) -> int | None:
    """The core whose worker is at that place in the mesh; None where none is."""
    ports = list_worker_ports(inventory)
    if port not in ports:
        return None
    core = 1 + ports.index(port)
    return core if address == inventory.worker_address(inventory.find_owner(core)) else None


def list_p2p_listeners(inventory: Inventory) -> Iterator[Worker]:
    """Every data worker where other provers reach it, in core order; none before node 2.1.

    On every address of its machine, or only in the tunnel where the control process stands in between.
    """
    base = inventory.p2p_base_port
    for name, mine in inventory.cores.items() if base is not None else ():
        address = inventory.machine(name).address if inventory.master_proxy else WILDCARD
        for core, port in zip(mine.numbers, mine.ports(base or 0), strict=True):
            yield Worker(core, name, address, port)


def public_address(machine: Machine) -> str:
    """The IP address at which a machine is reached without the tunnel. Raises BadInput without one."""
    for endpoint in machine.endpoints:
        if endpoint.is_address:
            return endpoint.host
    raise BadInput(
        f"{machine.name} has no endpoint that is an IP address",
        hint=f"give it one, `qmesh set {machine.name} --endpoint ADDRESS:PORT`; or leave --stream at tunnel",
    )


def list_members(inventory: Inventory) -> tuple[Machine, ...]:
    """The machines that are more than invited, in their order: what every member may know."""
    return tuple(machine for machine in inventory.machines if machine.state != "invited")


def worker_ports(inventory: Inventory, name: str) -> tuple[int, ...]:
    """The worker ports of one machine, ascending; none while it is not active."""
    cores = inventory.cores.get(name)
    return () if cores is None else tuple(cores.ports(inventory.base_port))


def reserved_ports(inventory: Inventory, name: str) -> tuple[int, ...]:
    """The ports of one machine that no outgoing connection may take, ascending."""
    cores = inventory.cores.get(name)
    p2p = () if cores is None or inventory.p2p_base_port is None else cores.ports(inventory.p2p_base_port)
    guarded = (each.port for each in inventory.machine(name).guarded_ports)
    return tuple(sorted({*worker_ports(inventory, name), *p2p, *guarded}))


def add_machine(inventory: Inventory, machine: Machine, *, resting: Collection[str] = ()) -> Inventory:
    """The inventory with one machine more, at the end. Raises BadInput when it does not fit in."""
    if any(other.name == machine.name for other in inventory.machines):
        raise BadInput(
            f"a machine named {machine.name} is already in the mesh",
            hint="choose another name; or, if this is the same machine without its state,"
            f" `qmesh invite {machine.name} --replace`",
        )
    if machine.address in resting:
        raise BadInput(
            f"tunnel address {machine.address} is not free yet: a removed machine had it",
            hint="let qmesh choose the address",
        )
    return msgspec.structs.replace(inventory, machines=(*inventory.machines, machine))


def admit_machine(inventory: Inventory, name: str, *, public_key: str, workers: int) -> Inventory:
    """The invited machine `name` becomes active, behind every other, with its own key.

    Raises BadInput when it is not invited or does not fit in.
    """
    invited = inventory.machine(name)
    if invited.state != "invited":
        raise BadInput(
            f"{name} is {invited.state}, not invited",
            hint="run `qmesh invite` on the control node for a new invitation",
        )
    member = msgspec.structs.replace(invited, public_key=public_key, workers=workers, state="active")
    others = tuple(machine for machine in inventory.machines if machine.name != name)
    return msgspec.structs.replace(inventory, machines=(*others, member), revision=inventory.revision + 1)


def _refuse_duplicates(what: str, values: Iterable[str]) -> None:
    counted = list(values)
    if len(set(counted)) < len(counted):
        repeated = next(value for value, count in Counter(counted).items() if count > 1)
        raise BadInput(
            f"two machines have the {what} {repeated}", hint=f"each machine needs a {what} of its own"
        )


def _refuse_address_outside(name: str, text: str, network: str) -> None:
    if not is_host_address(text, network):
        raise BadInput(
            f"tunnel address {text} of {name} is no host address of {network}",
            hint="let qmesh choose the address",
        )
