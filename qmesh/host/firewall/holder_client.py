"""Commands to the process that holds the guard's second table: hold another table, or end.

The process is `qmesh.host.firewall.holder`.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Final

from qmesh.errors import KernelRefused, MachineRefused
from qmesh.host import files
from qmesh.host.firewall import guard_keeper, held_table, holder, nftables
from qmesh.host.lean import owned_table, socket_path
from qmesh.host.state.directory import State
from qmesh.host.system import background, heartbeat, leftover_processes, processes
from qmesh.mesh.guard.script_text import render_release_script
from qmesh.mesh.guard.scripts import render_held_script
from qmesh.mesh.guard.tables import HELD, STAND_IN
from qmesh.mesh.state import Guard

STARTED_S: Final = 30.0
"""Seconds that the process takes to be there, at most."""


def hold_guard(state: State, guard: Guard) -> None:
    """Have this guard held, by the process that runs or by one that is started now.

    Raises MachineRefused when it cannot be; then what was held before still is.
    """
    files.write(state.held_file, render_held_script(guard).encode())
    hold_saved_guard(state)


def hold_saved_guard(state: State) -> None:
    """Have the saved second table held. Raises as `hold_guard` does."""
    listing = nftables.read_table(HELD)
    if listing is not None and "flags owner" not in listing:
        nftables.run(f"delete table inet {HELD}")  # of a saved rule set, and nobody keeps it up to date
    if not _send_command(state, holder.LOAD):
        _start_holder(state)
    elif not held_table.is_held():
        restart_holder(state)


def _start_holder(state: State) -> None:
    # Only an orphaned holder itself can remove its table, which has the same name.
    for each in leftover_processes.list_orphaned_processes():
        if each.kind == "hold":
            leftover_processes.terminate_process(each)
    background.start_holder(state)


def restart_holder(state: State) -> None:
    """Have a new process of the installed version hold the table; none where no guard is wanted.

    Meanwhile this process holds it, under another name, so that a flush opens nothing. Raises MachineRefused.
    """
    script = guard_keeper.read_script(state.held_file)
    if script is None:
        return
    with owned_table.stage_table(script, STAND_IN):
        background.stop_holder()
        processes.terminate_lock_owner(state.hold_lock_file, timeout_s=STARTED_S)
        _start_holder(state)


def release_table(state: State) -> None:
    """Remove the second table; nothing there is fine. `end_holder` comes next. Raises MachineRefused."""
    background.stop_holder()
    files.write(state.held_file, render_release_script().encode())
    _send_command(state, holder.LOAD)


def remove_holder(state: State) -> None:
    """End the process, and with it the table; nothing there is fine. Raises MachineRefused."""
    release_table(state)
    end_holder(state)


def end_holder(state: State) -> None:
    """End the process, which holds nothing any more. Raises MachineRefused."""
    files.remove(state.held_file)
    _send_command(state, holder.END)  # one that is just beginning finds no file, and ends by itself


def is_responding(state: State, *, wait_s: float) -> bool:
    """Whether there is such a process. Raises KernelRefused where it does not answer in time."""
    return _send_command(state, holder.NOTHING, wait_s)


def read_alterations(state: State, *, wait_s: float) -> str:
    """How often other programs have changed the first table, as that process says; empty where it does not.

    Raises KernelRefused as `is_responding`.
    """
    return (_request_line(state, holder.ALTERATIONS, wait_s) or "").strip()


def read_version(state: State, *, wait_s: float) -> str | None:
    """The version of that process; empty where it can't say, None where there is none. Raises alike."""
    answer = _request_line(state, holder.VERSION, wait_s)
    return answer.strip() if answer else None  # an empty one: it was just ending


def is_starting(state: State) -> bool:
    """Whether one that does not answer yet has begun just now. Raises MachineRefused."""
    return processes.is_locked(state.hold_lock_file) and any(
        processes.read_age_s(each) < STARTED_S
        for each in processes.list_opening_processes(state.hold_lock_file)
    )


def is_wanted(state: State) -> bool:
    """Whether there should be one."""
    return files.read_mode(state.held_file) is not None


def replace_holder(state: State) -> None:
    """Have another process hold what this one does, which does not answer. Raises as `hold_guard` does.

    Meanwhile this process holds it, as in `restart_holder`.
    """
    script = guard_keeper.read_script(state.held_file)
    with contextlib.ExitStack() as stack:
        if script is not None:
            with contextlib.suppress(MachineRefused):  # then the first table has to do
                stack.enter_context(owned_table.stage_table(script, STAND_IN))
        if processes.is_locked(state.hold_lock_file):
            processes.kill_lock_owner(state.hold_lock_file)
            background.restart_holder()  # a `start` would wait with systemd for the end of its pause
        hold_saved_guard(state)


def _send_command(state: State, what: bytes, wait_s: float = holder.ANSWER_TIMEOUT_S) -> bool:
    """Tell the process, and wait until it has done it; False when there is none. Raises KernelRefused."""
    answer = _request_line(state, what, wait_s)
    if answer is None:
        return False
    if answer.strip():
        raise _build_hold_error(answer.strip())
    return answer == "\n"  # else it was just ending


def _request_line(state: State, what: bytes, wait_s: float) -> str | None:
    """The line with which the process answers; None when there is none. Raises KernelRefused."""
    try:
        with (
            socket_path.open_socket_path(state.directory, holder.SOCKET) as path,
            socket.socket(socket.AF_UNIX) as connection,
        ):
            connection.settimeout(wait_s)
            connection.connect(path)
            connection.sendall(what)
            with (
                heartbeat.allow_wait(wait_s),
                connection.makefile(encoding="utf-8", errors="replace") as said,
            ):
                return said.readline()
    except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError, BrokenPipeError):
        return None
    except OSError as error:
        raise KernelRefused(
            f"the process that holds the guard does not answer: {error.strerror or error}",
            hint="run `pkill -KILL qmesh-hold; qmesh apply`, which starts another such process",
        ) from None


def _build_hold_error(why: str) -> KernelRefused:
    return KernelRefused(
        f"the guard could not be held against a flush: {why}",
        hint="qmesh needs Linux 5.12 or newer for this; look at `pgrep -a qmesh-hold` and `nft list tables`",
    )
