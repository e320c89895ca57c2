"""A file that everyone may read, in a directory of anybody's: written with the rights of its owner."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from qmesh.errors import MachineRefused, QmeshError
from qmesh.host import files
from qmesh.host.disk_timeout import run_in_time
from qmesh.host.owned_path import DirectoryUse, PathMissing, act_as_user, open_without_links
from qmesh.host.system import node_user

MODE: Final = 0o644
_USE: Final = DirectoryUse("--metrics-directory", "node_exporter's files")
WRITE_S: Final = 30.0
"""Seconds until a file system counts as one that does not answer."""


def is_directory(path: Path) -> bool:
    """Whether one is there, links followed. On a disk that fails, or does not answer, there is none."""
    try:
        return run_in_time(path, path.is_dir)
    except (QmeshError, OSError):
        return False


def replace_public_file(path: Path, name: str, octets: bytes, *, is_first: bool = True) -> None:
    """Put a file into a directory: 0644, the directory's owner's, whole or not at all.

    A link of that name is replaced, not followed.
    is_first: whether one that was killed may have left something there, which is removed: all that the owner
        has there is looked through for that.
    Raises BadInput where the way to the directory leads through a link that others than root can change,
    MachineRefused where there is no such directory, or it can't be written to.
    """

    def replace(target: Path, owner: int) -> None:
        if is_first:
            files.remove_temporary_files(target, name)
        group = node_user.find_group(owner) if owner else 0
        files.write_with_owner(target / name, path / name, octets, MODE, (owner, group))

    try:
        _run_in_directory(path, replace)
    except PathMissing:
        raise MachineRefused(
            f"there is no directory {path}",
            hint="make it, or pass another one with `qmesh set --metrics-directory`",
        ) from None


def remove_public_file(path: Path, name: str) -> None:
    """Remove such a file, with the same rights; where nothing is, that is fine. Raises alike."""
    with contextlib.suppress(PathMissing):
        _run_in_directory(path, lambda target, _: files.remove(target / name))


def _run_in_directory(path: Path, work: Callable[[Path, int], None]) -> None:
    """Call `work` with the directory and its owner, in a thread that has that user's rights."""

    def run() -> None:
        with _open_directory(path) as (target, owner):
            work(target, owner)

    try:
        run_in_time(path, run, wait_s=WRITE_S)
    except OSError as error:
        raise MachineRefused(
            f"{path} cannot be used: {error}", hint="look in `dmesg` for errors of the disk"
        ) from error


@contextlib.contextmanager
def _open_directory(path: Path) -> Iterator[tuple[Path, int]]:
    with open_without_links(path, _USE) as place, act_as_user(place.status.st_uid):
        # By the descriptor: whatever is put in its place meanwhile, this is the directory that was looked at.
        yield Path(f"/proc/self/fd/{place.descriptor}"), place.status.st_uid
