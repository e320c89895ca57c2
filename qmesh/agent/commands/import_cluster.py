"""`import`: look at a cluster that runs without qmesh, and propose how it becomes a mesh."""

from __future__ import annotations

from pathlib import Path

import msgspec

from qmesh.agent import node_config
from qmesh.agent.commands.init import profile_wanted
from qmesh.agent.local import load
from qmesh.errors import BadInput, NeedsRoot
from qmesh.host.config_directory import ConfigDirectory
from qmesh.host.network import routes
from qmesh.host.state.directory import State
from qmesh.mesh import nodeconfig
from qmesh.mesh.imports import (
    Joined,
    Mesh,
    Options,
    Proposal,
    Proposed,
    Reading,
    command_lines,
    machines_in_lines,
    machines_in_list,
    propose,
    script,
)
from qmesh.mesh.model import Profile, ip_address


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What `import` was asked for.

    lines: the machines as text, where they are not to be read from config.yml.
    here: addresses of this machine that none of its interfaces has.
    """

    config: Path | None
    lines: str | None
    node: Profile | None
    here: tuple[str, ...]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What `import` answers: a proposal, and the commands that do it."""

    node: Profile
    base_port: int
    machines: tuple[Proposed, ...]
    commands: tuple[str, ...]
    notes: tuple[str, ...]


def propose_mesh(state: State, wish: Wish) -> tuple[Answer, str]:
    """The proposal, and the same as a shell script. Nothing is changed, here or elsewhere.

    Raises BadInput where machines cannot be told or the file is damaged, and where this machine is a
    worker machine of a mesh; NeedsRoot where a file can be read by root only.
    """
    try:
        return _propose(state, wish)
    except PermissionError as error:
        raise NeedsRoot(
            f"{error.filename} cannot be read by this user; nothing was changed", hint="sudo qmesh import"
        ) from None


def _propose(state: State, wish: Wish) -> tuple[Answer, str]:
    mesh, node = _mesh(state)
    directory = node_config.find_directory(wish.config)
    profile = profile_wanted(wish.node or node, directory)
    if node is not None and profile != node:
        raise BadInput(f"the mesh is for node {node}", hint="leave --node out")
    here = frozenset(map(ip_address, wish.here))
    reading = _reading(wish, directory, profile, routes.own_addresses() | here)
    listed = {address for machine in reading.machines for address in machine.addresses}
    if here - listed:
        raise BadInput(
            f"--here {min(here - listed)} is not in the list", hint="name an address as it is there"
        )
    default = nodeconfig.facts(profile).base_port
    proposal = propose(reading, profile, default, mesh)
    control = next(machine for machine in reading.machines if machine.control)
    options = Options(
        init=mesh is None,
        control_endpoints=control.addresses if here else (),
        base_port=proposal.base_port != default,
        config=None if directory is None else str(directory),
    )
    return _answer(proposal, options), script(proposal, options)


def _answer(proposal: Proposal, options: Options) -> Answer:
    return Answer(
        node=proposal.node,
        base_port=proposal.base_port,
        machines=proposal.machines,
        commands=command_lines(proposal, options),
        notes=proposal.notes,
    )


def _mesh(state: State) -> tuple[Mesh | None, Profile | None]:
    """The mesh that there is already, and its profile."""
    settings = state.settings_or_none()
    if settings is None:
        return None, None
    if not settings.control:
        raise BadInput(
            f"this machine is a worker machine of mesh {settings.mesh} already",
            hint="run `qmesh import` on the control machine",
        )
    inventory = load(state).inventory
    machines = tuple(
        Joined(
            name=machine.name,
            active=machine.state == "active",
            workers=machine.workers,
            addresses=frozenset({machine.address, *(endpoint.host for endpoint in machine.endpoints)}),
        )
        for machine in inventory.machines
    )
    return Mesh(control=inventory.control, base_port=inventory.base_port, machines=machines), inventory.node


def _reading(
    wish: Wish, directory: ConfigDirectory | None, profile: Profile, own_addresses: frozenset[str]
) -> Reading:
    if wish.lines is not None:
        return machines_in_lines(wish.lines, own_addresses)
    if directory is None:
        raise BadInput(
            "there is no .config/config.yml here", hint="name the node's config directory with --config"
        )
    text = node_config.read(directory).text
    if text is None:
        raise BadInput(
            f"there is no config.yml in {directory}", hint="name the node's config directory with --config"
        )
    reading = machines_in_list(text, nodeconfig.workers_in(text, profile) or (), own_addresses)
    return msgspec.structs.replace(reading, notes=(*_notes_on_keys(text, profile, wish), *reading.notes))


def _notes_on_keys(text: str, profile: Profile, wish: Wish) -> tuple[str, ...]:
    found = nodeconfig.detect(text)
    unsure = (
        ()
        if found or wish.node
        else (f"config.yml does not tell the node's version: is it {profile}? if not, --node",)
    )
    ignored = (
        f"config.yml, line {key.line}, column {key.column}: the node ignores {key.key} silently"
        for key in nodeconfig.misplaced(text, profile)
    )
    return (*unsure, *ignored)
