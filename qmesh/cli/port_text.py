"""Ports that have to be open to the internet, in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from qmesh.mesh.ports.port_ranges import format_port_ranges
from qmesh.mesh.reachability.open_ports import MachinePorts, OpenPorts

_MOST_NAMED: Final = 3


def describe_open_ports(found: Iterable[OpenPorts]) -> str:
    """`UDP 51820 (WireGuard), TCP 25000-25002 (workers)`; `none` where there are none."""
    said = (f"{each.protocol.upper()} {format_port_ranges(each.ports)} ({each.purpose})" for each in found)
    return ", ".join(said) or "none"


def describe_machine_ports(machine: MachinePorts, *, announces: bool) -> str:
    """The same with the machine, and where the network comes for its workers.

    announces: whether the node tells the network that.
    """
    where = _describe_host(machine) if announces and machine.open else ""
    return f"{machine.machine}{where}: {describe_open_ports(machine.open)}"


def _describe_host(machine: MachinePorts) -> str:
    if machine.host is None:
        return ", announced nowhere"
    if machine.is_forwarded:
        return f", to be forwarded at {machine.host}"
    if not machine.shared_with:
        return f" at {machine.host}"
    named = " and ".join(machine.shared_with[:_MOST_NAMED])
    more = len(machine.shared_with) - _MOST_NAMED
    others = f"{named} and {more} more" if more > 0 else named
    return f" at {machine.host}, as {others}, so that a router has to forward"


def describe_own_ports(machine: MachinePorts) -> Iterator[str]:
    """What the user of a new member has to do about its ports; nothing where nothing has to be done."""
    said = describe_open_ports(machine.open)
    if machine.open and machine.is_forwarded:
        yield f"to be forwarded at {machine.host}, the control node's address: {said}"
    elif machine.open:
        yield f"to be open, at the provider too: {said}"
    if machine.host is None and any(each.purpose == "workers" for each in machine.open):
        yield (
            "no other node can call its workers yet: run"
            f" `qmesh set {machine.machine} --announce ADDRESS` on the control node"
        )
