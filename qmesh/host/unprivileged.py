"""How a process of root's that speaks with strangers becomes a user who may do nothing."""

from __future__ import annotations

import ctypes
import os
from typing import Final

NOBODY: Final = 65534
_SET_NO_NEW_PRIVS: Final = 38
"""PR_SET_NO_NEW_PRIVS. Source: prctl(2)."""


def become_nobody() -> None:
    """Be user 65534 from now on, without any group or right of root's; who is not root stays who he is.

    The process has to have one thread. Raises OSError where it may not.
    """
    if os.geteuid() != 0:
        return
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    zero = ctypes.c_ulong(0)
    ctypes.CDLL(None).prctl(_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero)
