"""What `init`, `join` and `restore` have in common: their options, and at the end guard and tunnel."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from qmesh.agent.converge import converge, plan_steps_without_dns, revert_on_failure, warn_of_refusal
from qmesh.agent.local import Local, linux_for, with_tunnel_and_guard
from qmesh.agent.node.node_directory import find_directory
from qmesh.agent.ssh_lockout import warn_of_ssh_lockout
from qmesh.errors import RemovedFromMesh
from qmesh.host.linux import Linux
from qmesh.host.state.directory import State
from qmesh.host.state.documents import LocalOptions
from qmesh.mesh.reachability.public_host import parse_public_host
from qmesh.mesh.values import (
    DEFAULT_INTERFACE,
    DEFAULT_LISTEN_PORT,
    Endpoint,
    validate_interface_name,
    validate_port,
)


class GivenOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a command that makes this machine part of a mesh was asked for; None where it was left to qmesh.

    take_over: also what an earlier qmesh left whose state is gone.
    announce: where the node's network reaches this machine.
    """

    config: Path | None
    listen_port: int | None
    interface: str | None
    take_over: bool = False
    announce: str | None = None


def check_options(given: GivenOptions, *, endpoint: Endpoint | None = None) -> LocalOptions:
    """The same, valid. endpoint: where WireGuard is reached, whose port it then has. Raises BadInput."""
    directory = find_directory(given.config)
    usual = DEFAULT_LISTEN_PORT if endpoint is None else endpoint.port
    return LocalOptions(
        interface=validate_interface_name(DEFAULT_INTERFACE if given.interface is None else given.interface),
        listen_port=usual if given.listen_port is None else validate_port(given.listen_port, "listen port"),
        config_directory=directory,
        endpoint=endpoint,
        announce=None if given.announce is None else parse_public_host(given.announce),
    )


def bring_up(
    state: State, here: Local, *, revert: bool = False, follow_roaming: bool = False
) -> tuple[Local, Linux]:
    """Bring the guard up, then the tunnel; a warning first where that cuts the SSH session of this command.

    revert: on failure the machine is put back as it was. follow_roaming: as `converge` has it.
    Returns what the machine remembers now, and the machine. Raises MachineRefused, Removed.
    """
    here = enable_tunnel_and_guard(state, here)
    linux = linux_for(state, here.settings)
    warn_of_ssh_lockout(linux, plan_steps_without_dns(here, linux))
    with revert_on_failure(linux, back_to=linux.observe()) if revert else contextlib.nullcontext():
        converge(here, linux, follow_roaming=follow_roaming)
    warn_of_refusal(linux)
    return here, linux


def enable_tunnel_and_guard(state: State, here: Local, *, keep_undoing: bool = False) -> Local:
    """End what `down` or `--no-apply` said, and remember it; so ends that the machine was put back.

    keep_undoing: this is a change that is undone unless it is confirmed.
    Raises Removed where the mesh has it no more.
    """
    if here.settings.removed:
        raise RemovedFromMesh
    risen_here = with_tunnel_and_guard(here)
    if risen_here.settings != here.settings:
        state.save_settings(risen_here.settings)
    if not keep_undoing:
        state.rollback_record.remove()
    return risen_here
