"""The directory of the node's config.yml, which may be a user's: opened without links, used as that user.

A user who owns a part of the path could otherwise borrow root's rights: by a link, by another directory in
its place, by a file that never ends. So the path is opened from `/` on, one directory at a time; the owner
of the last one is compared with the owner that it had; and files in it are read and written with that
user's rights, in a thread that is given up after some seconds.
Source: openat(2), O_PATH; setfsuid(2): of one thread, and nobody may send signals to it for that.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, TypeVar

import msgspec

from qmesh.errors import BadInput, MachineRefused, NeedsRoot, QmeshError, StateUnreadable
from qmesh.host import files, write_obstacle
from qmesh.host.disk_timeout import run_in_time
from qmesh.host.files import FileChange
from qmesh.host.owned_path import (
    OpenedEntry,
    PathMissing,
    act_as_user,
    open_component,
    open_without_links,
    read_link,
    read_mount_id,
)
from qmesh.host.typed_commands import CLOSE, build_command, build_giving_command
from qmesh.host.write_obstacle import WriteObstacle
from qmesh.mesh.values import quote_text

MAX_OCTETS: Final = 1024 * 1024
WRITE_S: Final = 30.0
"""Seconds until a file system counts as one that does not answer where a file is written and synced to it."""
_FLOCK: Final = "hhqqi"
"""Kind, origin, start, length and process of a lock. Source: fcntl(2), struct flock."""
_NAME_IT: Final = "run `qmesh render-config --write --config DIR`, with this directory or another one"

_T = TypeVar("_T")


class ConfigDirectory(msgspec.Struct, frozen=True):
    """A directory, and the owner that it should have.

    path: absolute, without links. owner: a user's number; None accepts any owner.
    """

    path: Path
    owner: int | None

    def __str__(self) -> str:
        return str(self.path)


class Content(NamedTuple):
    """A file's octets and permission bits."""

    octets: bytes
    mode: int


def find(path: Path) -> ConfigDirectory | None:
    """The directory at `path`, with who owns it now; None where nothing is.

    Raises BadInput where the way leads through a link that root did not put there, or to no directory.
    """
    with contextlib.suppress(PathMissing):
        return _run_in_thread(path, lambda: _find(path))
    return None


def read(directory: ConfigDirectory, name: str) -> Content | None:
    """A regular file of the directory, of `MAX_OCTETS` at most; None where nothing is.

    Raises BadInput where the directory or the file is not what it was, StateUnreadable for a file that can't
    be read, MachineRefused where the disk does not answer, NeedsRoot.
    """
    return _look_at_file(directory, name, _read_content)


def read_stamp(directory: ConfigDirectory, name: str) -> tuple[int, int, int, int] | None:
    """Inode, time of the last change, octets, and time of the last writing of a file; None where nothing is.

    Times are in nanoseconds. The kernel alone sets the first, also where only the mode changes; its owner may
    set the second. Nothing of the file is read. Raises as `read`.
    """
    found = _look_at_file(directory, name, lambda _, found: found.status)
    return None if found is None else (found.st_ino, found.st_ctime_ns, found.st_size, found.st_mtime_ns)


def find_lock_owner(directory: ConfigDirectory, name: str) -> int | None:
    """The number of another process that holds a POSIX lock on a file; None where none does, or nothing is.

    It is 0 where that process is out of sight. Nothing of the file is read. Raises as `read`.
    """
    return _look_at_file(directory, name, _find_lock_owner)


def read_mode(directory: ConfigDirectory, name: str) -> int | None:
    """Permission bits of a file; None where nothing is. Nothing of the file is read. Raises as `read`."""
    return _look_at_file(directory, name, lambda _, found: stat.S_IMODE(found.status.st_mode))


def build_closing_command(directory: ConfigDirectory, name: str) -> str:
    """What to type so that only the owner of the directory reads a file; empty where nothing is.

    Raises as `read`.
    """
    return _look_at_file(directory, name, _build_closing_command) or ""


def find_write_obstacle(directory: ConfigDirectory, name: str) -> WriteObstacle | None:
    """What would keep `write` from replacing a file; None where nothing does. Raises as `read`."""
    with contextlib.suppress(PathMissing):
        return _run_in_thread(directory.path, lambda: _find_write_obstacle(directory, name))
    return None


def close_to_others(directory: ConfigDirectory, name: str) -> None:
    """Take from a file what any other than its owner may do; of one that is not there nothing.

    One that is not the directory owner's stays as it is. Raises as `read`.
    """
    _look_at_file(directory, name, _close_to_others)


class DiskSpace(NamedTuple):
    """Bytes of a disk: all, and those that are left for others than root."""

    size: int
    free: int


def read_disk_space(directory: ConfigDirectory) -> DiskSpace:
    """Of the disk that the directory is on. Raises MachineRefused where none is, and as `read`."""
    disk = _work_in(directory, lambda place: os.fstatvfs(place.descriptor))
    return DiskSpace(disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize)


def write(
    directory: ConfigDirectory, name: str, octets: bytes, *, instead_of: bytes | None
) -> tuple[Path, bool]:
    """Replace a file, or make a new one, and keep the old as `NAME.bak`.

    Returns what was written, and whether that changed it.
    instead_of: what the file holds; None for a new one. The owner stays, as far as the directory's owner may
    have it so, and the mode, less what any other may do, also where the content is right; a new one is 0600
    and that user's. Where a link to a file of the same owner stands, that file is replaced.

    Raises BadInput where something was changed meanwhile, MachineRefused where there is no such directory or
    it can't be written to; else as `read`.
    """
    return _work_in(directory, lambda place: _write(place, name, octets, instead_of), wait_s=WRITE_S)


def write_all(directory: ConfigDirectory, changes: Sequence[FileChange]) -> tuple[Path, ...]:
    """Replace files, or make new ones: all or none, 0600 and the directory's owner's; those that changed.

    Each old one is kept as `NAME.bak`. One that holds its octets already, and that others can't read, stays.
    Raises BadInput where a link stands in the place of one, or one was changed meanwhile; else as `write`.
    """
    return _work_in(directory, lambda place: _write_changes(place, changes), wait_s=WRITE_S)


def _look_at_file(
    directory: ConfigDirectory, name: str, look: Callable[[OpenedEntry, OpenedEntry], _T]
) -> _T | None:
    """What `look` gives for the directory and a file of it; None where nothing is."""

    def work() -> _T:
        with _open_directory(directory) as place, _open_file(place, name) as (_, found):
            return look(place, found)

    with contextlib.suppress(PathMissing):
        return _run_in_thread(directory.path, work)
    return None


def _work_in(
    directory: ConfigDirectory, work: Callable[[OpenedEntry], _T], *, wait_s: float | None = None
) -> _T:
    """What `work` gives for the directory. Raises MachineRefused where none is."""

    def enter() -> _T:
        with _open_directory(directory) as place:
            return work(place)

    try:
        return _run_in_thread(directory.path, enter, wait_s=wait_s)
    except PathMissing:
        raise MachineRefused(
            f"there is no directory {directory}", hint="make the directory first: `mkdir`"
        ) from None


def _write_changes(place: OpenedEntry, changes: Sequence[FileChange]) -> tuple[Path, ...]:
    due = [change for change in changes if _is_due(place, change)]
    for change in due:
        _refuse_obstacle_at(place, change.name)
    # By the descriptor: whatever is put in its place meanwhile, this is the directory that was looked at.
    target = Path(f"/proc/self/fd/{place.descriptor}")
    with act_as_user(place.status.st_uid):
        for change in changes:
            files.remove_temporary_files(target, change.name)
        if due:
            files.replace_all(target, place.path, due)
    return tuple(place.path / change.name for change in due)


def _refuse_obstacle_at(place: OpenedEntry, name: str) -> None:
    named = place.path / name
    with contextlib.ExitStack() as opened:
        try:
            found = open_component(Path(name), named, place, opened)
        except PathMissing:
            found = None
        _refuse_obstacle(_look_for_obstacle(place, place, named, found), named)


def _is_due(place: OpenedEntry, change: FileChange) -> bool:
    """Whether a file has to be written. Raises BadInput where it is not what it was, or is a link."""
    with contextlib.ExitStack() as opened:
        try:
            found = open_component(Path(change.name), place.path / change.name, place, opened)
        except PathMissing:
            before, mode = None, 0
        else:
            if stat.S_ISLNK(found.status.st_mode):
                raise BadInput(
                    f"{found.path} is a link to {quote_text(read_link(found))}, and secrets are not written"
                    " through links",
                    hint=f"remove the link: `{build_command('rm {}', found.path)}`; or pass the directory"
                    " that it leads to with --config",
                )
            if not stat.S_ISREG(found.status.st_mode):
                raise _build_read_error(found.path, "is not a regular file")
            before, mode = _read_content(place, found)
    if before != change.old:
        raise BadInput(
            f"{place.path / change.name} was changed by another program meanwhile",
            hint="run the same command again",
        )
    return before != change.octets or bool(mode & ~files.PRIVATE_MODE)


def _find(path: Path) -> ConfigDirectory:
    with open_without_links(path) as found:
        return ConfigDirectory(found.path, found.status.st_uid)


def _find_lock_owner(place: OpenedEntry, found: OpenedEntry) -> int | None:
    with _open_to_read(place, found) as file:
        asked = fcntl.fcntl(file, fcntl.F_GETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    kind, _, _, _, owner = struct.unpack(_FLOCK, asked)
    return None if kind == fcntl.F_UNLCK else max(owner, 0)


def _find_write_obstacle(directory: ConfigDirectory, name: str) -> WriteObstacle | None:
    with _open_directory(directory) as place, contextlib.ExitStack() as opened:
        try:
            at, found = opened.enter_context(_open_file(place, name))
        except PathMissing:
            return _look_for_obstacle(place, place, place.path / name, None)
        return _look_for_obstacle(place, at, found.path, found)


def _look_for_obstacle(
    place: OpenedEntry, at: OpenedEntry, named: Path, found: OpenedEntry | None
) -> WriteObstacle | None:
    """place: the directory with whose owner's rights it is written; at: the one that the file is in."""
    is_mounted = found is not None and read_mount_id(found.descriptor) != read_mount_id(at.descriptor)
    owner = place.status.st_uid
    with act_as_user(owner):
        return write_obstacle.find_write_obstacle(
            at.descriptor,
            named,
            None if found is None else found.descriptor,
            is_mounted=is_mounted,
            owner=owner,
        )


def _refuse_obstacle(obstacle: WriteObstacle | None, named: Path) -> None:
    """Raise MachineRefused before anything is written, where it could not be finished."""
    if obstacle is not None:
        raise MachineRefused(
            f"{named} cannot be replaced: {obstacle.path} {obstacle.reason}",
            hint=f"{obstacle.hint}; nothing was changed",
        )


def _write(place: OpenedEntry, name: str, octets: bytes, instead_of: bytes | None) -> tuple[Path, bool]:
    with contextlib.ExitStack() as opened:
        try:
            at, found = opened.enter_context(_open_file(place, name))
        except PathMissing:
            at, entry = place, None
            real, before, mode, owner = place.path / name, None, files.PRIVATE_MODE, None
        else:
            entry = found
            content = _read_content(place, found)
            real, before, mode = found.path, content.octets, content.mode & files.PRIVATE_MODE
            owner = found.status.st_uid, found.status.st_gid
            if before == octets:
                _close_to_others(place, found)
                return real, False
        if before != instead_of:
            raise BadInput(
                f"{real} was changed by another program meanwhile", hint="run the same command again"
            )
        _refuse_obstacle(_look_for_obstacle(place, at, real, entry), real)
        # By the descriptor: whatever is put in its place meanwhile, this is the directory that was looked at.
        target = Path(f"/proc/self/fd/{at.descriptor}") / real.name
        with act_as_user(place.status.st_uid):
            if before is not None:
                files.write_with_owner(target.with_name(f"{real.name}.bak"), real, before, mode, owner)
            files.write_with_owner(target, real, octets, mode, owner)
        return real, True


def _build_closing_command(place: OpenedEntry, found: OpenedEntry) -> str:
    owner = place.status.st_uid
    if found.status.st_uid == owner or found.status.st_nlink > 1:
        return build_command(CLOSE, found.path)
    return build_giving_command(CLOSE, found.path, owner)


def _close_to_others(place: OpenedEntry, found: OpenedEntry) -> None:
    """Take from a file what any other than its owner may do; one that is not the directory owner's stays."""
    mode = stat.S_IMODE(found.status.st_mode)
    if mode & ~files.PRIVATE_MODE:
        with act_as_user(place.status.st_uid), contextlib.suppress(PermissionError):
            os.chmod(f"/proc/self/fd/{found.descriptor}", mode & files.PRIVATE_MODE)  # noqa: PTH101


def _read_content(place: OpenedEntry, found: OpenedEntry) -> Content:
    with _open_to_read(place, found) as file:
        octets = file.read(MAX_OCTETS + 1)
    if len(octets) > MAX_OCTETS:
        raise _build_read_error(found.path, f"is larger than {MAX_OCTETS} bytes")
    return Content(octets, stat.S_IMODE(found.status.st_mode))


@contextlib.contextmanager
def _open_to_read(place: OpenedEntry, found: OpenedEntry) -> Iterator[BinaryIO]:
    """A file that was looked at, with the rights of the directory's owner. Raises as `read`."""
    with act_as_user(place.status.st_uid):
        try:
            descriptor = os.open(
                f"/proc/self/fd/{found.descriptor}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
            )
            with os.fdopen(descriptor, "rb") as file:
                yield file
        except PermissionError:
            raise _build_permission_error(place, found) from None
        except OSError as error:
            raise _build_read_error(found.path, error.strerror or type(error).__name__) from None


@contextlib.contextmanager
def _open_directory(directory: ConfigDirectory) -> Iterator[OpenedEntry]:
    """The directory, where it is still whose it was."""
    with open_without_links(directory.path) as found:
        owner = found.status.st_uid
        if directory.owner not in {None, owner}:
            raise BadInput(
                f"{directory} belonged to user {directory.owner}, and belongs to user {owner} now",
                hint=_NAME_IT,
            )
        yield found


@contextlib.contextmanager
def _open_file(place: OpenedEntry, name: str) -> Iterator[tuple[OpenedEntry, OpenedEntry]]:
    """A regular file of a directory, and the directory that it is in: another one where a link leads there.

    Raises BadInput for a link unless link, file and the file's directory are of one owner.
    """
    with contextlib.ExitStack() as opened:
        at, found = place, open_component(Path(name), place.path / name, place, opened)
        if stat.S_ISLNK(found.status.st_mode):
            link, target = found, place.path / read_link(found)
            try:
                at = opened.enter_context(open_without_links(target.parent))
                found = open_component(Path(target.name), at.path / target.name, at, opened)
            except PathMissing:
                raise _build_foreign_link_error(link) from None
            owners = {each.status.st_uid for each in (place, link, at, found)}
            if len(owners) > 1 or not stat.S_ISREG(found.status.st_mode):
                raise _build_foreign_link_error(link)
        if not stat.S_ISREG(found.status.st_mode):
            raise _build_read_error(found.path, "is not a regular file")
        yield at, found


def _run_in_thread(path: Path, work: Callable[[], _T], *, wait_s: float | None = None) -> _T:
    """As `run_in_time`; raises MachineRefused for any OSError too."""
    try:
        return run_in_time(path, work, wait_s=wait_s, else_do="pass another directory with --config")
    except OSError as error:
        raise MachineRefused(
            f"{path} cannot be used: {error}", hint="look in `dmesg` for errors of the disk"
        ) from error


def _build_foreign_link_error(link: OpenedEntry) -> BadInput:
    return BadInput(
        f"{link.path} is a link to {quote_text(read_link(link))}, which is not a file of the same owner",
        hint="move the file itself there, or pass its directory with --config",
    )


def _build_permission_error(place: OpenedEntry, found: OpenedEntry) -> QmeshError:
    if os.geteuid() != 0:
        return NeedsRoot(f"{found.path} cannot be read by this user", hint="run the command as root")
    owner = place.status.st_uid
    # A link that he puts in its place meanwhile is all that -h changes; by a second name it may be any file.
    command = build_command(f"chown -h {owner} {{}}", found.path, needs_root=True)
    give = f"run `{command}`: qmesh reads and writes there with that user's rights"
    hint = give if found.status.st_nlink < 2 else "put a copy in its place: it has another name as well"
    return BadInput(f"{found.path} cannot be read by user {owner}, the owner of the directory", hint=hint)


def _build_read_error(path: Path, why: str) -> StateUnreadable:
    return StateUnreadable(
        f"{path} cannot be read: {why}", hint="fix the file, or restore the node's own file from a backup"
    )
