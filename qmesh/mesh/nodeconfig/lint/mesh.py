"""The list that the control process dials, against the mesh."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterator
from functools import cached_property
from typing import Final

import msgspec

from qmesh.mesh.nodeconfig.document import Mark
from qmesh.mesh.nodeconfig.lint.entries import Entry, ListedEntries, classify_address
from qmesh.mesh.nodeconfig.lint.problems import ExpectedMesh, Problem, build_error, summarize_by_kind
from qmesh.mesh.nodeconfig.multiaddr import parse_multiaddr
from qmesh.mesh.values import format_ip_address, name_cores

_RENDER: Final = "write the mesh's list: `qmesh render-config --write`"


class _MeshIndex(msgspec.Struct, frozen=True, dict=True):
    """The mesh, as entries are held against it."""

    mesh: ExpectedMesh

    @cached_property
    def network(self) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
        return ipaddress.ip_network(self.mesh.network)

    @cached_property
    def names(self) -> dict[str, str]:
        return {address: name for name, address in self.mesh.members.items()}

    @cached_property
    def core_addresses(self) -> tuple[tuple[str, int], ...]:
        """Address and port of each core."""
        return tuple(parse_multiaddr(worker) for worker in self.mesh.workers)

    def describe_expected(self, core: int) -> str:
        """What should be at a core, as the end of a sentence."""
        if core > len(self.core_addresses):
            return ", and the mesh has no such core"
        address, _ = self.core_addresses[core - 1]
        name = self.names.get(address)
        return f" instead of {address}" if name is None else f" instead of the tunnel address of {name}"


def find_mesh_problems(mesh: ExpectedMesh, dialled: ListedEntries | None, place: Mark) -> Iterator[Problem]:
    """Entries that lead elsewhere, and cores that have none. place: where to say the latter."""
    against = _MeshIndex(mesh)
    entries = dialled.entries if dialled else ()
    wrong = [problem for entry in entries if (problem := _check_address(entry, against))]
    yield from summarize_by_kind(problem for _, problem in wrong)
    # Whose place holds what is named already is not missing besides.
    told = {core for core, _ in wrong} | {entry.core for entry in entries if entry.address is None}
    there = {(format_ip_address(each.address), each.port) for each in entries if each.address is not None}
    yield from _check_missing_cores(against, place, told, there)


def _check_address(entry: Entry, against: _MeshIndex) -> tuple[int, Problem] | None:
    """The core with its problem, where it has another address than a machine of the mesh."""
    address = entry.address
    if address is None or format_ip_address(address) in against.names or entry.is_placeholder:
        return None
    # Where streams are public, that is a public address, which no tunnel has.
    if against.core_addresses[entry.core - 1 : entry.core] == ((str(address), entry.port),):
        return None
    if address in against.network:
        message = f"core {entry.core} is at {address}, and no machine of the mesh has that address"
        return entry.core, build_error(entry.mark, "stranger", message, _RENDER, cured=True)
    kind = classify_address(address)
    message = f"core {entry.core} has a {kind} address{against.describe_expected(entry.core)}"
    return entry.core, build_error(entry.mark, kind, message, _RENDER, cured=True)


def _check_missing_cores(
    against: _MeshIndex, place: Mark, told: Collection[int], there: Collection[tuple[str, int]]
) -> Iterator[Problem]:
    cores: dict[str, list[int]] = {}
    for core, worker in enumerate(against.core_addresses, 1):
        if worker not in there and core not in told:
            cores.setdefault(against.names.get(worker[0], worker[0]), []).append(core)
    if cores:
        (name, first), *others = cores.items()
        which = f"{name_cores(first)} of {name}"
        more = f", nor for those of {len(others)} other machine{'s' * (len(others) > 1)}" if others else ""
        yield build_error(place, "missing", f"there is no entry for {which}{more}", _RENDER, cured=True)
