"""The ports that the guard of one machine closes: its workers', those of its node, and those asked for."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from qmesh.mesh.inventory import Inventory, worker_ports
from qmesh.mesh.values import NODE_PORTS, PUBLIC_PORTS, SSH_PORT


class SeenPorts(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine tells of its ports besides what the mesh says.

    listened: worker ports that its guard closed before, and that are listened on still.
    of_node: those at which the node's own file lets the node listen on every address.
    of_ssh: those at which SSH is served, which nothing closes.
    of_metrics: those at which the agent serves metrics in the tunnel, for the control node.
    """

    listened: frozenset[int] = frozenset()
    of_node: frozenset[int] = frozenset()
    of_ssh: frozenset[int] = frozenset()
    of_metrics: frozenset[int] = frozenset()


class ClosedPorts(msgspec.Struct, frozen=True, kw_only=True):
    """Ports by who still reaches them, ascending, each in one list only.

    workers: the control node through the tunnel; on the control node the machine itself.
    own: the machine itself. control: besides, the control node. mesh: besides, all members.
    """

    workers: tuple[int, ...]
    own: tuple[int, ...] = ()
    control: tuple[int, ...] = ()
    mesh: tuple[int, ...] = ()

    @property
    def guarded_ports(self) -> tuple[int, ...]:
        """Those that are no workers', ascending."""
        return tuple(sorted((*self.own, *self.control, *self.mesh)))


def assign_closed_ports(inventory: Inventory, name: str, listen_port: int, seen: SeenPorts) -> ClosedPorts:
    """What the guard of machine `name` closes. listen_port: its WireGuard's.

    A worker's port is a worker's, whatever else is asked for it. What a user of the machine may have written
    into the node's file closes a port at most for others than the machine itself.
    Raises BadInput for an unknown name.
    """
    machine = inventory.machine(name)
    workers = worker_ports(inventory, name) if inventory.stream == "tunnel" else ()
    workers = tuple(sorted(seen.listened.union(workers)))
    untouched = {*workers, *describe_untouched_ports(inventory, name, (listen_port,)), *seen.of_ssh}
    asked = {each.port: each.source for each in machine.guarded_ports}
    # On every machine: the control process may still run where the control role was before.
    others = seen.of_node.union(NODE_PORTS[inventory.node]).difference(machine.left_open)
    sources = {**dict.fromkeys(others, "none"), **dict.fromkeys(seen.of_metrics, "control"), **asked}
    if name == inventory.control:  # the control node is the machine itself
        sources = {port: "none" if source == "control" else source for port, source in sources.items()}

    def list_ports(source: str) -> tuple[int, ...]:
        return tuple(sorted(port for port in sources if sources[port] == source and port not in untouched))

    return ClosedPorts(
        workers=workers, own=list_ports("none"), control=list_ports("control"), mesh=list_ports("mesh")
    )


def describe_untouched_ports(inventory: Inventory, name: str, listen_ports: Iterable[int]) -> dict[int, str]:
    """The ports of machine `name` that no option and no file closes, as others have to reach them: for what.

    listen_ports: its WireGuard's.
    """
    workers = worker_ports(inventory, name) if inventory.stream == "public" else ()
    return {
        **dict.fromkeys(workers, "a worker's, which the control node reaches without the tunnel"),
        **dict.fromkeys(list_p2p_ports(inventory), "where other provers reach the node's workers"),
        **dict.fromkeys(PUBLIC_PORTS[inventory.node], "where the node's network reaches the control process"),
        inventory.service_port: "where members reach qmesh on the control node",
        **dict.fromkeys(listen_ports, "WireGuard's"),
        SSH_PORT: "SSH's, and you would be locked out",
    }


def list_p2p_ports(inventory: Inventory) -> range:
    """The ports at which other provers reach workers, of any machine: they move with core numbers."""
    base = inventory.p2p_base_port
    return (
        range(base, base + sum(machine.workers or 0 for machine in inventory.machines)) if base else range(0)
    )


def list_known_ports(inventory: Inventory, name: str) -> frozenset[int]:
    """The ports of machine `name` of which the mesh says what they are: closed, left open, or public."""
    machine = inventory.machine(name)
    return frozenset(
        (
            *worker_ports(inventory, name),
            *list_p2p_ports(inventory),
            *PUBLIC_PORTS[inventory.node],
            *NODE_PORTS[inventory.node],
            *(each.port for each in machine.guarded_ports),
            *machine.left_open,
        )
    )
