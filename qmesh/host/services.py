"""The agent as a service: systemd where it runs, a background process where it does not."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from qmesh.errors import MachineRefused
from qmesh.host import files
from qmesh.host.state import State
from qmesh.mesh.units import AGENT, BOOT_GUARD, Paths

UNIT_DIRECTORY = Path("/etc/systemd/system")
DEFAULT_PROGRAM = "/usr/local/bin/quilibrium-node"


def systemd_runs() -> bool:
    """Whether systemd is this machine's init. Source: sd_booted(3)."""
    return Path("/run/systemd/system").is_dir()


def paths(state: State, *, config_directory: str, program: str) -> Paths:
    """Where things are on this machine, for the units."""
    return Paths(
        python=sys.executable,
        state=str(state.directory.absolute()),
        guard_file=str(state.guard_file.absolute()),
        nft=shutil.which("nft") or "/usr/sbin/nft",
        program=program,
        config_directory=config_directory,
    )


def write_units(units: Mapping[str, str], directory: Path) -> None:
    """Write unit files, 0644, each whole or not at all."""
    for name, text in units.items():
        files.write(directory / name, text.encode(), mode=0o644)


def install_agent(units: Mapping[str, str]) -> None:
    """Install and start the agent and the boot guard under systemd; a running agent is restarted."""
    write_units(units, UNIT_DIRECTORY)
    _systemctl("daemon-reload")
    _systemctl("enable", BOOT_GUARD, AGENT)
    # Restarting the boot guard would restart what requires it: the node.
    _systemctl("start", BOOT_GUARD)
    _systemctl("restart", AGENT)


def are_installed(units: Mapping[str, str]) -> bool:
    """Whether these very units are systemd's already."""
    return all(files.read(UNIT_DIRECTORY / name) == text.encode() for name, text in units.items())


def _systemctl(*words: str) -> None:
    try:
        done = subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False)
    except OSError as error:
        raise MachineRefused(
            f"systemctl cannot be run: {error.strerror}",
            hint="systemd is the init here: is it in PATH?",
        ) from None
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines() or ["no reason given"]
        raise MachineRefused(
            f"systemctl {' '.join(words)} failed: {reason[0]}", hint=f"see `systemctl status {AGENT}`"
        )


def start_in_background(state: State, *, wait_s: float) -> int | None:
    """Start the agent as a process that outlives this command.

    wait_s: seconds to wait until it says that it is ready.
    Returns its process id; None when another command has started one at the same time.
    Raises MachineRefused when it ends, or is not ready in time.
    """
    command = [sys.executable, "-m", "qmesh", "agent", "--state", str(state.directory.absolute())]
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        log = os.open(state.log_file, flags, files.PRIVATE_MODE)
    except OSError as error:
        raise MachineRefused(
            f"{state.log_file} cannot be written: {error.strerror}", hint="is it a link? remove it"
        ) from None
    with _ready_socket() as (ready, address), os.fdopen(log, "ab") as log_file:
        agent = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=log_file,
            cwd="/",
            env={**os.environ, "NOTIFY_SOCKET": address},
            start_new_session=True,
        )
        if not _is_ready(ready, agent, wait_s):
            if agent.poll() is not None and agent_runs(state):
                return None
            raise MachineRefused(
                "the agent did not start" if agent.poll() is not None else "the agent is not ready yet",
                hint=f"read {state.log_file}, then run `qmesh agent` to see it fail",
            )
    agent.returncode = 0  # it outlives this command on purpose: nobody is to wait for it
    return agent.pid


@contextlib.contextmanager
def _ready_socket() -> Iterator[tuple[socket.socket, str]]:
    with tempfile.TemporaryDirectory(prefix="qmesh-") as directory:
        address = f"{directory}/ready"
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as ready:
            ready.bind(address)
            ready.settimeout(0.1)
            yield ready, address


def _is_ready(ready: socket.socket, agent: subprocess.Popen[bytes], wait_s: float) -> bool:
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline and agent.poll() is None:
        with contextlib.suppress(TimeoutError):
            if b"READY=1" in ready.recv(4096):
                return True
    return False


def notify(message: str) -> None:
    """Tell whoever started this service how it is: `READY=1`, `STOPPING=1`. Source: sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with (
        contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as out,
        contextlib.suppress(OSError),
    ):
        out.sendto(message.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)


@contextlib.contextmanager
def only_agent(state: State) -> Iterator[bool]:
    """Be this machine's one agent while the block runs; gives False when another is already."""
    descriptor = os.open(
        state.agent_lock_file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, files.PRIVATE_MODE
    )
    try:
        yield _locked(descriptor)
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    for _ in range(10):  # `agent_runs` holds it for an instant
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.02)
    return False


def agent_runs(state: State) -> bool:
    """Whether this machine's agent runs, by whomever it was started."""
    try:
        descriptor = os.open(state.agent_lock_file, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
