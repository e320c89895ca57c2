"""One machine of a cluster, as a worker list or a file of lines has it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from qmesh.mesh.values import parse_ip_address


class ListedMachine(msgspec.Struct, frozen=True, kw_only=True):
    """A machine of the cluster.

    control: whether it will be the control node.
    addresses: where it is, as listed and canonical, the first one first; none for a control machine
        without workers. Those that every machine calls its own, such as 127.0.0.1, are left out.
    was: its core numbers, ascending; none where they are not known.
    ports: of these cores, in their order; none where they are not known.
    workers: None where only the machine itself can tell.
    user, ssh_port: how to log in by ssh; None where that was not said.
    """

    control: bool
    addresses: tuple[str, ...]
    was: tuple[int, ...] = ()
    ports: tuple[int, ...] = ()
    workers: int | None = None
    user: str | None = None
    ssh_port: int | None = None


class ImportedMachines(msgspec.Struct, frozen=True):
    """What was read: the machines by their first core, one of them the control machine; and notes.

    master_proxy: whether other provers come via the control process, and the mesh has to be told so.
    """

    machines: tuple[ListedMachine, ...]
    notes: tuple[str, ...] = ()
    master_proxy: bool = False


def is_loopback_or_unspecified(address: str) -> bool:
    """Whether each machine calls the address its own: loopback, `0.0.0.0`, `::`."""
    parsed = parse_ip_address(address)
    return parsed is not None and (parsed.is_loopback or parsed.is_unspecified)


def has_gap(cores: Sequence[int]) -> bool:
    """Whether other machines' cores lie between these, which ascend and are one machine's."""
    return cores[-1] - cores[0] + 1 > len(cores)
