"""Who typed a command that runs as root."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
from pathlib import Path
from typing import Final

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@+-]{0,63}")
_NOBODY: Final = 2**32 - 1
_LOGIN: Final = Path("/proc/self/loginuid")


def find_invoking_user() -> str:
    """The user's name, or number where there is no name: whom sudo names, who logged in, who this is.

    Root can have it say what it likes: it is for root's own memory. Source: sudo(8), proc(5).
    """
    told = os.environ.get("SUDO_USER", "")
    if os.geteuid() == 0 and _NAME.fullmatch(told):
        return told
    number = os.getuid()
    with contextlib.suppress(OSError, ValueError):
        logged_in = int(_LOGIN.read_text("ascii"))
        number = number if logged_in == _NOBODY else logged_in
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(number).pw_name
    return str(number)
