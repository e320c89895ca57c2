"""Of processes: that one is the only one of its kind, that it tells how it is, and which another is."""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from qmesh.errors import MachineRefused
from qmesh.mesh import own_command

_PRIVATE_MODE = 0o600


def own_words(command: str, directory: Path) -> list[str]:
    """How qmesh starts one of its processes that live as long as their machine.

    It is as strict with warnings as this process, whatever the environment says.

    command: `agent`, `hold` or `undo`. directory: the state directory.
    """
    strict = [*(["-Xdev"] if sys.flags.dev_mode else []), *(f"-W{each}" for each in sys.warnoptions)]
    words = (command, "--state", str(directory.absolute()))
    return list(own_command.own_words(sys.executable, *words, options=strict))


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
def only(lock_file: Path) -> Iterator[bool]:
    """Be the one process of its kind while the block runs; gives False when another is already."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(lock_file, flags, _PRIVATE_MODE)
    try:
        yield locked(descriptor)
    finally:
        os.close(descriptor)


def locked(descriptor: int) -> bool:
    """Lock an open file or directory for this process alone; whether that could be had."""
    for _ in range(100):  # `agent_runs` holds it for an instant, on a busy machine for longer
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.02)
    return False


def is_locked(lock_file: Path) -> bool:
    """Whether there is one."""
    try:
        descriptor = os.open(lock_file, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def end(lock_file: Path, *, timeout_s: float) -> None:
    """End the one whose lock file this is, if there is one. Raises MachineRefused when it does not end."""
    deadline = time.monotonic() + timeout_s
    told: set[int] = set()
    while is_locked(lock_file):
        for number in with_open(lock_file) - told:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGTERM)
            told.add(number)
        if time.monotonic() > deadline:
            who = ", ".join(map(str, sorted(told))) or "unknown"
            raise MachineRefused(
                f"the process that has {lock_file} does not end (process {who})",
                hint="end it by hand, then run the same command again",
            )
        time.sleep(0.05)


def kill(lock_file: Path) -> None:
    """End at once who has this lock, also where it has been stopped; nobody is fine."""
    if is_locked(lock_file):
        for number in with_open(lock_file):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)


def with_open(path: Path) -> set[int]:
    """The processes that have a file open, but for this one."""
    try:
        wanted = path.stat()
    except FileNotFoundError:
        return set()
    found = set()
    for number, descriptor in descriptors():
        with contextlib.suppress(OSError):
            if os.path.samestat(descriptor.stat(), wanted):
                found.add(number)
    return found - {os.getpid()}


def descriptors() -> Iterator[tuple[int, Path]]:
    """Every process's number, with each of its open files as /proc has it."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended, or is another user's
            for descriptor in (process / "fd").iterdir():
                yield int(process.name), descriptor


def name_of(number: int) -> str:
    """What the kernel calls a process; empty when there is none. Source: proc(5), comm."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{number}/comm").read_text(encoding="utf-8", errors="replace").strip()
    return ""


def age_s(process: int) -> float:
    """Seconds since a process began; endless where there is none. Raises MachineRefused."""
    found = seen(process)
    if found is None:
        return math.inf
    return time.clock_gettime(time.CLOCK_BOOTTIME) - found.started / os.sysconf("SC_CLK_TCK")


def ends_within(number: int | None, seconds: float) -> bool:
    """Wait so many seconds, or until a process ends; whether it has. None: there is none to end."""
    if number is None:
        time.sleep(seconds)
        return False
    try:
        descriptor = os.pidfd_open(number)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


class Seen(NamedTuple):
    """A process. parent: its parent's number; started: clock ticks since boot. Source: proc(5), stat."""

    parent: int
    started: int


def seen(process: int) -> Seen | None:
    """A process as it is; None when there is none."""
    try:
        text = Path(f"/proc/{process}/stat").read_text("ascii", "replace")
    except OSError:
        return None
    return seen_in(text)


def seen_in(text: str) -> Seen:
    """What proc(5) has as stat. Raises MachineRefused."""
    # Its name is in parentheses, and may hold any character.
    fields = text.rpartition(")")[2].split()
    try:
        return Seen(int(fields[1]), int(fields[19]))
    except (LookupError, ValueError):
        raise MachineRefused(
            "a process's stat is not understood", hint="see proc(5), and report it"
        ) from None
