"""`set`: change a machine, or the whole mesh."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

import msgspec

from qmesh.agent.agent_start import warn_without_agent
from qmesh.agent.mesh_change import ChangeResult, change_mesh
from qmesh.agent.metrics.directory import find_metrics_directory
from qmesh.agent.node.node_program import warn_of_other_programs
from qmesh.agent.preconditions import check_user, lock_member
from qmesh.errors import BadInput, QmeshError
from qmesh.host.metrics.listen import refuse_taken_port
from qmesh.host.metrics.public_file import is_directory, remove_public_file
from qmesh.host.network.ssh_ports import find_ssh_ports
from qmesh.host.readers.group import find_group_number, list_group_members
from qmesh.host.readers.place import remove_place
from qmesh.host.state.directory import State
from qmesh.host.state.documents import Settings
from qmesh.host.system import ssh_session
from qmesh.mesh import changes
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.machine import validate_worker_count
from qmesh.mesh.mesh_options import MeshOptions, set_mesh_options
from qmesh.mesh.metrics.outlets import FILE, is_loopback, parse_metrics_address, refuse_metrics_address
from qmesh.mesh.ports.port_options import PortOptions, set_port_options
from qmesh.mesh.reachability.public_host import parse_public_host
from qmesh.mesh.systemd.sandbox import is_shut_from_agent
from qmesh.mesh.values import DEFAULT_LISTEN_PORT, Endpoint, quote_text
from qmesh.mesh.view.questions import validate_group_name

log = logging.getLogger("qmesh")


def set_machine(
    state: State,
    name: str,
    *,
    workers: int | None,
    endpoints: tuple[str, ...] | None,
    node_files: bool | None = None,
    ports: PortOptions | None = None,
    announce: str | None = None,
) -> ChangeResult:
    """Another count of workers for a machine, other endpoints, or other ports that are closed or left open.

    endpoints: HOST[:PORT] each; an empty tuple for none. node_files: whether it may fetch the node's files.
    announce: where the node's network reaches it; `none` for no word of that.
    """
    count = None if workers is None else validate_worker_count(workers)
    for text in endpoints or ():
        Endpoint.parse(text)
    host = None if announce is None or announce == "none" else parse_public_host(announce)

    def apply_changes(mesh: Inventory) -> Inventory:
        revision = mesh.revision
        if count is not None:
            mesh = changes.set_worker_count(mesh, name, count)
        if endpoints is not None:
            port = _find_listen_port(state, mesh, name)
            reached = [Endpoint.parse(text, default_port=port) for text in endpoints]
            mesh = changes.set_endpoints(mesh, name, reached)
        if announce is not None:
            mesh = changes.set_announced_host(mesh, name, host)
        if node_files is not None:
            if name == mesh.control:
                raise BadInput(
                    f"{name} is the control node, which has the node's files itself",
                    hint="name a machine that should fetch them: `qmesh set NAME --node-files on`",
                )
            mesh = changes.set_machine_fields(mesh, name, node_files=node_files)
        if ports is not None:
            settings = state.settings()
            is_here = name == settings.name
            owners = _find_port_owners(settings, ports) if is_here else {}
            mesh = set_port_options(
                mesh, name, ports, owners, listen_port=settings.listen_port if is_here else None
            )
        return mesh if mesh.revision == revision else msgspec.structs.replace(mesh, revision=revision + 1)

    return change_mesh(state, apply_changes, command="set", what="machine-changed", machine=name)


def _find_listen_port(state: State, mesh: Inventory, name: str) -> int:
    """Where a machine is reached whose endpoint is told without a port: where it was before."""
    settings, known = state.settings(), mesh.machine(name).endpoints
    if name == settings.name:
        return settings.listen_port
    return known[0].port if known else DEFAULT_LISTEN_PORT


def _find_port_owners(settings: Settings, ports: PortOptions) -> dict[int, str]:
    """Which ports of this machine must not be closed as asked, in words, besides what the mesh says."""
    served = find_ssh_ports((), with_sessions=ports.closed or ())
    found = dict.fromkeys(served, "where SSH listens, and you would be locked out")
    session, metrics = ssh_session.find_session(os.getpid()), settings.metrics
    if session is not None:
        found[session.server_port] = "that of your own SSH session"
    if ports.source == "mesh" and metrics is not None and not is_loopback(metrics):
        found.setdefault(metrics.port, "where metrics are served, and members must not have them")
    return found


class MetricsSettings(msgspec.Struct, frozen=True):
    """Where this machine's metrics go, as of `Settings`. is_another: whether that has changed."""

    is_another: bool
    metrics: str | None
    metrics_directory: str | None


def set_metrics(state: State, *, place: str | None, directory: str | None) -> MetricsSettings:
    """Another address, or another directory, for this machine's metrics; None leaves it as it is.

    place: ADDRESS:PORT, or `none`. directory: a path, `none`, or `default`.
    Raises BadInput for what is not this machine's, or somebody's already, and where the agent can't write.
    """
    check_user("set --metrics")
    wanted = None if place in {None, "none"} else parse_metrics_address(place or "")
    if directory is not None and directory not in {"none", "default"} and not directory.startswith("/"):
        raise BadInput(
            f"{quote_text(directory)} is not an absolute path",
            hint="pass the directory as a path that begins with /; or `none`, or `default`",
        )
    if directory is not None and directory.startswith("/") and is_shut_from_agent(directory):
        raise BadInput(
            f"the agent cannot write to {quote_text(directory)}: its unit shuts it out there",
            hint="have node_exporter look at a directory in /var/lib, by its option"
            " `--collector.textfile.directory`, and pass that one",
        )
    ends = {place, directory} <= {None, "none"}
    with lock_member(state, "set --metrics none" if ends else "set --metrics") as here:
        old = settings = here.settings
        if wanted is not None and wanted != old.metrics:
            owners = {settings.listen_port: "WireGuard's"}
            served = find_ssh_ports([wanted.port])
            owners |= dict.fromkeys(served, "where SSH listens, and you would be locked out")
            refuse_metrics_address(here.inventory, settings.name, wanted, owners)
            refuse_taken_port(wanted)
        if place is not None:
            settings = msgspec.structs.replace(settings, metrics=wanted)
        if directory is not None:
            said = {"none": "", "default": None}.get(directory, directory)
            settings = msgspec.structs.replace(settings, metrics_directory=said)
        before, chosen = find_metrics_directory(old), find_metrics_directory(settings)
        if before != chosen:
            # First: cut off after the change, the same command would not know of it any more.
            _remove_metrics_file(before)
        if settings != old:
            state.save_settings(settings)
    if before != chosen:  # the agent may have written it once more, and have ended since
        _remove_metrics_file(before)
    _warn_of_missing_metrics(state, settings, chosen)
    return MetricsSettings(
        is_another=settings != old,
        metrics=None if settings.metrics is None else str(settings.metrics),
        metrics_directory=None if chosen is None else str(chosen),
    )


def _warn_of_missing_metrics(state: State, settings: Settings, directory: Path | None) -> None:
    """Say why what was just set will not be there in seconds."""
    if directory is not None and not is_directory(directory):
        log.warning(
            "nothing is written yet: there is no directory %s (hint: make it)", quote_text(str(directory))
        )
    if directory is not None or settings.metrics is not None:
        warn_without_agent(state, "to serve or write metrics")


def _remove_metrics_file(directory: Path | None) -> None:
    """Remove node_exporter's file, where it is and can be removed: it would be read for ever."""
    if directory is not None:
        with contextlib.suppress(QmeshError):
            remove_public_file(directory, FILE)


class ReaderSettings(msgspec.Struct, frozen=True):
    """Who may look at this machine's mesh. is_another: whether that has changed.

    readers: a group; None for nobody but root. members: the users in it besides those whose own group it is.
    """

    is_another: bool
    readers: str | None
    members: tuple[str, ...]


def set_readers(state: State, group: str) -> ReaderSettings:
    """Let the members of a group look, or nobody but root where it is `none`.

    Raises BadInput where this machine has no such group, or it can't be told who is in it.
    """
    check_user("set --readers")
    wanted = None if group == "none" else validate_group_name(group)
    if wanted is not None:
        find_group_number(wanted)
    with lock_member(state, "set --readers none" if wanted is None else "set --readers") as here:
        old = here.settings
        if wanted != old.readers:
            state.save_settings(msgspec.structs.replace(old, readers=wanted))
    if wanted is None:  # no agent may run that would
        remove_place()
    else:
        warn_without_agent(state, "to answer readers")
    return ReaderSettings(
        is_another=wanted != old.readers,
        readers=wanted,
        members=() if wanted is None else list_group_members(wanted),
    )


class ProvingSettings(msgspec.Struct, frozen=True):
    """Whether this machine's agent proves its claims. is_another: whether that has changed."""

    is_another: bool
    prove: bool


def set_proving(state: State, *, prove: bool) -> ProvingSettings:
    """Have this machine's agent prove after each change of rules, or not."""
    check_user("set --prove")
    with lock_member(state, "set --prove") as here:
        old = here.settings
        if prove != old.prove:
            state.save_settings(msgspec.structs.replace(old, prove=prove))
    return ProvingSettings(is_another=prove != old.prove, prove=prove)


def set_options(state: State, options: MeshOptions) -> ChangeResult:
    """Other options for the whole mesh."""
    done = change_mesh(
        state,
        lambda mesh: set_mesh_options(mesh, options),
        command="set",
        what="mesh-changed",
        machine=None,
    )
    if options.node is not None:
        warn_of_other_programs(state.settings().node_directory, options.node)
    return done
