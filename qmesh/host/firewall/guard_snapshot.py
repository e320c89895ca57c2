"""The guard as text: saved before `apply --confirm`, and restored by a rollback."""

from __future__ import annotations

from pathlib import Path

from qmesh.host import files
from qmesh.host.firewall import held_table, holder_client, nftables
from qmesh.host.state.directory import State
from qmesh.mesh.guard.script_text import is_script_loaded, render_unload_script
from qmesh.mesh.guard.scripts import render_load_script
from qmesh.mesh.guard.tables import TABLE
from qmesh.mesh.rollback import GuardSnapshot
from qmesh.mesh.state import NodeState


def snapshot_guard(state: State, observed: NodeState) -> GuardSnapshot:
    """The guard as it is, for a rollback. Raises MachineRefused where it could not be read."""
    listing = nftables.read_table(TABLE)
    boot_file = _read_text(state.guard_file)
    script: str | None = None
    if listing is not None:
        script = render_unload_script() + listing
    elif observed.loaded_guard is not None:  # only the held table is there
        script = render_load_script(observed.loaded_guard)
    elif observed.guard is not None:
        script = boot_file
    return GuardSnapshot(script=script, boot_file=boot_file, held_file=_read_text(state.held_file))


def roll_back_guard(state: State, guard: GuardSnapshot, *, at_boot: bool) -> None:
    """Restore that guard, in the kernel and for the next boot; where there was none, remove it.

    at_boot: nothing is started or stopped, since the holder starts after this by itself.
    Raises MachineRefused; where there was a guard, the ports were closed all the while.
    """
    if guard.script is None:
        files.remove(state.guard_file)  # before the tables, or the keeper would load them again
        _remove_holder(state, at_boot=at_boot)
        nftables.run(render_unload_script())
        _write_or_remove(state.guard_file, guard.boot_file)
        return
    # The files first: after a power failure in between, the ports come up closed. A guard that was altered is
    # written as it was, or the keeper would load the file over it.
    is_whole = guard.boot_file is None or is_script_loaded(
        guard.boot_file, guard.script.removeprefix(render_unload_script())
    )
    _write_or_remove(state.guard_file, guard.boot_file if is_whole else guard.script)
    nftables.run(guard.script)
    if guard.held_file is None:
        _remove_holder(state, at_boot=at_boot)
        return
    _write_or_remove(state.held_file, guard.held_file)
    if not at_boot or held_table.is_held():
        holder_client.hold_saved_guard(state)


def is_table_missing(guard: GuardSnapshot) -> bool:
    """Whether a table of that guard, restored before, was removed since."""
    if guard.script is None:
        return False
    return nftables.read_table(TABLE) is None or (guard.held_file is not None and not held_table.is_held())


def _remove_holder(state: State, *, at_boot: bool) -> None:
    if not at_boot or held_table.is_held():
        holder_client.remove_holder(state)
    else:
        files.remove(state.held_file)


def _read_text(path: Path) -> str | None:
    octets = files.read(path)
    return None if octets is None else octets.decode("utf-8", "replace")


def _write_or_remove(path: Path, text: str | None) -> None:
    if text is None:
        files.remove(path)
    else:
        files.write(path, text.encode())
