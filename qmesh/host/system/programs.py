"""Other programs: found where root installed them, and run in a directory without other users' files."""

from __future__ import annotations

import os
import shutil
from typing import Final

ELSEWHERE: Final = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
"""Where programs are that a user's PATH leaves out."""

DIRECTORY: Final = "/"
"""The working directory of every program that qmesh starts: the current one may be anybody's."""


def find_program(name: str) -> str | None:
    """The absolute path of a program; None where there is none.

    What PATH has that is not absolute is left out: it is about the current directory.
    """
    folders = os.environ.get("PATH", "").split(os.pathsep)
    absolute = [folder for folder in folders if folder.startswith("/")]
    return shutil.which(name, path=os.pathsep.join([*absolute, *ELSEWHERE]))
