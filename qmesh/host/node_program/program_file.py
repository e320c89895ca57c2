"""A program's file, opened: what is looked at, and what is run, is one and the same file.

What leads to it may be a user's: links, another file in its place, a file system that never answers. So it
is opened once, by a thread that is given up after some seconds, and is known by its descriptor from then on.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from qmesh.host.disk_timeout import run_in_time

_DELETED: Final = " (deleted)"


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
