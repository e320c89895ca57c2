"""Of processes: that one is the only one of its kind, that it tells how it is, and which another is."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import math
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from qmesh.errors import MachineRefused
from qmesh.host.lean import process_lock
from qmesh.host.system.process_end import wait_for_readable
from qmesh.mesh import own_command

HOLDER_PROGRAM: Final = str(Path(__file__).parents[1] / "lean/hold.py")
"""The program of the process that holds the guard: `qmesh.host.lean.hold`."""
_ENDING_S: Final = 0.01
"""Seconds between two looks for who has a lock: one that is just ending shows no open files any more."""
_SYS_PTRACE = 19
"""A capability's number. Source: linux/capability.h."""


def build_own_command(command: str, directory: Path) -> list[str]:
    """How qmesh starts one of its processes that live as long as their machine.

    It is as strict with warnings as this process, whatever the environment says.

    command: `agent`, `hold` or `undo`. directory: the state directory.
    """
    strict = [*(["-Xdev"] if sys.flags.dev_mode else []), *(f"-W{each}" for each in sys.warnoptions)]
    state = str(directory.absolute())
    if command == "hold":
        return list(own_command.build_holder_line(sys.executable, HOLDER_PROGRAM, state, options=strict))
    words = (command, "--state", state)
    return list(own_command.build_command_line(sys.executable, *words, options=strict))


def return_free_memory() -> None:
    """Give back what the C library keeps of what this process has freed: it gives back little by itself."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)


@contextlib.contextmanager
def acquire_process_lock(lock_file: Path) -> Iterator[bool]:
    """Be the one process of its kind while the block runs; gives False when another is already.

    Raises MachineRefused where there can be no such file.
    """
    descriptor = process_lock.open_lock_file(str(lock_file))
    try:
        yield process_lock.acquire_lock(descriptor)
    finally:
        os.close(descriptor)


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


def terminate_lock_owner(lock_file: Path, *, timeout_s: float) -> None:
    """End the one whose lock file this is, if there is one: it has gone when this returns.

    Raises MachineRefused when it does not end.
    """
    deadline = time.monotonic() + timeout_s
    with contextlib.ExitStack() as held:
        ends: dict[int, int] = {}
        while (has_owner := is_locked(lock_file)) or ends:  # who gives his lock back has not ended yet
            for number in list_opening_processes(lock_file) - ends.keys() if has_owner else ():
                with contextlib.suppress(ProcessLookupError):
                    ends[number] = os.pidfd_open(number)
                    held.callback(os.close, ends[number])
                send_signal(number, signal.SIGTERM, is_meant=partial(_has_open, path=lock_file))
            if not ends and time.monotonic() < deadline:
                time.sleep(_ENDING_S)
                continue
            ended = wait_for_readable(ends.values(), deadline - time.monotonic()) if ends else set()
            if not ended:
                who = ", ".join(map(str, sorted(ends))) or "unknown"
                raise MachineRefused(
                    f"the process that has {lock_file} does not end (process {who})",
                    hint="end it with `kill -KILL` and its number, then run the same command again",
                )
            ends = {number: end for number, end in ends.items() if end not in ended}


def kill_lock_owner(lock_file: Path) -> None:
    """Kill the process that has this lock, also where it is stopped; none is fine."""
    if is_locked(lock_file):
        for number in list_opening_processes(lock_file):
            send_signal(number, signal.SIGKILL, is_meant=partial(_has_open, path=lock_file))


@contextlib.contextmanager
def defer_signals() -> Iterator[None]:
    """Heed Ctrl-C and what else ends a command only when this is done. For the main thread.

    Neither masked nor ignored: a process that is started meanwhile would inherit that.
    """
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    heeded = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in heeded:
        signal.signal(number, lambda which, _: came.append(which))
    try:
        yield
    finally:
        for number, handler in heeded.items():
            signal.signal(number, handler)
        for which in came:
            signal.raise_signal(which)


def send_signal(number: int, which: signal.Signals, *, is_meant: Callable[[int], bool]) -> None:
    """Send a signal to a process, where it is still what it was taken for; none is fine.

    Its number may be another's by now: the process is held while that is looked at. Source: pidfd_open(2).
    """
    with contextlib.suppress(ProcessLookupError):
        process = os.pidfd_open(number)
        try:
            if is_meant(number):
                signal.pidfd_send_signal(process, which)
        finally:
            os.close(process)


def list_opening_processes(path: Path) -> set[int]:
    """The processes that have a file open, but for this one.

    Of others' files only the names are asked for: a disk that does not answer makes nobody wait.
    """
    numbers = map(int, filter(str.isdecimal, os.listdir("/proc")))  # noqa: PTH208 - as below
    return {number for number in numbers if _has_open(number, path)} - {os.getpid()}


def list_locking_processes(path: Path) -> set[int]:
    """Those of them that have it locked by flock(2), and do not wait for that. Source: proc_pid_fdinfo(5)."""
    return {number for number in list_opening_processes(path) if _has_locked(number, path)}


def _has_open(number: int, path: Path) -> bool:
    """Whether a process has that file open."""
    return any(True for _ in _find_descriptors(number, path))


def _has_locked(number: int, path: Path) -> bool:
    with contextlib.suppress(OSError):
        for descriptor in _find_descriptors(number, path):
            if b"FLOCK" in Path(f"/proc/{number}/fdinfo/{descriptor}").read_bytes():
                return True
    return False


def _find_descriptors(number: int, path: Path) -> Iterator[str]:
    """By which a process has that file open."""
    with contextlib.suppress(OSError):  # it ended, or is another user's; or there is no such file
        wanted = path.stat()
        for descriptor in Path(f"/proc/{number}/fd").iterdir():
            with contextlib.suppress(OSError):
                if descriptor.readlink().name == path.name and os.path.samestat(descriptor.stat(), wanted):
                    yield descriptor.name


def list_descriptors() -> Iterator[tuple[int, Path]]:
    """Every process's number, with each of its open files as /proc has it."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended, or is another user's
            for descriptor in (process / "fd").iterdir():
                yield int(process.name), descriptor


def can_see_descriptors() -> bool:
    """Whether the kernel shows this process what those of other users have open. Source: capabilities(7)."""
    found = re.search(r"^CapEff:\s+([0-9a-f]+)$", Path("/proc/self/status").read_text("ascii"), re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> _SYS_PTRACE & 1)


def find_socket_owners(inodes: Collection[str]) -> dict[str, int]:
    """Processes by the sockets that they have, as far as the kernel shows them; quick also where many run.

    Nothing is read of a process but the names of what it has open, which none can make wait.
    """
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[str, int] = {}
    for name in filter(str.isdecimal, os.listdir("/proc") if wanted else ()):  # noqa: PTH208 - twice as quick
        try:
            directory = os.open(f"/proc/{name}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:  # it ended, or is another user's
            continue
        try:
            for inode in _list_sockets(directory, wanted):
                found[inode] = int(name)
        finally:
            os.close(directory)
        if len(found) == len(wanted):
            break
    return found


def find_unix_listener(path: Path) -> int | None:
    """The process that has the socket of that path; None where none is shown. Source: proc(5), net/unix.

    A socket's own credentials are those of who made it, which may be a parent that has ended.
    """
    names = {str(path), str(path.resolve())}
    with contextlib.suppress(OSError):
        lines = Path("/proc/net/unix").read_text("utf-8", "replace").splitlines()
        fields = [line.split(None, 7) for line in lines]
        inodes = [each[6] for each in fields if len(each) == 8 and each[7] in names]
        return next(iter(find_socket_owners(inodes).values()), None)
    return None


def _list_sockets(directory: int, wanted: Mapping[str, str]) -> Iterator[str]:
    """Those of the wanted sockets that a process has, by the open folder of its descriptors."""
    with contextlib.suppress(OSError):  # it ended meanwhile
        for descriptor in os.listdir(directory):
            with contextlib.suppress(OSError):
                inode = wanted.get(os.readlink(descriptor, dir_fd=directory))
                if inode is not None:
                    yield inode


def read_unit(number: int) -> str:
    """The systemd service that a process runs in, by its control group; empty where it is in none.

    One of a user's own manager is `NAME of user@NUMBER.service`: systemctl alone knows no such unit.
    """
    with contextlib.suppress(OSError):
        return parse_unit(Path(f"/proc/{number}/cgroup").read_text("ascii", "replace"))
    return ""


def parse_unit(text: str) -> str:
    """As `read_unit`, of what proc(5) has as cgroup. Source: cgroups(7)."""
    found = re.search(
        r"^[0-9]+:(?:name=systemd)?:/(?:.*/)?([\w.@:\\-]+\.service)$", text, re.MULTILINE | re.ASCII
    )
    if found is None:
        return ""
    manager = re.search(r"/(user@[0-9]+\.service)/", found[0])
    return found[1] if manager is None else f"{found[1]} of {manager[1]}"


_GROUPS: Final = Path("/sys/fs/cgroup")
_FROZEN: Final = {
    "": ((_GROUPS, _GROUPS / "unified"), "cgroup.events", r"^frozen 1$", "cgroup.freeze"),
    "freezer": ((_GROUPS / "freezer",), "freezer.state", r"^FR", "freezer.self_freezing"),
}
"""By the controllers of a line of /proc/PID/cgroup: where its groups are, which file of a group says whether
it is frozen, what that says then, and which one has 1 where its parent is not. Source: cgroups(7)."""


def find_frozen_group(number: int) -> str:
    """The directory of the control group with which a process is frozen; empty where it is not."""
    try:
        text = Path(f"/proc/{number}/cgroup").read_text("utf-8", "surrogateescape")
    except OSError:
        return ""
    return read_frozen_group(text)


def find_unified_group(number: int) -> str:
    """The directory of a process's control group, of version 2; empty where there is none to be seen."""
    try:
        text = Path(f"/proc/{number}/cgroup").read_text("utf-8", "surrogateescape")
    except OSError:
        return ""
    groups = (line.removeprefix("0::/") for line in text.splitlines() if line.startswith("0::/"))
    places = (root / group for group in groups for root in _FROZEN[""][0])
    return next((str(each) for each in places if (each / "cgroup.procs").exists()), "")


def read_frozen_group(text: str) -> str:
    """The same of what /proc has as a process's groups."""
    for line in text.splitlines():
        _, controllers, group, *_ = (*line.split(":", 2), "", "")
        roots, state, frozen, own = _FROZEN.get(controllers, ((), "", "", ""))
        for root in roots:
            place = root / group.lstrip("/")
            if re.search(frozen, _read_or_empty(place / state), re.MULTILINE):
                chain = (place, *place.parents)
                return str(next((each for each in chain if _read_or_empty(each / own) == "1\n"), place))
    return ""


def _read_or_empty(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace")
    except OSError:
        return ""


def find_tun_name(number: int) -> str | None:
    """The interface that a process has by /dev/net/tun; None where it has none. Source: drivers/net/tun.c."""
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{number}/fdinfo").iterdir():
            with contextlib.suppress(OSError):
                found = re.search(r"^iff:\t(\S+)$", descriptor.read_text("utf-8", "replace"), re.MULTILINE)
                if found is not None:
                    return found[1]
    return None


def read_process_name(number: int) -> str:
    """What the kernel calls a process; empty when there is none. Source: proc(5), comm."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{number}/comm").read_text(encoding="utf-8", errors="replace").strip()
    return ""


def read_age_s(process: int) -> float:
    """Seconds since a process began; endless where there is none. Raises MachineRefused."""
    found = read_stat(process)
    if found is None:
        return math.inf
    return time.clock_gettime(time.CLOCK_BOOTTIME) - found.started / os.sysconf("SC_CLK_TCK")


class ProcessStat(NamedTuple):
    """A process. parent: its parent's number; started: clock ticks since boot. Source: proc(5), stat.

    is_stopped: whether a signal has stopped it.
    """

    parent: int
    started: int
    is_stopped: bool = False


def read_stat(process: int) -> ProcessStat | None:
    """A process as it is; None when there is none."""
    try:
        text = Path(f"/proc/{process}/stat").read_text("ascii", "replace")
    except OSError:
        return None
    return parse_stat(text)


def parse_stat(text: str) -> ProcessStat:
    """What proc(5) has as stat. Raises MachineRefused."""
    # Its name is in parentheses, and may hold any character.
    fields = text.rpartition(")")[2].split()
    try:
        return ProcessStat(int(fields[1]), int(fields[19]), fields[0] == "T")
    except (LookupError, ValueError):
        raise MachineRefused(
            "a process's stat is not understood", hint="please report it, with the output of `uname -r`"
        ) from None
