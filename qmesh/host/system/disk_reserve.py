"""Reserved room on the disk, for changes such as `remove` when the disk is full.

It is files in the state directory, each of which also frees an inode. The agent makes them while there is
room. The first write that finds the disk full deletes them all, and uses the room.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Final

NAMES: Final = tuple(f"reserve.{number}" for number in range(4))
"""Its files in the state directory."""
FILE_OCTETS: Final = 1 << 20
ROOM_OCTETS: Final = 16 << 20
ROOM_FILES: Final = 64
"""What must be free besides, for it to be made: it is not to be what fills the disk."""
LEAST_OCTETS: Final = 512 << 10
LEAST_FILES: Final = 4
"""What a change of the registry takes, with room to spare: SQLite makes two files beside it, also to read."""
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def is_whole(directory: Path) -> bool:
    """Whether it is there."""
    return all((directory / name).exists() for name in NAMES)


def create_reserve(directory: Path) -> bool:
    """Have it, where there is room; whether it is whole. Raises OSError where it could not look or write."""
    if is_whole(directory):
        return True
    if not _has_room(directory, ROOM_OCTETS, ROOM_FILES):
        return False
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        for name in NAMES:
            descriptor = os.open(directory / name, flags, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, FILE_OCTETS)
            finally:
                os.close(descriptor)
    except OSError as error:
        release_reserve(directory)
        if error.errno in FULL:
            return False
        raise
    return True


def release_reserve(directory: Path) -> bool:
    """Let others have its room; whether there was any. What has been freed can be used when this returns."""
    found = False
    for name in NAMES:
        with contextlib.suppress(OSError):
            (directory / name).unlink()
            found = True
    if found:
        with contextlib.suppress(OSError):
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)  # some file systems free nothing before that
            finally:
                os.close(descriptor)
    return found


def release_if_full(directory: Path) -> None:
    """Delete the reserve where the disk is full: for callers that can't try a second time."""
    with contextlib.suppress(OSError):
        if not _has_room(directory, LEAST_OCTETS, LEAST_FILES):
            release_reserve(directory)


def _has_room(directory: Path, octets: int, inodes: int) -> bool:
    """Whether so much is free there, for root. Some file systems do not report inodes."""
    found = os.statvfs(directory)
    return found.f_bfree * found.f_frsize >= octets and (not found.f_files or found.f_ffree >= inodes)
