"""qmesh's own processes: started by systemd where it runs, and else by themselves in the background."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from qmesh.errors import MachineRefused
from qmesh.host import files
from qmesh.host.state.directory import State
from qmesh.host.system import heartbeat, processes, programs, single_agent
from qmesh.host.system.process_end import wait_for_readable
from qmesh.host.system.processes import build_own_command, is_locked, list_opening_processes
from qmesh.host.system.systemd import (
    UNIT_DIRECTORY,
    build_unit_paths,
    has_installed_units,
    is_active,
    is_kept_stopped,
    is_systemd_running,
    run_systemctl,
    update_units,
    write_units,
)
from qmesh.mesh.own_command import build_environment
from qmesh.mesh.systemd.instructions import describe_agent_restart
from qmesh.mesh.systemd.units import AGENT, HOLDER, UNDO, render_qmesh_units, render_undo_unit
from qmesh.mesh.values import DEFAULT_PROGRAM

_START_S = 60.0


def start_holder(state: State) -> None:
    """Start the process that holds the guard, and wait until it does. Raises MachineRefused."""
    if is_systemd_running():
        where = build_unit_paths(state, config_directory="/", program=DEFAULT_PROGRAM)
        unit = {HOLDER: render_qmesh_units(where)[HOLDER]}
        if update_units(unit, UNIT_DIRECTORY).written:
            run_systemctl("daemon-reload")
        run_systemctl("start", HOLDER)
    else:
        start_background_process(state, "hold", wait_s=_START_S)


def stop_holder() -> None:
    """Have systemd, where that is the init, end the process that holds the guard."""
    if is_systemd_running() and (UNIT_DIRECTORY / HOLDER).exists():
        run_systemctl("stop", HOLDER)


def restart_holder() -> None:
    """Have systemd, where that is the init, start another such process, and without its pause."""
    if is_systemd_running() and (UNIT_DIRECTORY / HOLDER).exists():
        run_systemctl("restart", HOLDER)


def stop_agent() -> None:
    """Have systemd, where that is the init, end the agent."""
    if is_systemd_running() and (UNIT_DIRECTORY / AGENT).exists():
        run_systemctl("stop", AGENT)


def restart_agent(state: State) -> bool:
    """End the agent, and start one of the installed version; whether one runs now. Raises MachineRefused.

    One that its administrator keeps from running, by systemd or without it, is not started.
    """
    if is_systemd_running():
        if is_kept_stopped(AGENT):
            return False
        if not is_active(AGENT):  # one that was started in a terminal would be in the unit's way
            processes.terminate_lock_owner(state.agent_lock_file, timeout_s=_START_S)
        run_systemctl("restart", AGENT)
        return True
    if not is_agent_running(state):
        return False
    processes.terminate_lock_owner(state.agent_lock_file, timeout_s=_START_S)
    start_background_process(state, "agent", wait_s=_START_S)
    return True


def start_undo(state: State) -> None:
    """Start the process that rolls a change back in time; restart it where it runs. Raises MachineRefused.

    Under systemd it is a unit of its own, so that no session's end stops it, enabled for the next boot too.
    """
    if is_systemd_running():
        units = {
            UNDO: render_undo_unit(build_unit_paths(state, config_directory="/", program=DEFAULT_PROGRAM))
        }
        if not has_installed_units(units):
            write_units(units, UNIT_DIRECTORY)
            run_systemctl("daemon-reload")
        run_systemctl("enable", UNDO)
        run_systemctl("restart", UNDO)
    else:
        start_background_process(state, "undo", wait_s=_START_S)


def start_background_process(state: State, command: str, *, wait_s: float) -> int | None:
    """Start one of qmesh's commands as a process that outlives this one.

    command: `agent`, `hold` or `undo`.
    wait_s: seconds to wait until it says that it is ready.
    Returns its process id; None when another command has started one at the same time.
    Raises MachineRefused when it ends, or is not ready in time.
    """
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        log = os.open(state.log_file, flags, files.PRIVATE_MODE)
    except OSError as error:
        raise MachineRefused(
            f"{state.log_file} cannot be written: {error.strerror}",
            hint="remove it, if it is a link; else look for a full disk (`df`)",
        ) from None
    with _open_ready_socket() as (ready, address), os.fdopen(log, "ab") as log_file:
        process = subprocess.Popen(
            build_own_command(command, state.directory),
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=log_file,
            cwd=programs.DIRECTORY,
            env={**build_environment(os.environ), "NOTIFY_SOCKET": address},
            start_new_session=True,
        )
        try:
            is_ready, status = _wait_for_ready(ready, process, wait_s)
        except BaseException:  # Ctrl-C: the caller rolls back, and the process is only half started
            process.kill()
            process.wait()
            raise
        if not is_ready:
            if process.poll() is not None and is_locked(_find_lock_file(state, command)):
                return None
            has_ended = process.poll() is not None
            raise MachineRefused(
                f"`qmesh {command}` "
                + ("did not start" if has_ended else "is not ready yet")
                + (f": {status}" if status else ""),
                hint=f"read the end of {state.log_file}; `qmesh {command}` in a terminal shows the same error"
                if has_ended
                else "it keeps trying: run `qmesh check` in a minute",
            )
    process.returncode = 0  # it outlives this command on purpose: no code should wait for it
    return process.pid


def _find_lock_file(state: State, command: str) -> Path:
    return {
        "agent": state.agent_lock_file,
        "hold": state.hold_lock_file,
        "undo": state.undo_lock_file,
    }[command]


@contextlib.contextmanager
def _open_ready_socket() -> Iterator[tuple[socket.socket, str]]:
    with (
        _create_temporary_directory() as directory,
        contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as ready,
    ):
        address = f"{directory}/ready"
        try:
            ready.bind(address)
        except OSError as error:
            raise _build_place_error(error) from None
        yield ready, address


@contextlib.contextmanager
def _create_temporary_directory() -> Iterator[str]:
    """A directory that is deleted afterwards; an error of that is ignored.

    Where no user has anything to say, as he may have in TMPDIR, or he could keep an agent from being started.
    """
    try:
        files.make_private_directory(single_agent.PLACE)
        directory = tempfile.mkdtemp(prefix="ready-", dir=single_agent.PLACE)
    except (MachineRefused, OSError) as error:
        raise _build_place_error(error) from None
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _build_place_error(error: Exception) -> MachineRefused:
    return MachineRefused(
        f"no process could be started, for want of a socket in {single_agent.PLACE}: {error}",
        hint="look for a full or read-only disk at /run (`df /run`)",
    )


def _wait_for_ready(
    ready: socket.socket, process: subprocess.Popen[bytes], wait_s: float
) -> tuple[bool, str]:
    """Whether it says that it is, in that time; and what else it says of itself, the last of it."""
    status = ""
    deadline = time.monotonic() + wait_s
    ended = os.pidfd_open(process.pid)
    try:
        with heartbeat.allow_wait(wait_s):
            while (left_s := deadline - time.monotonic()) > 0 and (
                ready.fileno() in wait_for_readable([ready.fileno(), ended], left_s)
            ):
                said = ready.recv(4096).decode("utf-8", "replace").splitlines()
                status = next((line[7:] for line in said if line.startswith("STATUS=")), status)
                if "READY=1" in said:
                    return True, status
    finally:
        os.close(ended)
    return False, status


def is_agent_running(state: State) -> bool:
    """Whether this machine's agent runs, no matter what started it."""
    return is_locked(state.agent_lock_file)


def format_restart_command(state: State) -> str:
    """The command that restarts this machine's agent."""
    if is_systemd_running():
        return describe_agent_restart()
    numbers = " ".join(map(str, sorted(list_opening_processes(state.agent_lock_file))))
    return f"kill -KILL {numbers}; qmesh apply"
