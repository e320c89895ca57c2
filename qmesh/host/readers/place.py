"""Where readers ask: a directory below /run, which root and a group enter, with a socket in it.

It stays when the agent ends, so that a reader is told whose it is. Below /run nobody but root has a name to
put in its way; all the same it is opened without following a link, and taken only where it is root's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from qmesh.errors import MachineRefused

DIRECTORY: Final = Path("/run/qmesh-read")
SOCKET: Final = "ask.sock"
DIRECTORY_MODE: Final = 0o750
SOCKET_MODE: Final = 0o660
BACKLOG: Final = 8
_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class ReaderPlace:
    """The listening end, for one group. Making one raises MachineRefused."""

    def __init__(self, group: int) -> None:
        self._group = group
        with _translate_errors(), contextlib.ExitStack() as unless_it_listens:
            directory = _open_directory()
            unless_it_listens.callback(os.close, directory)
            listening = unless_it_listens.enter_context(socket.socket(socket.AF_UNIX))
            # Nobody but root enters until all is as it should be.
            os.fchmod(directory, 0o700)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(SOCKET, dir_fd=directory)
            path = f"/proc/self/fd/{directory}/{SOCKET}"
            listening.bind(path)
            os.chown(path, 0, group, follow_symlinks=False)
            Path(path).chmod(SOCKET_MODE)
            listening.listen(BACKLOG)
            os.fchown(directory, 0, group)
            os.fchmod(directory, DIRECTORY_MODE)
            self._known = os.lstat(path).st_ino
            unless_it_listens.pop_all()
        os.close(directory)
        self.listening = listening

    @property
    def is_whole(self) -> bool:
        """Whether both are there as they were made: another program may have removed or changed them."""
        try:
            directory, found = DIRECTORY.lstat(), (DIRECTORY / SOCKET).lstat()
        except OSError:
            return False
        return (
            stat.S_ISDIR(directory.st_mode)
            and _describe(directory) == (0, self._group, DIRECTORY_MODE)
            and found.st_ino == self._known
            and _describe(found) == (0, self._group, SOCKET_MODE)
        )

    def close(self) -> None:
        """Answer nobody any more; the directory stays."""
        self.listening.close()
        with contextlib.suppress(OSError):
            if (DIRECTORY / SOCKET).lstat().st_ino == self._known:
                (DIRECTORY / SOCKET).unlink()


def remove_place() -> None:
    """Leave nothing of it. What is not root's, and what somebody put there, stays."""
    with contextlib.suppress(OSError, MachineRefused):
        os.close(_open_directory(is_new=False))
        (DIRECTORY / SOCKET).unlink(missing_ok=True)
        DIRECTORY.rmdir()


def _open_directory(*, is_new: bool = True) -> int:
    """The directory, made where it is not there. Raises MachineRefused where it is none of root's."""
    if is_new:
        with contextlib.suppress(FileExistsError):
            DIRECTORY.mkdir(mode=0o700)
    try:
        descriptor = os.open(DIRECTORY, _FLAGS)
    except OSError as error:
        if error.errno in {errno.ENOTDIR, errno.ELOOP}:
            raise _build_obstacle_error() from None
        raise
    if os.fstat(descriptor).st_uid != 0:
        os.close(descriptor)
        raise _build_obstacle_error()
    return descriptor


def _build_obstacle_error() -> MachineRefused:
    return MachineRefused(
        f"{DIRECTORY} is a link, is not a directory, or belongs to another user",
        hint=f"remove it: `rm -r {DIRECTORY}`; the agent makes it again",
    )


@contextlib.contextmanager
def _translate_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MachineRefused(
            f"readers cannot be answered in {DIRECTORY}: {error.strerror}",
            hint="look for a full disk (`df /run`) or a read-only file system (`mount`)",
        ) from None


def _describe(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)
