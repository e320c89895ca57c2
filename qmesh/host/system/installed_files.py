"""What qmesh has installed on this machine's disk: how to find and remove it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from qmesh.host import files
from qmesh.host.log import log_outlets
from qmesh.host.network import reserved_ports
from qmesh.host.state.directory import State
from qmesh.host.system import disk_reserve, systemd
from qmesh.host.system.systemd import UNIT_DIRECTORY
from qmesh.mesh.systemd.units import (
    AFTER_FLUSH,
    AGENT,
    BOOT_GUARD,
    CONTROL_PROCESS,
    HOLDER,
    UNDO,
    WORKER,
    WORKERS,
)

_KNOWN = (AGENT, BOOT_GUARD, HOLDER, UNDO, CONTROL_PROCESS, WORKER, WORKERS, AFTER_FLUSH)


def list_units() -> dict[str, bool]:
    """The units of qmesh that systemd has, by file name, and whether each is as qmesh made it."""
    names = {*_KNOWN, *(path.name for path in UNIT_DIRECTORY.glob("qmesh*.*"))}
    found = {name: systemd.is_unedited_file(UNIT_DIRECTORY / name) for name in sorted(names)}
    # Another program's, though it is named like one of qmesh's.
    return {name: made for name, made in found.items() if made or (made is not None and name in _KNOWN)}


def stop_units() -> None:
    """Stop what runs, the node first; all but the guard, which stays until it is unloaded."""
    if systemd.is_systemd_running():
        _run_systemctl("stop", set(list_units()) - {BOOT_GUARD, HOLDER, AFTER_FLUSH})


def delete_units() -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Stop and disable all units, and delete those that were not edited; the deleted ones and the kept ones.

    A unit that a user edited is stopped and disabled, and its file stays.
    """
    found = list_units()
    if systemd.is_systemd_running():
        _run_systemctl("stop", set(found) - {AFTER_FLUSH})
        _run_systemctl("disable", set(found) - {AFTER_FLUSH})
    deleted = tuple(UNIT_DIRECTORY / name for name, made in found.items() if made)
    for path in deleted:
        files.remove(path)
    with contextlib.suppress(OSError):  # others have drop-ins for that unit too, or there is none
        (UNIT_DIRECTORY / AFTER_FLUSH).parent.rmdir()
    if systemd.is_systemd_running():
        systemd.run_systemctl("daemon-reload")
        systemd.run_systemctl("reset-failed", "qmesh*")
    return deleted, tuple(UNIT_DIRECTORY / name for name, made in found.items() if not made)


def _run_systemctl(verb: str, names: Iterable[str]) -> None:
    wanted = sorted(names)
    if verb == "stop":  # of a template all that run
        wanted = [name.replace("@.", "@*.") for name in wanted]
    if wanted:
        systemd.run_systemctl(verb, *wanted)


def delete_state(state: State, *, with_config: bool, keep_private_key: bool = False) -> tuple[Path, ...]:
    """Delete the state directory; what is in it that qmesh did not make stays. Returns what was kept.

    with_config: also the node's config.yml in it. keep_private_key: this machine's key stays.
    """
    directory, node = state.directory, state.worker_config_directory
    if not directory.is_dir():
        return ()
    state.remove_mesh_state(keep_private_key=keep_private_key)
    state.remove_temporary_files()
    for path in _list_state_files(state):
        files.remove(path)
    if with_config:
        files.remove(node / "config.yml")
        files.remove(node / "config.yml.bak")
    for folder in (node, directory):
        with contextlib.suppress(OSError):  # something is in it
            folder.rmdir()
    return tuple(sorted(directory.iterdir())) if directory.is_dir() else ()


def _list_state_files(state: State) -> tuple[Path, ...]:
    """Those that `State.remove_mesh_state` leaves."""
    return (
        state.guard_file,
        state.held_file,
        state.agent_socket,
        state.findings_socket,
        state.health_socket,
        state.notify_socket,
        state.questions_socket,
        state.hold_socket,
        state.hold_lock_file,
        state.agent_lock_file,
        state.undo_lock_file,
        state.log_file,
        Path(log_outlets.build_rotated_path(str(state.log_file))),
        state.directory / reserved_ports.REMEMBERED,
        *(state.directory / name for name in disk_reserve.NAMES),
    )
