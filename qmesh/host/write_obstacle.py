"""What keeps a file from being replaced, and what to do about it, for this file and this directory.

A file is replaced by a rename, which needs more than a file that may be written: its directory must take new
names, neither of the two may be immutable, and a file that is itself mounted cannot be renamed over.
Source: rename(2), statx(2), statvfs(3), chattr(1).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias

from qmesh.host.typed_commands import build_command

Kind: TypeAlias = Literal["mount", "immutable", "read-only", "no-rights", "other"]

_AT_EMPTY_PATH: Final = 0x1000
_ATTRIBUTES_AT: Final = 8
_STATX_SIZE: Final = 256
_IMMUTABLE, _APPEND_ONLY = 0x10, 0x20
_SEE_DISK: Final = (
    "look for a full disk (`df`), a read-only file system (`mount`), or missing rights; nothing was changed"
)
_libc = ctypes.CDLL(None, use_errno=True)


class WriteObstacle(NamedTuple):
    """What keeps a file from being replaced. path: of the file, or of the directory that is the reason.

    reason: in words, after the path; hint: what to do, with the command.
    """

    kind: Kind
    path: Path
    reason: str
    hint: str


def find_write_obstacle(
    directory: int, named: Path, file: int | None, *, is_mounted: bool, owner: int
) -> WriteObstacle | None:
    """What would keep this thread from replacing a file; None where nothing does, as far as can be seen.

    directory, file: descriptors, which need not allow more than to look; None for a file that is new.
    named: the file's path, in messages. is_mounted: whether something is mounted at the file.
    owner: the directory's.
    """
    parent = named.parent
    places = (parent, directory), (named, file)
    for path, descriptor in places:
        if descriptor is not None and os.fstatvfs(descriptor).f_flag & os.ST_RDONLY:
            return _build_read_only(path)
    for path, descriptor in places:
        found = None if descriptor is None else _find_attribute(descriptor)
        if found is not None:
            return _build_immutable(path, *found)
    if is_mounted:
        return _build_mount(named)
    if not os.access(f"/proc/self/fd/{directory}", os.W_OK | os.X_OK, effective_ids=True):
        return _build_no_rights(parent, owner)
    return None


def explain_refused_write(named: Path, at: Path, error: OSError) -> str:
    """What to do where the disk refused to replace a file, or the `.bak` file beside it.

    at: where it was tried. named: the file's path, in messages.
    """
    # Of a rename both names are told: what it could not replace is the second.
    name = at.name if error.filename2 is None else Path(os.fsdecode(error.filename2)).name
    if error.errno == errno.EROFS:
        return f"{_build_read_only(named.parent).hint}; nothing was changed"
    if error.errno == errno.EBUSY:
        return f"{_build_mount(named.with_name(name)).hint}; nothing was changed"
    if error.errno == errno.EPERM:
        for path, tried in ((named.parent, at.parent), (named.with_name(name), at.with_name(name))):
            found = _find_attribute_of(tried)
            if found is not None:
                return f"{_build_immutable(path, *found).hint}; nothing was changed"
    return _SEE_DISK


def _find_attribute_of(path: Path) -> tuple[str, str] | None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _find_attribute(descriptor)
    finally:
        os.close(descriptor)


def _build_read_only(path: Path) -> WriteObstacle:
    command = build_command('mount -o remount,rw "$(findmnt -n -o TARGET -T {})"', path, needs_root=True)
    hint = f"run `{command}`; where a container has mounted it, change that in the container's settings"
    return WriteObstacle("read-only", path, "is on a file system that is mounted read-only", hint)


def _build_immutable(path: Path, flag: str, word: str) -> WriteObstacle:
    command = build_command(f"chattr -{flag} {{}}", path, needs_root=True)
    return WriteObstacle("immutable", path, f"is {word}", f"run `{command}`")


def _build_mount(named: Path) -> WriteObstacle:
    hint = (
        f"run `{build_command('umount {}', named, needs_root=True)}`; where a container has mounted the file,"
        f" have it mount the directory {named.parent} instead"
    )
    return WriteObstacle("mount", named, "is a mount point, which cannot be replaced", hint)


def _build_no_rights(directory: Path, owner: int) -> WriteObstacle:
    hint = f"run `{build_command('chmod u+wx {}', directory)}`"
    return WriteObstacle("no-rights", directory, f"takes no new files of user {owner}, its owner", hint)


def _find_attribute(descriptor: int) -> tuple[str, str] | None:
    """The flag of chattr that forbids a change, and its meaning in a word; None for neither, or not known."""
    found = ctypes.create_string_buffer(_STATX_SIZE)
    if _libc.statx(descriptor, b"", _AT_EMPTY_PATH, 0, found) != 0:
        return None
    (attributes,) = struct.unpack_from("=Q", found, _ATTRIBUTES_AT)
    if attributes & _IMMUTABLE:
        return "i", "immutable"
    return ("a", "append-only") if attributes & _APPEND_ONLY else None
