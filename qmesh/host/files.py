"""Files that are replaced whole or not at all: keys, documents, and the node's config.yml."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from qmesh.errors import MachineRefused, NeedsRoot, StateUnreadable
from qmesh.host.system import disk_reserve
from qmesh.host.write_obstacle import explain_refused_write

PRIVATE_MODE = 0o600
MAX_OCTETS = 64 * 1024 * 1024
"""Octets that a file of ours is read to at most: a membership of thousands is some megabytes."""
MOST_ENTRIES = 10_000
"""Of a directory that may be a user's: those that are looked at."""


def read(path: Path, *, limit: int = MAX_OCTETS) -> bytes | None:
    """The bytes of a regular file that is no symbolic link; None where there is none.

    Raises StateUnreadable when something else is there, or it cannot be read: that is never None.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except PermissionError:
        raise NeedsRoot(f"{path} cannot be read by this user", hint="run the command as root") from None
    except OSError as error:
        raise _build_read_error(path, _describe_error(error)) from None
    # Looked at before it becomes a file object: Python makes none of a directory, and leaves it open.
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _build_read_error(path, "is not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        try:
            octets = file.read(limit + 1)
        except OSError as error:
            raise _build_read_error(path, _describe_error(error)) from None
    if len(octets) > limit:
        raise _build_read_error(path, f"is larger than {limit} bytes")
    return octets


def read_head(path: Path, count: int) -> bytes:
    """The first octets of a regular file that is no symbolic link; StateUnreadable for anything else."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise _build_read_error(path, _describe_error(error)) from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _build_read_error(path, "is not a regular file")
        return os.pread(descriptor, count, 0)
    except OSError as error:
        raise _build_read_error(path, _describe_error(error)) from None
    finally:
        os.close(descriptor)


def read_mode(path: Path) -> int | None:
    """The permission bits of a file, links not followed; None where nothing is."""
    try:
        return stat.S_IMODE(path.lstat().st_mode)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _build_read_error(path, _describe_error(error)) from None


def read_stamp(path: Path) -> tuple[int, int, int] | None:
    """Inode, time of the last change in nanoseconds and octets of a file; None where nothing is."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _build_read_error(path, _describe_error(error)) from None
    return found.st_ino, found.st_ctime_ns, found.st_size


def write(path: Path, octets: bytes, *, mode: int = PRIVATE_MODE) -> None:
    """Put `octets` at `path`, whole or not at all, and on the disk before this returns.

    A symbolic link at `path` is replaced, not followed. The file has `mode` from its first byte.
    Where the disk is full, the reserve in that directory is given up for it, if there is one: so this is for
    directories of qmesh's own. Raises MachineRefused when the disk refuses; then the old file is as it was.
    """
    with _translate_refusals(path, path):
        try:
            _replace_file(path, octets, mode, None)
        except OSError as error:
            if error.errno not in disk_reserve.FULL or not disk_reserve.release_reserve(path.parent):
                raise
            _replace_file(path, octets, mode, None)


def write_with_owner(
    path: Path, named: Path, octets: bytes, mode: int, owner: tuple[int, int] | None
) -> None:
    """As `write`, in any directory. named: the path in messages. owner: user and group that it should have.

    Where this thread may not change the owner, group and others get no permissions.
    """
    with _translate_refusals(path, named):
        _replace_file(path, octets, mode, owner)


@contextlib.contextmanager
def _translate_refusals(path: Path, named: Path) -> Iterator[None]:
    """Raise MachineRefused for what the disk refused."""
    try:
        yield
    except OSError as error:
        raise MachineRefused(
            f"{named} could not be written: {_describe_error(error)}",
            hint=explain_refused_write(named, path, error),
        ) from None


def _replace_file(path: Path, octets: bytes, mode: int, owner: tuple[int, int] | None) -> None:
    with _create_temporary(path) as (descriptor, temporary):
        if owner is not None and not _change_owner(descriptor, owner):
            mode &= 0o700
        os.fchmod(descriptor, mode)
        _write_all(descriptor, octets)
        os.fsync(descriptor)
        temporary.replace(path)
    sync_directory(path.parent)


def replace_together(changes: Mapping[Path, bytes | Path | None], *, named: Path | None = None) -> None:
    """Change files of one directory as one durable step: in this order, and on the disk before this returns.

    changes: what each is to hold, 0600; or the file there that takes its place; or None: it is to be gone.
    named: the directory in messages, where it is none of qmesh's own, so that it has no reserve.
    All octets are on the disk before the first file is another, so a disk that is full changes none. After
    a power failure those before some point are new, and the others as they were. Raises MachineRefused.
    """
    directory = next(iter(changes)).parent
    try:
        try:
            _change_files(changes)
        except OSError as error:
            if (
                named is not None
                or error.errno not in disk_reserve.FULL
                or not disk_reserve.release_reserve(directory)
            ):
                raise
            _change_files(changes)
        sync_directory(directory)
    except OSError as error:
        names = " and ".join(path.name for path, wanted in changes.items() if wanted is not None)
        first, shown = next(iter(changes)), directory if named is None else named
        raise MachineRefused(
            f"{names} in {shown} could not be written: {_describe_error(error)}",
            hint=explain_refused_write(shown / first.name, first, error),
        ) from None


def _change_files(changes: Mapping[Path, bytes | Path | None]) -> None:
    with contextlib.ExitStack() as opened:
        wanted: dict[Path, Path | None] = {}
        for path, change in changes.items():
            if isinstance(change, bytes):
                descriptor, wanted[path] = opened.enter_context(_create_temporary(path))
                _write_all(descriptor, change)
                os.fsync(descriptor)
            else:
                wanted[path] = change
        for path, new in wanted.items():
            if new is None:
                path.unlink(missing_ok=True)
            else:
                new.replace(path)


class FileChange(NamedTuple):
    """A file that is replaced, or made. octets, old: what it will hold, and holds; None where nothing is."""

    name: str
    octets: bytes
    old: bytes | None


def replace_all(directory: Path, named: Path, changes: Sequence[FileChange]) -> None:
    """Replace files of one directory, or make new ones: all or none, 0600, each old one kept as `NAME.bak`.

    All is on the disk before the first one is replaced, so a disk that is full changes nothing. In the order
    of `changes`; after a power failure between two of them those before it are new, and the others old.
    named: the directory in messages. Raises MachineRefused, with the files as they were.
    """
    done: list[FileChange] = []
    try:
        with contextlib.ExitStack() as opened:
            prepared = [
                (change, _prepare_copies(directory / change.name, change, opened)) for change in changes
            ]
            try:
                for change, (new, old) in prepared:
                    target = directory / change.name
                    if old is not None:
                        old.replace(target.with_name(f"{change.name}.bak"))
                    done.append(change)
                    new.replace(target)
            except OSError:
                _restore_files(directory, done)
                raise
            sync_directory(directory)
    except OSError as error:
        raise MachineRefused(
            f"{' and '.join(change.name for change in changes)} in {named} could not be written:"
            f" {_describe_error(error)}",
            hint=explain_refused_write(named / changes[0].name, directory / changes[0].name, error),
        ) from None


def _prepare_copies(
    target: Path, change: FileChange, opened: contextlib.ExitStack
) -> tuple[Path, Path | None]:
    """Two files that are synced to the disk: what `target` will hold, and what it holds, if it is there."""
    copies = []
    for name, octets in ((target.name, change.octets), (f"{target.name}.bak", change.old)):
        if octets is not None:
            descriptor, temporary = opened.enter_context(_create_temporary(target.with_name(name)))
            _write_all(descriptor, octets)
            os.fsync(descriptor)
            copies.append(temporary)
    return copies[0], copies[1] if len(copies) > 1 else None


def _restore_files(directory: Path, done: Sequence[FileChange]) -> None:
    """Have those files hold again what they held. What can't be restored is in its .bak file."""
    for change in reversed(done):
        with contextlib.suppress(OSError):
            target = directory / change.name
            if change.old is None:
                target.unlink(missing_ok=True)
            else:
                _replace_file(target, change.old, PRIVATE_MODE, None)


def remove_temporary_files(directory: Path, name: str) -> None:
    """Remove temporary files of a process that was killed while it wrote that file: keys may be in them.

    They are sought among the first `MOST_ENTRIES` of the directory, whose owner may have made millions.
    """
    left = re.compile(rf"\.{re.escape(name)}.*\..{{8}}", re.DOTALL)
    with contextlib.suppress(PermissionError), os.scandir(directory) as entries:
        for entry in itertools.islice(entries, MOST_ENTRIES):
            if left.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    Path(entry).unlink()


def _change_owner(descriptor: int, owner: tuple[int, int]) -> bool:
    try:
        os.fchown(descriptor, *owner)
    except PermissionError:
        return False
    return True


def _write_all(descriptor: int, octets: bytes) -> None:
    left = memoryview(octets)
    while left:
        left = left[os.write(descriptor, left) :]


@contextlib.contextmanager
def _create_temporary(path: Path) -> Iterator[tuple[int, Path]]:
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
            f"{path} could not be removed: {_describe_error(error)}",
            hint="look for a read-only file system (`mount`)",
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
            f"{path} could not be renamed to {to}: {_describe_error(error)}",
            hint="look for a full disk (`df`) or a read-only file system (`mount`)",
        ) from None


def make_private_directory(path: Path) -> None:
    """Make a directory that only its owner enters; fix its mode where it is wider.

    Where those above it are not there, they are made too, for others to enter and not to change.
    Raises MachineRefused when it is a link, is not a directory, or belongs to another user.
    """
    try:
        for parent in reversed(path.parents):
            parent.mkdir(mode=0o755, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise MachineRefused(
            f"{path} could not be made: {_describe_error(error)}", hint="pass another directory with --state"
        ) from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise MachineRefused(
            f"{path} is a link, is not a directory, or belongs to another user",
            hint="remove it, or pass another directory with --state",
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        path.chmod(0o700)


def _describe_error(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _build_read_error(path: Path, why: str) -> StateUnreadable:
    return StateUnreadable(
        f"{path} cannot be read: {why}",
        hint="fix it, or restore it from a backup; qmesh does not guess what was in it",
    )
