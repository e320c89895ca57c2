"""`uninstall`: take off this machine all that qmesh put there, and tell what is open then."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import msgspec

from qmesh.agent.audit.saved_rules import find_saved_rules
from qmesh.agent.converge import apply_steps, warn_of_refusal
from qmesh.agent.local import Local, load_local
from qmesh.agent.metrics.directory import find_metrics_directory
from qmesh.agent.node import node_config
from qmesh.agent.preconditions import check_state, check_user
from qmesh.errors import QmeshError
from qmesh.host import files
from qmesh.host.config_directory import ConfigDirectory
from qmesh.host.firewall import firewall_units
from qmesh.host.linux import Linux, unload_guard
from qmesh.host.metrics.public_file import remove_public_file
from qmesh.host.network import ports, sysctl_files
from qmesh.host.network.ports import Listener
from qmesh.host.readers.place import remove_place
from qmesh.host.registry import Registry
from qmesh.host.state.directory import State
from qmesh.host.state.documents import LastBackup, Settings
from qmesh.host.system import installed_files, processes, single_agent
from qmesh.mesh.foreign.saved_rules import SavedRules
from qmesh.mesh.inventory import list_members, worker_ports
from qmesh.mesh.metrics.outlets import DEFAULT_DIRECTORY, FILE
from qmesh.mesh.nodeconfig import render_config
from qmesh.mesh.plan.compare import plan_steps
from qmesh.mesh.plan.steps import Step
from qmesh.mesh.ports.reserved_lists import StillReserved, list_still_reserved
from qmesh.mesh.state import NodeState
from qmesh.mesh.values import DEFAULT_INTERFACE

_END_S = 30.0


class UninstallResult(msgspec.Struct, frozen=True, kw_only=True):
    """What `uninstall` did.

    deleted, kept: paths. kept: what somebody edited or put there, and the state directory.
    ports: the worker ports that were closed, and are open now.
    listeners: who listens on them, beyond loopback.
    reserved: those that outgoing connections still may not take, and by whom.
    saved_rules: files with rules in which there is still a guard.
    """

    steps: tuple[Step, ...]
    deleted: tuple[str, ...]
    kept: tuple[str, ...]
    ports: tuple[int, ...]
    listeners: tuple[Listener, ...]
    guarded_ports: tuple[int, ...] = ()
    saved_rules: tuple[SavedRules, ...] = ()
    reserved: tuple[StillReserved, ...] = ()


class StateLoss(msgspec.Struct, frozen=True):
    """What is lost with the state of a control node that has members.

    name: this machine's. members: by name; None where the registry cannot be read.
    revision: of the mesh; None likewise. backed_up: the last backup; None where there was none.
    """

    name: str
    members: tuple[str, ...] | None
    revision: int | None
    backed_up: LastBackup | None


def find_state_loss(state: State) -> StateLoss | None:
    """What others lose with this machine's state; None where that is nothing, as on a member."""
    check_user("uninstall")
    settings, backed_up = state.find_valid_settings(), state.last_backup.read_valid()
    if files.read_mode(state.registry_file) is None:
        return None
    try:
        with Registry(state.registry_file) as registry:
            mesh = registry.inventory()
    except QmeshError:
        return None if settings is None else StateLoss(settings.name, None, None, backed_up)
    others = tuple(each.name for each in list_members(mesh) if each.name != mesh.control)
    return StateLoss(mesh.control, others, mesh.revision, backed_up) if others else None


def read_own_name(state: State) -> str | None:
    """What this machine is called in its mesh; None where it is in none, or that cannot be read."""
    check_user("uninstall")
    settings = state.find_valid_settings()
    return None if settings is None else settings.name


def uninstall(state: State, *, delete_state: bool) -> UninstallResult:
    """End qmesh on this machine. Cut off in the middle, it goes on when it is run again.

    What runs ends first, the guard goes next, and what would load it at boot only then: wherever
    this ends too early, the machine is closed or says what it is at the next boot.
    Raises BadInput where the guard is another state directory's, MachineRefused where something does
    not let itself be taken away.
    """
    check_user("uninstall")
    check_state(state, "uninstall")
    settings = state.find_valid_settings()
    closed, with_config = _list_own_ports(state)
    others: tuple[int, ...] = ()
    with contextlib.suppress(QmeshError):
        others = _list_others_ports(state, settings)
    installed_files.stop_units()
    for each in (state.agent_lock_file, state.undo_lock_file):
        processes.terminate_lock_owner(each, timeout_s=_END_S)
    steps = _remove_tunnel_and_guard(state, settings)
    left = _remove_metrics_file(settings)
    processes.terminate_lock_owner(state.hold_lock_file, timeout_s=_END_S)
    single_agent.remove_lock_directory()
    remove_place()
    deleted, kept = installed_files.delete_units()
    kept += left
    if delete_state:
        had_state = _has_files(state.directory)
        kept += installed_files.delete_state(state, with_config=with_config)
        # A directory that is a mount stays, and is empty.
        deleted += (state.directory,) if had_state and not _has_files(state.directory) else ()
    elif state.directory.exists():
        kept += (state.directory,)
    return UninstallResult(
        steps=steps,
        deleted=tuple(map(str, deleted)),
        kept=tuple(map(str, kept)),
        ports=closed,
        listeners=ports.find_listeners((*closed, *others)),
        guarded_ports=others,
        saved_rules=_find_saved_rules(state),
        reserved=_find_still_reserved((*closed, *others)),
    )


def _find_still_reserved(given_back: Iterable[int]) -> tuple[StillReserved, ...]:
    """Where the kernel's list cannot be read, nothing is said of it."""
    try:
        left = ports.read_reserved_ports().intersection(given_back)
    except QmeshError:
        left = frozenset()
    return list_still_reserved(left, sysctl_files.read_reserved_lists()) if left else ()


def _find_saved_rules(state: State) -> tuple[SavedRules, ...]:
    """Also where systemd does not tell which files are loaded: then of the usual ones."""
    try:
        units = firewall_units.read_firewall_units()
    except QmeshError:
        units = ()
    return find_saved_rules(state, units)[0]


def _list_own_ports(state: State) -> tuple[tuple[int, ...], bool]:
    """The worker ports, and whether the config.yml of the state directory is qmesh's alone.

    What is damaged is in nobody's way here.
    """
    with_config = False
    closed: tuple[int, ...] = ()
    with contextlib.suppress(QmeshError):
        closed = state.list_closed_ports()
        here = load_local(state)
        closed = worker_ports(here.inventory, here.settings.name)
        text = node_config.read(ConfigDirectory(state.worker_config_directory, None)).text
        with_config = text is not None and _render(here, text) == _render(here, None)
    return closed, with_config


def _list_others_ports(state: State, settings: Settings | None) -> tuple[int, ...]:
    """Ports of other programs that the guard closes; that of the agent's metrics goes with the agent."""
    served = None if settings is None or settings.metrics is None else settings.metrics.port
    return tuple(port for port in state.list_guarded_ports() if port != served)


def _has_files(directory: Path) -> bool:
    return directory.is_dir() and any(directory.iterdir())


def _render(here: Local, text: str | None) -> str:
    return render_config(here.inventory, here.settings.name, text).text


def _remove_metrics_file(settings: Settings | None) -> tuple[Path, ...]:
    """Remove the file for node_exporter, which would tell of this machine for ever; what was left of it."""
    directory = Path(DEFAULT_DIRECTORY) if settings is None else find_metrics_directory(settings)
    if directory is not None:
        try:
            remove_public_file(directory, FILE)
        except QmeshError:  # no reason to end in the middle
            return (directory / FILE,)
    return ()


def _remove_tunnel_and_guard(state: State, settings: Settings | None) -> tuple[Step, ...]:
    """Take away tunnel, reserved ports and guard."""
    if not state.directory.is_dir():
        return ()
    with state.lock():
        if settings is not None:
            # As `down --open` does: should this be cut off, nothing brings the half of it back.
            state.save_settings(msgspec.structs.replace(settings, up=False, guarded=False))
            state.rollback_record.remove()
        steps: tuple[Step, ...] = ()
        # Without settings there may be a tunnel all the same: they are lost, or a join was cut off.
        if settings is not None or state.has_leftover_state() or state.has_own_guard():
            interface = DEFAULT_INTERFACE if settings is None else settings.interface
            linux = Linux(state, interface, [])
            steps = apply_steps(linux, plan_steps(NodeState(guard=None, tunnel=None), linux.observe()))
            warn_of_refusal(linux)
        # Also what a machine without its tables may have of it.
        unload_guard(state)
    return steps
