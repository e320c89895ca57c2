"""Files, whole or not at all: keys, documents, and the node's config.yml."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from qmesh.errors import BadInput, MachineRefused, NeedsRoot, StateUnreadable
from qmesh.mesh.model import quoted

PRIVATE_MODE = 0o600
MAX_OCTETS = 64 * 1024 * 1024
"""Octets that a file of ours is read to at most: a membership of thousands is some megabytes."""


def read(path: Path, *, limit: int = MAX_OCTETS) -> bytes | None:
    """The octets of a regular file that is no symbolic link; None where nothing is.

    Raises StateUnreadable when something is there that cannot be read so: never "nothing there".
    """
    found = _read(path, path, limit)
    return None if found is None else found[0]


def _read(path: Path, named: Path, limit: int = MAX_OCTETS) -> tuple[bytes, os.stat_result] | None:
    """A file with what the kernel says of it. named: what messages call it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except PermissionError:
        raise NeedsRoot(f"{named} cannot be read by this user", hint="run the command as root") from None
    except OSError as error:
        raise _unreadable(named, _reason(error)) from None
    # Looked at before it becomes a file object: Python makes none of a directory, and leaves it open.
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise _unreadable(named, "is not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        try:
            octets = file.read(limit + 1)
        except OSError as error:
            raise _unreadable(named, _reason(error)) from None
    if len(octets) > limit:
        raise _unreadable(named, f"is larger than {limit} bytes")
    return octets, status


def head(path: Path, count: int) -> bytes:
    """The first octets of a regular file that is no symbolic link; StateUnreadable for anything else."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise _unreadable(path, _reason(error)) from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _unreadable(path, "is not a regular file")
        return os.pread(descriptor, count, 0)
    except OSError as error:
        raise _unreadable(path, _reason(error)) from None
    finally:
        os.close(descriptor)


def mode_of(path: Path) -> int | None:
    """The permission bits of a file, links not followed; None where nothing is."""
    try:
        return stat.S_IMODE(path.lstat().st_mode)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, _reason(error)) from None


def stamp(path: Path) -> tuple[int, int, int] | None:
    """Inode, time of the last change in nanoseconds and octets of a file; None where nothing is."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, _reason(error)) from None
    return found.st_ino, found.st_ctime_ns, found.st_size


def write(
    path: Path, octets: bytes, *, mode: int = PRIVATE_MODE, owner: tuple[int, int] | None = None
) -> None:
    """Put `octets` at `path`, whole or not at all, and on the disk before this returns.

    A symbolic link at `path` is replaced, not followed. The file has `mode` from its first byte.
    Raises MachineRefused when the disk refuses; then the old file is as it was.
    """
    _write(path, path, octets, mode, owner)


def _write(path: Path, named: Path, octets: bytes, mode: int, owner: tuple[int, int] | None) -> None:
    try:
        with _temporary(path) as (descriptor, temporary):
            os.fchmod(descriptor, mode)
            if owner is not None:
                os.fchown(descriptor, *owner)
            _write_all(descriptor, octets)
            os.fsync(descriptor)
            temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise MachineRefused(
            f"{named} could not be written: {_reason(error)}",
            hint="look for a full disk, a read-only file system, or missing rights; nothing was changed",
        ) from None


def write_new(path: Path, octets: bytes) -> None:
    """Put `octets` into a file that was not there, 0600. Raises BadInput where it cannot be new."""
    if path.is_symlink() or path.exists():
        raise BadInput(f"{path} is there already", hint="name a new file with -o, or remove that one")
    if not path.parent.is_dir():
        raise BadInput(
            f"there is no directory {path.parent}", hint="name a file in one that is there with -o"
        )
    write(path, octets)


def _write_all(descriptor: int, octets: bytes) -> None:
    left = memoryview(octets)
    while left:
        left = left[os.write(descriptor, left) :]


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[tuple[int, Path]]:
    """A new file beside `path`, 0600; gone afterwards unless it was renamed."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        yield descriptor, Path(name)
    finally:
        os.close(descriptor)
        Path(name).unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Make a rename or removal in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file, durably; nothing there is fine, and costs no write to the disk."""
    try:
        path.unlink()
        sync_directory(path.parent)
    except FileNotFoundError:
        return
    except OSError as error:
        raise MachineRefused(
            f"{path} could not be removed: {_reason(error)}", hint="look for a read-only file system"
        ) from None


def move(path: Path, to: Path) -> None:
    """Put a file in the place of another, in the same directory; durable when this returns.

    Raises MachineRefused.
    """
    try:
        path.replace(to)
        sync_directory(to.parent)
    except OSError as error:
        raise MachineRefused(
            f"{path} could not be put in the place of {to}: {_reason(error)}",
            hint="look for a full disk or a read-only file system",
        ) from None


def make_private_directory(path: Path) -> None:
    """Make a directory that only its owner enters; mend its mode where it is wider.

    Raises MachineRefused when it is a link, no directory, or somebody else's.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise MachineRefused(
            f"{path} could not be made: {_reason(error)}", hint="choose another place with --state"
        ) from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise MachineRefused(
            f"{path} is a link, no directory, or somebody else's",
            hint="remove it, or choose another place with --state",
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        path.chmod(0o700)


def write_in_place_of(path: Path, octets: bytes, *, instead_of: bytes | None) -> Path:
    """Replace somebody's existing file, or make a new one, and keep the old as `NAME.bak`.

    instead_of: what the file holds; None for a new one. Owner and mode stay, less what others may do; a
    new one is 0600. A symbolic link is followed when it and its target belong to one user, and the target
    is what is replaced. Returns what was written.

    The directory may be a user's, who may put another in its place at any moment: all is done in the one
    that is there at first. Raises BadInput for a link that leads to somebody else's file, and where
    something was changed meanwhile.
    """
    real = followed(path)
    with _pinned(real.parent) as directory:
        place = directory / real.name
        old = _read(place, real)
        if (None if old is None else old[0]) != instead_of:
            raise BadInput(f"{real} was changed meanwhile", hint="run the same command again")
        if old is None:
            found = directory.stat()
            _write(place, real, octets, PRIVATE_MODE, (found.st_uid, found.st_gid))
            return real
        before, found = old
        mode, owner = stat.S_IMODE(found.st_mode) & 0o770, (found.st_uid, found.st_gid)
        _write(place.with_name(f"{real.name}.bak"), real, before, mode, owner)
        _write(place, real, octets, mode, owner)
    return real


@contextlib.contextmanager
def _pinned(directory: Path) -> Iterator[Path]:
    """A path by which a directory is reached whatever is put in its place. Source: proc(5), pid/fd."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise MachineRefused(
            f"{directory} cannot be written to: {_reason(error)}", hint="make the directory first"
        ) from None
    try:
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def followed(path: Path) -> Path:
    """The file itself, where `path` is a link to a file of the same owner; else `path`.

    Raises BadInput for a link that leads elsewhere.
    """
    if not path.is_symlink():
        return path
    real = Path(os.path.realpath(path))  # Path.resolve raises RuntimeError where links go in a circle
    # Not even where the file is ours: a user's link to a file of root's would have root replace it.
    if not real.is_file() or real.stat().st_uid != path.lstat().st_uid:
        raise BadInput(
            f"{path} is a link to {quoted(str(real))}, which is no file of the same owner",
            hint="put the file itself there, or name its directory with --config",
        )
    return real


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _unreadable(path: Path, why: str) -> StateUnreadable:
    return StateUnreadable(
        f"{path} cannot be read: {why}",
        hint="mend or restore it; qmesh does not guess at its contents",
    )
