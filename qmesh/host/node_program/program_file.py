"""A program's file, opened: what is looked at, and what is run, is one and the same file.

What leads to it may be a user's: links, another file in its place, a file system that never answers. So it
is opened once, by a thread that is given up after some seconds, and is known by its descriptor from then on.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from qmesh.errors import MachineRefused
from qmesh.host.system import heartbeat

WAIT_S: Final = 4.0
"""Seconds until a file system counts as one that does not answer; a disk that is asleep takes some three."""

_DELETED: Final = " (deleted)"

_hanging: dict[Path, threading.Thread] = {}

_T = TypeVar("_T")


class ProgramFile(NamedTuple):
    """A program's file. descriptor: to look at it and to run it, not to read it (O_PATH).

    path: where it was when it was opened, without links.
    """

    descriptor: int
    path: Path
    status: os.stat_result

    @property
    def identity(self) -> tuple[int, int, int]:
        """Which file it is, as it is now: device, inode, time of its last change in nanoseconds."""
        return self.status.st_dev, self.status.st_ino, self.status.st_ctime_ns

    def may_be_run(self, owner: int) -> bool:
        """Whether only root and the node's user can have made it what it is, and it is a program."""
        mode = self.status.st_mode
        return (
            stat.S_ISREG(mode)
            and self.status.st_uid in {0, owner}
            and not mode & (stat.S_IWGRP | stat.S_IWOTH)
            and bool(mode & (stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH))
        )


@contextlib.contextmanager
def open_program(path: Path) -> Iterator[ProgramFile]:
    """Open a program's file while the block runs, through links too; `/proc/N/exe` is a process's.

    Raises OSError where there is none or it may not be looked at, MachineRefused where its disk does not
    answer.
    """
    opened = run_in_time(path, lambda: _open(path))
    try:
        yield opened
    finally:
        os.close(opened.descriptor)


def _open(path: Path) -> ProgramFile:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        place = Path(str(Path(f"/proc/self/fd/{descriptor}").readlink()).removesuffix(_DELETED))
        return ProgramFile(descriptor, place, os.fstat(descriptor))
    except OSError:
        os.close(descriptor)
        raise


def run_in_time(path: Path, work: Callable[[], _T]) -> _T:
    """What `work` returns or raises, by a thread of its own, with what a user may have mounted at `path`.

    Raises MachineRefused where it does not end in time, and at once while it has not.
    """
    before = _hanging.get(path)
    if before is not None and before.is_alive():
        raise _build_hanging_error(path)
    ended: list[_T | BaseException] = []

    def run() -> None:
        try:
            ended.append(work())
        except BaseException as error:  # noqa: BLE001 - it is raised where it was asked for
            ended.append(error)

    thread = threading.Thread(target=run, name="program file", daemon=True)
    thread.start()
    with heartbeat.allow_wait(WAIT_S):
        thread.join(WAIT_S)
    if not ended:
        _hanging[path] = thread
        raise _build_hanging_error(path)
    (outcome,) = ended
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _build_hanging_error(path: Path) -> MachineRefused:
    return MachineRefused(
        f"the disk of {path} does not answer",
        hint="if it is a network file system, mount it again; else see `dmesg` for errors of the disk",
    )
