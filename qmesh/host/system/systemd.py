"""The agent as a service: systemd where it runs, a background process where it does not."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from qmesh.errors import MachineRefused
from qmesh.host import files
from qmesh.host.state.directory import State
from qmesh.host.system import heartbeat, node_user, programs
from qmesh.host.system.processes import is_locked, own_words, with_open
from qmesh.mesh.units import (
    AGENT,
    BOOT_GUARD,
    CONTROL_PROCESS,
    HOLDER,
    UNDO,
    WORKER,
    WORKERS,
    Paths,
    is_unedited,
    program_of,
    qmesh_units,
    undo_unit,
    worker_unit,
)

FLUSHER = "nftables.service"
UNIT_DIRECTORY = Path("/etc/systemd/system")
DEFAULT_PROGRAM = "/usr/local/bin/quilibrium-node"
_START_S = 60.0
_SYSTEMCTL_S = 90.0
"""Seconds that systemd gives a unit to start, where that says nothing else."""


def systemd_runs() -> bool:
    """Whether systemd is this machine's init. Source: sd_booted(3)."""
    return Path("/run/systemd/system").is_dir()


def paths(state: State, *, config_directory: str, program: str) -> Paths:
    """Where things are on this machine, for the units."""
    return Paths(
        python=sys.executable,
        state=str(state.directory.absolute()),
        guard_file=str(state.guard_file.absolute()),
        held_file=str(state.held_file.absolute()),
        nft=programs.find("nft") or "/usr/sbin/nft",
        program=program,
        config_directory=config_directory,
        user=node_user.name(node_user.owner(Path(config_directory))),
    )


def installed_program(directory: Path) -> str | None:
    """The node's program that the worker's unit in a directory runs; None where there is no such unit."""
    unit = files.read(directory / WORKER)
    return None if unit is None else program_of(unit.decode("utf-8", "replace"))


def write_units(units: Mapping[str, str], directory: Path) -> None:
    """Write unit files, 0644, each whole or not at all."""
    for name, text in units.items():
        path = directory / name
        if path.parent != directory:  # that of a drop-in
            with contextlib.suppress(OSError):
                path.parent.mkdir(exist_ok=True)
        files.write(path, text.encode(), mode=0o644)


class Written(NamedTuple):
    """Names of units: those that were written, and those that somebody edited, which stay as they are."""

    written: tuple[str, ...]
    kept: tuple[str, ...]


def update_units(units: Mapping[str, str], directory: Path) -> Written:
    """Write the unit files that are not there or not like this, but none that somebody edited."""
    differ = {name: text for name, text in units.items() if not _holds(directory / name, text)}
    kept = tuple(name for name in differ if is_as_made(directory / name) is False)
    for name in kept:
        del differ[name]
    write_units(differ, directory)
    return Written(tuple(differ), kept)


def is_as_made(path: Path) -> bool | None:
    """Whether a unit's file is as qmesh made it; None where there is no such file."""
    if path.is_dir() or not (path.exists() or path.is_symlink()):
        return None
    return not path.is_symlink() and is_unedited(path.read_text(encoding="utf-8", errors="replace"))


def units_that_run_what_is_there(directory: Path) -> tuple[str, ...]:
    """The node's units of earlier versions in a directory, which start qmesh without `own_words`."""
    texts = {name: files.read(directory / name) or b"" for name in (WORKER, CONTROL_PROCESS)}
    return tuple(name for name, text in texts.items() if re.search(rb" (?<! -I )-m qmesh ready ", text))


def install_agent(units: Mapping[str, str]) -> None:
    """Install and start the agent and the boot guard under systemd; a running agent is restarted."""
    write_units(units, UNIT_DIRECTORY)
    systemctl("daemon-reload")
    systemctl("enable", BOOT_GUARD, HOLDER, AGENT)
    # Restarting the boot guard would restart what requires it: the node. The holder is only restarted
    # by what it is for, a change of the guard: while it is away, a flush would open the ports.
    systemctl("start", BOOT_GUARD, HOLDER)
    systemctl("restart", AGENT)


def are_installed(units: Mapping[str, str]) -> bool:
    """Whether these very units are systemd's already."""
    return all(_holds(UNIT_DIRECTORY / name, text) for name, text in units.items())


def _holds(path: Path, text: str) -> bool:
    return not path.is_symlink() and files.read(path) == text.encode()


def worker_units_are_installed() -> bool:
    """Whether systemd is the init here and has the units of the workers, and no mask over them."""
    if not systemd_runs():
        return False
    shown = systemctl("show", "--property=LoadState", WORKERS, worker_unit(1))
    return shown.split() == ["LoadState=loaded"] * 2


def order(verb: str, *units: str) -> None:
    """Have systemd begin with something, and wait for nothing; no unit is fine. Raises MachineRefused."""
    if units:
        systemctl("--no-block", verb, *units)


def is_active(unit: str) -> bool:
    """Whether systemd has started a unit, or is about to."""
    return systemctl("show", "--property=ActiveState", "--value", unit).strip() in {"active", "activating"}


def start_workers(cores: Iterable[int]) -> None:
    """Start the workers of these cores, and wait until each listens; those that run are fine.

    Raises MachineRefused when one does not. systemd goes on trying.
    """
    _systemctl_workers("start", cores)


def restart_workers(cores: Iterable[int]) -> None:
    """As `start_workers`, after an end of those that run."""
    _systemctl_workers("restart", cores)


def stop_workers(cores: Iterable[int]) -> None:
    """Stop the workers of these cores, and wait until they have ended; those that do not run are fine.

    Raises MachineRefused when systemd does not take the order.
    """
    _systemctl_workers("stop", cores)


def _systemctl_workers(verb: str, cores: Iterable[int]) -> None:
    if units := [worker_unit(core) for core in cores]:
        systemctl(verb, *units)


def restart_control_process() -> None:
    """End the control process where it runs, and start it. Raises MachineRefused when it does not start."""
    systemctl("restart", CONTROL_PROCESS)


def running_workers() -> tuple[int, ...]:
    """The cores whose workers systemd runs, or is about to; none where systemd is not the init."""
    if not systemd_runs():
        return ()
    states = "--state=active,activating,reloading,deactivating"
    listed = systemctl("list-units", "--plain", "--no-legend", states, WORKER.replace("@", "@*"))
    return tuple(sorted(map(int, re.findall(r"^qmesh-worker@(\d+)\.service ", listed, re.MULTILINE))))


def systemctl(*words: str) -> str:
    """Have systemd do something; what is said. Raises MachineRefused when it does not."""
    try:
        with heartbeat.allowed(_SYSTEMCTL_S):
            done = subprocess.run(
                [programs.find("systemctl") or "systemctl", *words],
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                cwd=programs.DIRECTORY,
                check=False,
            )
    except OSError as error:
        raise MachineRefused(
            f"systemctl cannot be run: {error.strerror}",
            hint="systemd is the init here: is it in PATH?",
        ) from None
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines() or ["no reason given"]
        # Of many units it names only those that failed.
        unit = next(iter(re.findall(r"qmesh[\w@-]*\.(?:service|target)", done.stderr)), AGENT)
        raise MachineRefused(
            f"systemctl {' '.join(words)} failed: {reason[0]}", hint=f"see `systemctl status {unit}`"
        )
    return done.stdout


def flushes() -> bool:
    """Whether nftables.service runs, or will at boot, and takes away all rules when it begins or ends.

    Only where it names its files as `nft -f FILE` can that be told.
    """
    if not systemd_runs():
        return False
    shown = systemctl("show", FLUSHER, "--property=ActiveState,UnitFileState,ExecStart,ExecReload,ExecStop")
    states = {"ActiveState=active", "UnitFileState=enabled", "UnitFileState=enabled-runtime"}
    if states.isdisjoint(shown.splitlines()):
        return False
    read = (files.read(Path(path)) or b"" for path in re.findall(r" -f (/\S+)", shown))
    texts = [shown, *(octets.decode("utf-8", "replace") for octets in read)]
    return any(re.search(r"^[^#]*\bflush ruleset\b", text, re.MULTILINE) for text in texts)


def start_holder(state: State) -> None:
    """Start the process that holds the guard, and wait until it does. Raises MachineRefused."""
    if systemd_runs():
        where = paths(state, config_directory="/", program=DEFAULT_PROGRAM)
        unit = {HOLDER: qmesh_units(where)[HOLDER]}
        if not are_installed(unit):
            write_units(unit, UNIT_DIRECTORY)
            systemctl("daemon-reload")
        systemctl("start", HOLDER)
    else:
        start_in_background(state, "hold", wait_s=_START_S)


def stop_holder() -> None:
    """Have systemd, where that is the init, end the process that holds the guard."""
    if systemd_runs() and (UNIT_DIRECTORY / HOLDER).exists():
        systemctl("stop", HOLDER)


def stop_agent() -> None:
    """Have systemd, where that is the init, end the agent."""
    if systemd_runs() and (UNIT_DIRECTORY / AGENT).exists():
        systemctl("stop", AGENT)


def start_undo(state: State) -> None:
    """Start the process that undoes a change at its time, anew where it runs. Raises MachineRefused.

    Under systemd it is in a unit of its own, and so in nobody's session, which is enabled for the next boot.
    """
    if systemd_runs():
        units = {UNDO: undo_unit(paths(state, config_directory="/", program=DEFAULT_PROGRAM))}
        if not are_installed(units):
            write_units(units, UNIT_DIRECTORY)
            systemctl("daemon-reload")
        systemctl("enable", UNDO)
        systemctl("restart", UNDO)
    else:
        start_in_background(state, "undo", wait_s=_START_S)


def start_in_background(state: State, command: str, *, wait_s: float) -> int | None:
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
            f"{state.log_file} cannot be written: {error.strerror}", hint="is it a link? remove it"
        ) from None
    with _ready_socket() as (ready, address), os.fdopen(log, "ab") as log_file:
        process = subprocess.Popen(
            own_words(command, state.directory),
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=log_file,
            cwd=programs.DIRECTORY,
            env={**os.environ, "NOTIFY_SOCKET": address},
            start_new_session=True,
        )
        try:
            is_ready, status = _is_ready(ready, process, wait_s)
        except BaseException:  # Ctrl-C: whoever asked for it puts things back, and it is half there
            process.kill()
            process.wait()
            raise
        if not is_ready:
            if process.poll() is not None and is_locked(_lock_file(state, command)):
                return None
            has_ended = process.poll() is not None
            raise MachineRefused(
                f"`qmesh {command}` "
                + ("did not start" if has_ended else "is not ready yet")
                + (f": {status}" if status else ""),
                hint=f"read {state.log_file}, then run `qmesh {command}` to see it fail"
                if has_ended
                else "it goes on trying; `qmesh check` tells whether it is well",
            )
    process.returncode = 0  # it outlives this command on purpose: nobody is to wait for it
    return process.pid


def _lock_file(state: State, command: str) -> Path:
    return {
        "agent": state.agent_lock_file,
        "hold": state.hold_lock_file,
        "undo": state.undo_lock_file,
    }[command]


@contextlib.contextmanager
def _ready_socket() -> Iterator[tuple[socket.socket, str]]:
    with (
        _temporary_directory() as directory,
        contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as ready,
    ):
        address = f"{directory}/ready"
        try:
            ready.bind(address)
        except OSError as error:
            raise _no_temporary_file(error) from None
        ready.settimeout(0.1)
        yield ready, address


@contextlib.contextmanager
def _temporary_directory() -> Iterator[str]:
    """A directory that is gone afterwards, unless that is refused: then nobody need know."""
    try:
        directory = tempfile.mkdtemp(prefix="qmesh-")
    except OSError as error:
        raise _no_temporary_file(error) from None
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _no_temporary_file(error: OSError) -> MachineRefused:
    return MachineRefused(
        f"no temporary file could be made: {error.strerror}",
        hint="look for a full or read-only disk at /tmp, or set TMPDIR",
    )


def _is_ready(ready: socket.socket, process: subprocess.Popen[bytes], wait_s: float) -> tuple[bool, str]:
    """Whether it says that it is, in that time; and what else it says of itself, the last of it."""
    status = ""
    deadline = time.monotonic() + wait_s
    with heartbeat.allowed(wait_s):
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(TimeoutError):
                said = ready.recv(4096).decode("utf-8", "replace").splitlines()
                status = next((line[7:] for line in said if line.startswith("STATUS=")), status)
                if "READY=1" in said:
                    return True, status
    return False, status


def agent_runs(state: State) -> bool:
    """Whether this machine's agent runs, by whomever it was started."""
    return is_locked(state.agent_lock_file)


def restart_agent_command(state: State) -> str:
    """What begins this machine's agent anew, for who types it."""
    if systemd_runs():
        return f"systemctl restart {AGENT}"
    processes = " ".join(map(str, sorted(with_open(state.agent_lock_file))))
    return f"kill -KILL {processes}; qmesh apply"
