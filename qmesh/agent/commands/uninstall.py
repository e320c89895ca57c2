"""`uninstall`: take off this machine all that qmesh put there, and tell what is open then."""

from __future__ import annotations

import contextlib
import logging

import msgspec

from qmesh.agent import node_config
from qmesh.agent.converge import take
from qmesh.agent.local import load, refuse_foreign_guard, require_root
from qmesh.errors import QmeshError, StateUnreadable
from qmesh.host import files
from qmesh.host.config_directory import ConfigDirectory
from qmesh.host.linux import Linux, unload_guard
from qmesh.host.network import ports
from qmesh.host.network.ports import Listener
from qmesh.host.registry import Registry
from qmesh.host.state.directory import State
from qmesh.host.state.documents import BackedUp, Settings
from qmesh.host.system import installed_files, processes, single_agent
from qmesh.mesh.inventory import members, ports_of
from qmesh.mesh.model import DEFAULT_INTERFACE, NodeState
from qmesh.mesh.plan import Step, plan

log = logging.getLogger("qmesh")

_END_S = 30.0


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    """What `uninstall` did.

    deleted, kept: paths. kept: what somebody edited or put there, and the state directory.
    ports: the worker ports that were closed, and are open now.
    listeners: who listens on them, beyond loopback.
    """

    steps: tuple[Step, ...]
    deleted: tuple[str, ...]
    kept: tuple[str, ...]
    ports: tuple[int, ...]
    listeners: tuple[Listener, ...]


class Stake(msgspec.Struct, frozen=True):
    """What is lost with the state of a control node that has members.

    name: this machine's. members: by name; None where the registry cannot be read.
    revision: of the mesh; None likewise. backed_up: the last backup; None where there was none.
    """

    name: str
    members: tuple[str, ...] | None
    revision: int | None
    backed_up: BackedUp | None


def at_stake(state: State) -> Stake | None:
    """What others lose with this machine's state; None where that is nothing, as on a member."""
    require_root("qmesh uninstall")
    settings, backed_up = None, None
    with contextlib.suppress(StateUnreadable):
        settings = state.settings_or_none()
    with contextlib.suppress(StateUnreadable):
        backed_up = state.backed_up()
    if files.mode_of(state.registry_file) is None:
        return None
    try:
        with Registry(state.registry_file) as registry:
            mesh = registry.inventory()
    except QmeshError:
        return None if settings is None else Stake(settings.name, None, None, backed_up)
    others = tuple(each.name for each in members(mesh) if each.name != mesh.control)
    return Stake(mesh.control, others, mesh.revision, backed_up) if others else None


def own_name(state: State) -> str | None:
    """What this machine is called in its mesh; None where it is in none, or that cannot be read."""
    with contextlib.suppress(QmeshError):
        settings = state.settings_or_none()
        return None if settings is None else settings.name
    return None


def uninstall(state: State, *, delete_state: bool) -> Removed:
    """End qmesh on this machine. Cut off in the middle, it goes on when it is run again.

    What runs ends first, the guard goes next, and what would load it at boot only then: wherever
    this ends too early, the machine is closed or says what it is at the next boot.
    Raises BadInput where the guard is another state directory's, MachineRefused where something does
    not let itself be taken away.
    """
    require_root("qmesh uninstall")
    refuse_foreign_guard(state)
    settings, closed, with_config = _remembered(state)
    installed_files.stop_units()
    for each in (state.agent_lock_file, state.undo_lock_file):
        processes.end(each, timeout_s=_END_S)
    steps = _opened(state, settings)
    processes.end(state.hold_lock_file, timeout_s=_END_S)
    single_agent.forget()
    deleted, kept = installed_files.delete_units()
    if delete_state:
        kept += installed_files.delete_state(state, with_config=with_config)
        deleted += () if state.directory.exists() else (state.directory,)
    elif state.directory.exists():
        kept += (state.directory,)
    return Removed(
        steps=steps,
        deleted=tuple(map(str, deleted)),
        kept=tuple(map(str, kept)),
        ports=closed,
        listeners=ports.listening_on(closed),
    )


def _remembered(state: State) -> tuple[Settings | None, tuple[int, ...], bool]:
    """The settings, the worker ports, and whether the config.yml of the state directory is qmesh's alone.

    What is damaged is in nobody's way here.
    """
    settings, with_config = None, False
    closed: tuple[int, ...] = ()
    with contextlib.suppress(StateUnreadable):
        settings = state.settings_or_none()
    with contextlib.suppress(QmeshError):
        closed = state.ports_closed()
        here = load(state)
        closed = ports_of(here.inventory, here.settings.name)
        text = node_config.read(ConfigDirectory(state.worker_config_directory, None)).text
        with_config = text is not None and node_config.render(here, text) == node_config.render(here, None)
    return settings, closed, with_config


def _opened(state: State, settings: Settings | None) -> tuple[Step, ...]:
    """Take away tunnel, reserved ports and guard."""
    if not state.directory.is_dir():
        return ()
    with state.lock():
        if settings is not None:
            # As `down --open` does: should this be cut off, nothing brings the half of it back.
            state.save_settings(msgspec.structs.replace(settings, up=False, guarded=False))
            state.save_undoing(None)
        steps: tuple[Step, ...] = ()
        if settings is not None or _has_more_than_keys(state):
            interface = DEFAULT_INTERFACE if settings is None else settings.interface
            linux = Linux(state, interface, [])
            steps = take(linux, plan(NodeState(guard=None, tunnel=None), linux.observe()))
        # Also what a machine without its tables may have of it.
        unload_guard(state)
    return steps


def _has_more_than_keys(state: State) -> bool:
    """Whether there may be a tunnel, though the settings are lost or a join was cut off."""
    guards = (state.guard_file, state.held_file)
    return state.holds_a_rest() or any(files.mode_of(path) is not None for path in guards)
