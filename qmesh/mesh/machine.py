"""A machine of the mesh: its place in it, its keys and its cores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from qmesh.errors import BadInput
from qmesh.mesh.values import (
    Endpoint,
    MachineState,
    Port,
    normalize_ip_address,
    quote_text,
    validate_machine_name,
    validate_wireguard_key,
)

_MOST_NAMED: Final = 20


class Cores(msgspec.Struct, frozen=True, order=True):
    """A machine's data workers: `count` cores from core number `first` (1 is the mesh's first)."""

    first: int
    count: int

    @property
    def numbers(self) -> range:
        """The core numbers, in order."""
        return range(self.first, self.first + self.count)

    def ports(self, base_port: int) -> range:
        """The listen ports, in the order of the cores: port = base_port + core - 1."""
        return range(base_port + self.first - 1, base_port + self.first - 1 + self.count)


PortSource: TypeAlias = Literal["control", "mesh", "none"]
"""Who but the machine itself reaches a port, through the tunnel: the control node, all members, or nobody."""


class GuardedPort(msgspec.Struct, frozen=True, order=True):
    """A port of a machine that its guard closes as it closes workers' ports, but for `source`."""

    port: Port
    source: PortSource


class Machine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A member of a mesh, or one that is invited to be.

    public_key: its WireGuard public key; the invitation's throwaway one while invited.
    address: its tunnel address.
    workers: how many data workers it runs, at least 1; None while invited and not yet known.
    endpoints: where its WireGuard is reached, best first; often none for a worker machine.
    announce: IP address or DNS name at which the node's network reaches it, where that is not its endpoint's.
    guarded_ports: further ports that its guard closes, ascending, each once.
    left_open: ports that are open on purpose, ascending, each once.
    node_files: whether it may fetch the files with the node's secrets from the control node.
    """

    name: str
    public_key: str
    address: str
    workers: Annotated[int, msgspec.Meta(ge=1)] | None
    state: MachineState = "active"
    endpoints: tuple[Endpoint, ...] = ()
    announce: str | None = None
    guarded_ports: tuple[GuardedPort, ...] = ()
    left_open: tuple[Port, ...] = ()
    node_files: bool = False

    def __post_init__(self) -> None:
        validate_machine_name(self.name)
        validate_wireguard_key(self.public_key)
        _refuse_noncanonical_address(self.address)
        if self.workers is None and self.state != "invited":
            raise BadInput(f"{self.name} has no worker count", hint="give it one with --workers")
        if self.workers is not None:
            validate_worker_count(self.workers)
        if self.announce is not None:
            Endpoint(self.announce, 1)  # a host, canonical
        ports = [each.port for each in self.guarded_ports]
        for listed in (ports, list(self.left_open)):
            if sorted(set(listed)) != listed:
                raise BadInput(
                    f"the ports of {self.name} are not in ascending order, each once",
                    hint="give each port once",
                )
        if both := set(ports).intersection(self.left_open):
            raise BadInput(
                f"port {min(both)} of {self.name} would be both closed and left open",
                hint="give it to --guard-port or to --leave-open, not to both",
            )


class PendingKey(msgspec.Struct, frozen=True):
    """A second key by which the control node knows a machine, until it is the machine's only one.

    machine: its name.
    address: the tunnel address of a machine that is invited to take its place; None for a key that the
        machine itself is about to change to.
    """

    machine: str
    public_key: str
    address: str | None

    def __post_init__(self) -> None:
        validate_machine_name(self.machine)
        validate_wireguard_key(self.public_key)
        if self.address is not None:
            _refuse_noncanonical_address(self.address)


def describe_machine_at(machines: Iterable[Machine], text: str) -> str | None:
    """Whose tunnel address, endpoint or announced address `text` is: a name, or several behind one."""
    try:
        host = Endpoint.parse(text).host
    except BadInput:
        return None
    found = [
        each
        for each in machines
        if host in {each.address, each.announce, *(end.host for end in each.endpoints)}
    ]
    exact = [each for each in found if text in map(str, each.endpoints)]
    return " or ".join(each.name for each in exact or found) or None


def build_unknown_machine_error(machines: Sequence[Machine], text: str) -> BadInput:
    """The error for a name that none of the machines has; it says so where it is an address of one."""
    name = describe_machine_at(machines, text)
    if name is not None:
        return BadInput(
            f"{quote_text(text)} is {name}, but a machine's name is needed", hint=f"use {name} in its place"
        )
    named = ", ".join(machine.name for machine in machines[:_MOST_NAMED])
    more = f" and {len(machines) - _MOST_NAMED} more" if len(machines) > _MOST_NAMED else ""
    return BadInput(f"no machine is named {quote_text(text)}", hint=f"machines of this mesh: {named}{more}")


def _refuse_noncanonical_address(address: str) -> None:
    if normalize_ip_address(address) != address:
        raise BadInput(
            f"address {quote_text(address)} is not canonical",
            hint=f"write it as {normalize_ip_address(address)}",
        )


def validate_worker_count(number: int) -> int:
    """Return `number` when it can be a count of data workers: at least 1. Raises BadInput."""
    if 1 <= number <= 65535:
        return number
    raise BadInput(
        f"{number} is not a number of workers",
        hint="a machine runs from 1 to 65535 data workers, one per core",
    )


def count_default_workers(there: int, reserve: int | None) -> int:
    """A data worker for each core but those that the control process keeps: one, unless it is said.

    there: the machine's cores. Raises BadInput.
    """
    if reserve is None:
        return max(1, there - 1)
    if not 0 <= reserve < there:
        raise BadInput(
            f"{reserve} of {there} cores cannot be left to the control process",
            hint=f"pass --reserve with a number from 0 to {there - 1}, or pass --workers",
        )
    return there - reserve
