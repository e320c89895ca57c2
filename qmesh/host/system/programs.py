"""Other programs: found where root installed them, and run in a directory without other users' files."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import Final

ELSEWHERE: Final = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
"""Where programs are that a user's PATH leaves out."""

_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH

DIRECTORY: Final = "/"
"""The working directory of every program that qmesh starts: the current one may be anybody's."""


def find_program(name: str) -> str | None:
    """The absolute path of a program; None where there is none.

    What PATH has that is not absolute is left out: it is about the current directory. So is, for root, a
    folder that others can change: by `su` a user's PATH becomes root's.
    """
    folders = map(_find_folder, os.environ.get("PATH", "").split(os.pathsep))
    return shutil.which(name, path=os.pathsep.join([*filter(None, folders), *ELSEWHERE]))


def _find_folder(named: str) -> str | None:
    """The folder of a PATH, without links, where it is absolute and what is in it is root's doing alone."""
    if not named.startswith("/"):
        return None
    if os.geteuid() != 0:
        return named
    try:
        folder = Path(named).resolve(strict=True)
        is_safe = not folder.stat().st_mode & _OTHERS_WRITE and all(map(_is_kept, (folder, *folder.parents)))
    except OSError:
        return None
    return str(folder) if is_safe else None


def _is_kept(folder: Path) -> bool:
    """Whether what root has put there stays: with the sticky bit others may only add to it."""
    status = folder.stat()
    return status.st_uid == 0 and (not status.st_mode & _OTHERS_WRITE or bool(status.st_mode & stat.S_ISVTX))
