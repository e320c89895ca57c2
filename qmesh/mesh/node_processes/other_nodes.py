"""Another node on the same machine, with a config directory of its own: its sockets are not this node's."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final

import msgspec

from qmesh.mesh.inventory import WILDCARD
from qmesh.mesh.node_processes.expected import ExpectedNode
from qmesh.mesh.node_processes.observed import ListeningSocket, NodeProcess, NodeSockets, Protocol

_WILDCARDS: Final = frozenset({WILDCARD, "::"})


class TakenPort(msgspec.Struct, frozen=True):
    """A port of this node's that another node has. directory: of that node's config.yml.

    core: of this node's worker; None for the control process.
    """

    protocol: Protocol
    address: str
    port: int
    process: NodeProcess
    directory: str
    core: int | None


def set_aside_other_nodes(seen: NodeSockets, directories: Mapping[int, str]) -> NodeSockets:
    """The sockets without those of other nodes. directories: of these, by the number of the process."""
    return NodeSockets(
        tuple(
            each for each in seen.listening if each.process is None or each.process.number not in directories
        ),
        tuple(each for each in seen.connections if each.process not in directories),
    )


def find_taken_ports(
    expected: ExpectedNode,
    control_ports: Collection[tuple[Protocol, int]],
    seen: NodeSockets,
    directories: Mapping[int, str],
) -> tuple[TakenPort, ...]:
    """The ports that this node should have and other nodes have, in the order of the sockets.

    control_ports: as of `list_control_ports`, at which the control process listens on every address.
    seen: all sockets. directories: as of `set_aside_other_nodes`.
    """
    ours = set_aside_other_nodes(seen, directories)
    held = {(each.protocol, each.port) for each in ours.listening}
    cores = {port: (address, core) for core, (address, port) in expected.cores.items()}

    def find_taken(each: ListeningSocket) -> Iterator[TakenPort]:
        directory = None if each.process is None else directories.get(each.process.number)
        if each.process is None or directory is None or (each.protocol, each.port) in held:
            return
        address, core = cores.get(each.port, ("", 0)) if each.protocol == "tcp" else ("", 0)
        if core and each.address in _WILDCARDS | {address}:
            yield TakenPort(each.protocol, each.address, each.port, each.process, directory, core)
        elif (each.protocol, each.port) in control_ports:
            yield TakenPort(each.protocol, each.address, each.port, each.process, directory, None)

    return tuple(taken for each in seen.listening for taken in find_taken(each))
