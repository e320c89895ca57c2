"""The user that runs the node: the owner of its directory, who could make the node do anything anyway."""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from qmesh.errors import BadInput
from qmesh.mesh.systemd import sandbox

NOBODY: Final = 65534
_MOST_ENTRIES: Final = 10_000
"""Files that are looked at: a store has a hundred thousand, all made by the same process."""


def find_node_user(directory: Path) -> int:
    """The user's number: the owner of the config directory.

    Where that is root, the owner of the first part of its path that is not root's: that user can replace the
    directory at any time. A part that is not there yet counts as its maker's.
    """
    users = list(_list_owners(directory))
    return users[-1] or next((user for user in users if user), 0)


def _list_owners(directory: Path) -> Iterator[int]:
    """Who owns each part of the way, from / on, links as such."""
    for part in (*reversed(directory.parents), directory):
        try:
            yield part.lstat().st_uid
        except OSError:
            return


def resolve_user_name(number: int) -> str:
    """A user as a unit names him; by number where not every systemd takes the name, or takes it for a number.

    Raises BadInput where there is no such user: systemd starts nothing as him.
    """
    try:
        found = pwd.getpwuid(number).pw_name
    except KeyError:
        raise BadInput(
            f"the node's directory belongs to user number {number}, and this machine has no such user",
            hint="give it to the user that runs the node: `chown -R USER DIRECTORY`",
        ) from None
    return found if sandbox.is_valid_user(found) and not found.isdecimal() else str(number)


def find_group(number: int) -> int:
    """The number of a user's own group; nobody's where this machine has no such user."""
    try:
        return pwd.getpwuid(number).pw_gid
    except KeyError:
        return NOBODY


def find_foreign_path(directory: Path, user: int) -> Path | None:
    """Something in a directory, or itself, that is another user's; None where all is this user's."""
    return next(
        (path for path in islice(_walk_directory(directory), _MOST_ENTRIES) if _is_foreign(path, user)), None
    )


def _walk_directory(directory: Path) -> Iterator[Path]:
    """Itself and all below it, links not followed; one by one, as its owner may have made millions."""
    waiting = [directory]
    yield directory
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                yield Path(entry)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry))


def _is_foreign(path: Path, user: int) -> bool:
    try:
        return path.lstat().st_uid != user
    except OSError:  # it went meanwhile
        return False
