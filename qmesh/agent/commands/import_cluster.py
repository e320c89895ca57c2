"""`import`: look at a cluster that runs without qmesh, and propose how it becomes a mesh."""

from __future__ import annotations

from pathlib import Path

import msgspec

from qmesh.agent.local import load_local
from qmesh.agent.node import node_config, node_directory
from qmesh.agent.node.node_program import choose_profile
from qmesh.errors import BadInput, NeedsRoot
from qmesh.host.config_directory import ConfigDirectory
from qmesh.host.network import routes
from qmesh.host.state.directory import State
from qmesh.mesh import nodeconfig
from qmesh.mesh.imports.commands import ScriptOptions, command_lines, render_script
from qmesh.mesh.imports.lines import parse_machine_lines
from qmesh.mesh.imports.machine import ImportedMachines
from qmesh.mesh.imports.proposal import (
    ExistingMachine,
    ExistingMesh,
    Proposal,
    ProposedMachine,
    build_proposal,
)
from qmesh.mesh.imports.worker_list import find_machines_in_list, list_config_notes, uses_master_proxy
from qmesh.mesh.reachability.unsupported_options import refuse_unsupported_options
from qmesh.mesh.values import Profile, normalize_ip_address


class ImportOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What `import` was asked for.

    lines: the machines as text, where they are not to be read from config.yml.
    here: addresses of this machine that none of its interfaces has.
    """

    config: Path | None
    lines: str | None
    node: Profile | None
    here: tuple[str, ...]


class ImportResult(msgspec.Struct, frozen=True, kw_only=True):
    """What `import` answers: a proposal, and the commands that do it."""

    node: Profile
    base_port: int
    machines: tuple[ProposedMachine, ...]
    commands: tuple[str, ...]
    notes: tuple[str, ...]


def propose_mesh(state: State, wish: ImportOptions) -> tuple[ImportResult, str]:
    """The proposal, and the same as a shell script. Nothing is changed, here or elsewhere.

    Raises BadInput where machines cannot be told or the file is damaged, and where this machine is a
    worker machine of a mesh; NeedsRoot where a file can be read by root only.
    """
    try:
        return _build_mesh_proposal(state, wish)
    except PermissionError as error:
        raise NeedsRoot(
            f"{error.filename} cannot be read by this user; nothing was changed",
            hint="run `sudo qmesh import`",
        ) from None


def _build_mesh_proposal(state: State, wish: ImportOptions) -> tuple[ImportResult, str]:
    mesh, node = _read_existing_mesh(state)
    directory = node_directory.find_directory(wish.config)
    profile, is_guess = choose_profile(wish.node or node, directory)
    if node is not None and profile != node:
        raise BadInput(f"the mesh is for node {node}", hint=f"leave --node out, or pass `--node {node}`")
    here = frozenset(map(normalize_ip_address, wish.here))
    reading = _read_machines(wish, directory, profile, routes.list_own_addresses() | here)
    if is_guess:
        guess = f"node {profile} is a guess, as no config.yml was found here; otherwise pass --node"
        reading = msgspec.structs.replace(reading, notes=(guess, *reading.notes))
    listed = {address for machine in reading.machines for address in machine.addresses}
    if here - listed:
        raise BadInput(
            f"--here {min(here - listed)} is not in the list", hint="pass an address that is in the list"
        )
    default = nodeconfig.profile_facts(profile).base_port
    proposal = build_proposal(reading, profile, default, mesh)
    control = next(machine for machine in reading.machines if machine.control)
    options = ScriptOptions(
        init=mesh is None,
        control_endpoints=control.addresses if here else (),
        base_port=proposal.base_port != default,
        config=None if directory is None else str(directory),
        master_proxy=reading.master_proxy,
    )
    return _build_result(proposal, options), render_script(proposal, options)


def _build_result(proposal: Proposal, options: ScriptOptions) -> ImportResult:
    return ImportResult(
        node=proposal.node,
        base_port=proposal.base_port,
        machines=proposal.machines,
        commands=command_lines(proposal, options),
        notes=proposal.notes,
    )


def _read_existing_mesh(state: State) -> tuple[ExistingMesh | None, Profile | None]:
    """The mesh that there is already, and its profile."""
    settings = state.find_settings()
    if settings is None:
        return None, None
    if not settings.control:
        raise BadInput(
            f"this machine is already a worker machine of mesh {settings.mesh}",
            hint="run `qmesh import` on the control machine",
        )
    inventory = load_local(state).inventory
    refuse_unsupported_options(inventory, {})
    machines = tuple(
        ExistingMachine(
            name=machine.name,
            active=machine.state == "active",
            workers=machine.workers,
            addresses=frozenset({machine.address, *(endpoint.host for endpoint in machine.endpoints)}),
        )
        for machine in inventory.machines
    )
    return ExistingMesh(
        control=inventory.control, base_port=inventory.base_port, machines=machines
    ), inventory.node


def _read_machines(
    wish: ImportOptions, directory: ConfigDirectory | None, profile: Profile, own_addresses: frozenset[str]
) -> ImportedMachines:
    if wish.lines is not None:
        return parse_machine_lines(wish.lines, own_addresses)
    if directory is None:
        raise BadInput(
            "there is no .config/config.yml here", hint="pass the node's config directory with --config"
        )
    text = node_config.read(directory).text
    if text is None:
        raise BadInput(
            f"there is no config.yml in {directory}", hint="pass the node's config directory with --config"
        )
    config = nodeconfig.parse_config(text)
    reading = find_machines_in_list(config, nodeconfig.read_workers(config, profile) or (), own_addresses)
    return msgspec.structs.replace(
        reading,
        notes=(*list_config_notes(config, profile, is_sure=wish.node is not None), *reading.notes),
        master_proxy=uses_master_proxy(config, profile),
    )
