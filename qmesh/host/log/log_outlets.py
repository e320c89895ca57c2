"""Where the log of a process goes that is not the journal's: two files in the state directory, or a terminal.

It imports next to nothing, for the process that holds the guard.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

NAME: Final = "agent.log"
"""In the state directory; of all processes that run in the background there."""
MOST_OCTETS: Final = 2 * 1024 * 1024
"""Octets of a log file; then it is put aside, in the place of the one before."""
_TAKEN_MS: Final = 100
"""Milliseconds for standard error to take a line: a journal whose disk hangs takes none."""
_MODE: Final = 0o600
_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC


def build_rotated_path(log_file: str) -> str:
    """Where a log is once it is full."""
    return f"{log_file}.1"


class StderrOutlet:
    """Standard error, where that takes it: none waits for its reader."""

    def write(self, octets: bytes) -> None:
        """Write so many lines. Raises OSError."""
        poll = select.poll()
        poll.register(2, select.POLLOUT)
        if poll.poll(_TAKEN_MS):
            os.write(2, octets)


class LogFileOutlet(StderrOutlet):
    """A file of two, which standard output and standard error are as well.

    Several processes may have the same one: the first that finds it full renames it, and all use the new one.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def write(self, octets: bytes) -> None:
        """Write to the file that is the log now. Raises OSError."""
        own = os.fstat(2)
        if own.st_size + len(octets) > MOST_OCTETS:
            self._rotate()
            self._reopen(os.O_CREAT)
        elif not _is_same_file(self._path, own):
            self._reopen()  # where it is gone, no log is wanted
        super().write(octets)

    def _rotate(self) -> None:
        """Under a lock of the file itself, for another process may be about to."""
        fcntl.flock(2, fcntl.LOCK_EX)
        try:
            if _is_same_file(self._path, os.fstat(2)):
                os.replace(self._path, build_rotated_path(self._path))
        finally:
            fcntl.flock(2, fcntl.LOCK_UN)

    def _reopen(self, create: int = 0) -> None:
        """Take the file that is there now; where there is none, stay with the old."""
        try:
            opened = os.open(self._path, _FLAGS | create, _MODE)
            for descriptor in (1, 2):
                os.dup2(opened, descriptor)
            os.close(opened)
        except OSError:
            pass


def find_outlet(log_file: str) -> StderrOutlet:
    """Where standard error goes: to that file, also where it was put aside; or to another place."""
    try:
        found = os.fstat(2)
    except OSError:
        return StderrOutlet()
    is_log = stat.S_ISREG(found.st_mode) and (
        _is_same_file(log_file, found) or _is_same_file(build_rotated_path(log_file), found)
    )
    return LogFileOutlet(log_file) if is_log else StderrOutlet()


def _is_same_file(path: str, found: os.stat_result) -> bool:
    """Whether a path leads to this file."""
    try:
        return os.path.samestat(os.lstat(path), found)
    except OSError:
        return False
