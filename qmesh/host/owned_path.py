"""A path opened one directory at a time, without links, and files there used with their owner's rights."""

from __future__ import annotations

import contextlib
import ctypes
import os
import posixpath
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from qmesh.errors import BadInput, MachineRefused, NeedsRoot
from qmesh.host.system import node_user
from qmesh.mesh.values import quote_text

_MOST_LINKS: Final = 40
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_FIND: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

_libc = ctypes.CDLL(None)
for _call in (_libc.setfsuid, _libc.setfsgid):
    _call.argtypes, _call.restype = (ctypes.c_uint,), ctypes.c_uint


class PathMissing(Exception):
    """Something on the way is not there. FileNotFoundError could be about /proc as well."""


class DirectoryUse(NamedTuple):
    """What a directory is for, in hints: the option that names it, and what is in it."""

    option: str
    content: str


NODE_USE: Final = DirectoryUse("--config", "the node's config.yml")


class OpenedEntry(NamedTuple):
    """What is open, only to be looked at (O_PATH), where that is, and what the kernel says of it."""

    descriptor: int
    path: Path
    status: os.stat_result


@contextlib.contextmanager
def open_without_links(path: Path, use: DirectoryUse = NODE_USE) -> Iterator[OpenedEntry]:
    """Go to a directory from `/`, without links but those that only root can have put there.

    Who is not root has no rights to lend, and goes his way as he likes.
    """
    if not path.is_absolute() or "\0" in str(path):
        raise BadInput(
            f"{quote_text(str(path))} is not an absolute path",
            hint=f"pass the directory with {use.option}, as a path that begins with /",
        )
    with contextlib.ExitStack() as opened:
        if os.geteuid() == 0:
            found = _walk_components(path, use, opened)
        else:
            real = Path(os.path.realpath(path))
            found = open_component(real, real, None, opened, use)
        if not stat.S_ISDIR(found.status.st_mode):
            raise BadInput(f"{path} is not a directory", hint=_build_directory_hint(use))
        yield found


def _build_directory_hint(use: DirectoryUse) -> str:
    return f"pass the directory for {use.content} with {use.option}"


def _walk_components(path: Path, use: DirectoryUse, opened: contextlib.ExitStack) -> OpenedEntry:
    for _ in range(_MOST_LINKS):
        waiting = Path(posixpath.normpath(path)).parts[1:]
        here = open_component(Path("/"), Path("/"), None, opened, use)
        is_roots = _is_root_only(here.status)
        for number, name in enumerate(waiting):
            below = open_component(Path(name), here.path / name, here, opened, use)
            if stat.S_ISLNK(below.status.st_mode):
                if not is_roots:
                    raise _build_link_error(below, use)
                path = here.path.joinpath(read_link(below), *waiting[number + 1 :])
                break
            is_roots = is_roots and _is_root_only(below.status)
            here = below
        else:
            return here
    raise BadInput(f"{path} has too many symbolic links", hint="pass the directory itself")


def _is_root_only(status: os.stat_result) -> bool:
    """Whether only root can create or replace entries there."""
    return status.st_uid == 0 and not status.st_mode & _OTHERS_WRITE


def find_changeable_place(directory: Path) -> tuple[Path, os.stat_result] | None:
    """A directory, or what there is of the way to it; None where all of that is root's alone, and for others.

    directory: an absolute path. A link on the way counts as something that others can change.
    """
    if os.geteuid() != 0:
        return None
    is_roots, place = True, None
    for part in (*reversed(directory.parents), directory):
        try:
            found = part.lstat()
        except OSError:
            break
        # In a directory with the sticky bit nobody moves what is root's: that is the part below it.
        is_roots = is_roots and found.st_uid == 0 and (place is None or _keeps_entries(place[1]))
        place = part, found
    is_roots = is_roots and place is not None and _is_root_only(place[1])
    return None if is_roots else place


def _keeps_entries(status: os.stat_result) -> bool:
    """Whether what is root's in a directory stays there, whoever else may make entries."""
    return not status.st_mode & _OTHERS_WRITE or bool(status.st_mode & stat.S_ISVTX)


def open_component(
    name: Path,
    path: Path,
    within: OpenedEntry | None,
    opened: contextlib.ExitStack,
    use: DirectoryUse = NODE_USE,
) -> OpenedEntry:
    """Open what has a name, only to look at it. path: as it is called in messages."""
    place = None if within is None else within.descriptor
    try:
        descriptor = os.open(name, _FIND, dir_fd=place)
    except FileNotFoundError:
        raise PathMissing from None
    except PermissionError:
        raise NeedsRoot(f"{path} cannot be read by this user", hint="run the command as root") from None
    except OSError as error:
        raise BadInput(
            f"{path} cannot be opened: {error.strerror}", hint=_build_directory_hint(use)
        ) from None
    opened.callback(os.close, descriptor)
    if within is not None:  # before anything is asked of it
        _refuse_user_mount(descriptor, within.descriptor, path, use)
    return OpenedEntry(descriptor, path, os.fstat(descriptor))


def read_link(link: OpenedEntry) -> str:
    """Where a link leads, as it is written."""
    return os.readlink("", dir_fd=link.descriptor)


def _refuse_user_mount(descriptor: int, within: int, path: Path, use: DirectoryUse) -> None:
    """Raise BadInput where something that a user mounted begins: his program need not ever answer.

    Source: fuse(4), mount option user_id; proc(5), fdinfo and mountinfo.
    """
    mount = read_mount_id(descriptor)
    if mount == read_mount_id(within):
        return
    for line in Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines():
        fields = line.split()
        if fields[0] != mount:
            continue
        kind, _, options = fields[fields.index("-") + 1 :][:3]
        users = [each for each in options.split(",") if each.startswith("user_id=")]
        if kind.startswith("fuse") and users and users != ["user_id=0"]:
            raise BadInput(
                f"{path} is a file system that a user mounted",
                hint=f"move {use.content} to a file system that root mounted",
            )


def read_mount_id(descriptor: int) -> str:
    """Which mount what is open is in. Source: proc(5), fdinfo."""
    told = Path(f"/proc/self/fdinfo/{descriptor}").read_text("ascii")
    return told.partition("mnt_id:")[2].split(maxsplit=1)[0]


@contextlib.contextmanager
def act_as_user(owner: int) -> Iterator[None]:
    """Have this thread open, make and rename files with a user's rights and no others.

    Root's other groups go for good, in the whole process, which has no use for them.
    Raises MachineRefused where this process may not become somebody else.
    """
    if os.geteuid() != 0 or owner == 0:
        yield
        return
    group = node_user.find_group(owner)
    try:
        if os.getgroups():
            with contextlib.suppress(PermissionError):  # what follows is refused then as well
                os.setgroups([])
        _libc.setfsgid(group)
        _libc.setfsuid(owner)
        if (_read_current_id(_libc.setfsuid), _read_current_id(_libc.setfsgid), os.getgroups()) != (
            owner,
            group,
            [],
        ):
            raise MachineRefused(
                f"qmesh cannot take the rights of user {owner}",
                hint="run it as root, in a container with CAP_SETUID and CAP_SETGID",
            )
        yield
    finally:
        _libc.setfsuid(os.geteuid())
        _libc.setfsgid(os.getegid())


def _read_current_id(call: Callable[[int], int]) -> int:
    """What a call would change. Source: setfsuid(2): no user has the number -1."""
    return call(2**32 - 1)


def _build_link_error(found: OpenedEntry, use: DirectoryUse) -> BadInput:
    return BadInput(
        f"{found.path} is a link to {quote_text(read_link(found))}, in a directory that others than root"
        " can change",
        hint=f"pass the directory that the link leads to with {use.option}: through a link, other users could"
        " have root write elsewhere",
    )
