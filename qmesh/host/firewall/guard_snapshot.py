"""The guard as text: kept before a change, and put back after it."""

from __future__ import annotations

from pathlib import Path

from qmesh.host import files
from qmesh.host.firewall import holder_client, nftables
from qmesh.host.state.directory import State
from qmesh.mesh.guard import HELD, TABLE, is_loaded, load_script, unload_script
from qmesh.mesh.model import NodeState
from qmesh.mesh.rollback import GuardBefore


def guard_now(state: State, observed: NodeState) -> GuardBefore:
    """The guard as it is, to be put back. Raises MachineRefused where it could not look."""
    listing = nftables.read_table(TABLE)
    boot_file = _text(state.guard_file)
    script: str | None = None
    if listing is not None:
        script = unload_script() + listing
    elif observed.loaded_guard is not None:  # only the held table is there
        script = load_script(observed.loaded_guard)
    elif observed.guard is not None:
        script = boot_file
    return GuardBefore(script=script, boot_file=boot_file, held_file=_text(state.held_file))


def put_guard_back(state: State, guard: GuardBefore, *, at_boot: bool) -> None:
    """Have that guard, in the kernel and for the next boot; where there was none, none.

    at_boot: nothing is started or stopped: who holds the guard begins after this by itself.
    Raises MachineRefused; where there was a guard, the ports were closed all the while.
    """
    if guard.script is None:
        files.remove(state.guard_file)  # before the tables: who keeps the guard puts back what is written
        _let_go(state, at_boot=at_boot)
        nftables.run(unload_script())
        _put(state.guard_file, guard.boot_file)
        return
    # The files first: should the power go in between, closed is what comes up. What somebody had altered is
    # written as it was, or who keeps the guard would mend it.
    is_whole = guard.boot_file is None or is_loaded(
        guard.boot_file, guard.script.removeprefix(unload_script())
    )
    _put(state.guard_file, guard.boot_file if is_whole else guard.script)
    nftables.run(guard.script)
    if guard.held_file is None:
        _let_go(state, at_boot=at_boot)
        return
    _put(state.held_file, guard.held_file)
    if not at_boot or nftables.read_table(HELD) is not None:
        holder_client.hold_again(state)


def is_gone(guard: GuardBefore) -> bool:
    """Whether a table of that guard, put back before, was taken away since."""
    if guard.script is None:
        return False
    return nftables.read_table(TABLE) is None or (
        guard.held_file is not None and nftables.read_table(HELD) is None
    )


def _let_go(state: State, *, at_boot: bool) -> None:
    if not at_boot or nftables.read_table(HELD) is not None:
        holder_client.let_go(state)
    else:
        files.remove(state.held_file)


def _text(path: Path) -> str | None:
    octets = files.read(path)
    return None if octets is None else octets.decode("utf-8", "replace")


def _put(path: Path, text: str | None) -> None:
    if text is None:
        files.remove(path)
    else:
        files.write(path, text.encode())
