"""Run a program that cannot leave its process group: one signal ends it with all that it has started.

A process that begins a session or a group of its own would outlive the one that asked, in its unit and by its
limits. This is a program itself, as what it switches on holds for a whole process, and for ever.
Source: seccomp(2), linux/audit.h, asm/unistd.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

from qmesh.mesh.own_command import build_command_line

_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2  # PR_SET_*, SECCOMP_MODE_FILTER
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # of words; BPF
_NUMBER_AT, _MACHINE_AT = 0, 4  # struct seccomp_data
_ALLOW: Final = 0x7FFF0000
_REFUSE: Final = 0x00050000 | errno.EPERM
_OTHER_CALLS: Final = 0x40000000
"""From here on x86_64 has all calls once more, for programs of 32 bits."""
_MACHINES: Final = {"x86_64": (0xC000003E, 109, 112), "aarch64": (0xC00000B7, 154, 157)}
"""Of each machine that the node is made for: its number, and those of setpgid and setsid."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def can_confine() -> bool:
    """Whether it is known how to on this machine."""
    return platform.machine() in _MACHINES


def build_confined_command(words: Sequence[str]) -> tuple[str, ...]:
    """The words that run a program in this way, in the group that it is started in. words: its own."""
    return build_command_line(sys.executable, *words, module=__name__)


def main(program: list[str]) -> NoReturn:
    """Be that program. Raises OSError where the kernel refuses. program: its words."""
    machine, *refused = _MACHINES[platform.machine()]
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value, more in (
        (_NO_NEW_PRIVILEGES, ctypes.c_ulong(1), ctypes.c_ulong(0)),
        (_SECCOMP, ctypes.c_ulong(_FILTER), _build_filter(machine, refused)),
    ):
        if libc.prctl(option, value, more, ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
            raise OSError(ctypes.get_errno(), "the program cannot be confined")
    os.execv(program[0], program)  # noqa: S606 - no shell is wanted


def _build_filter(machine: int, refused: Sequence[int]) -> object:
    """What the kernel asks at each call: those are refused, and all calls of another machine's kind."""
    tests = [(_IF_AT_LEAST, _OTHER_CALLS), *((_IF_EQUAL, number) for number in refused)]
    last = len(tests)
    octets = b"".join(
        struct.pack("=HBBI", *each)
        for each in (
            (_LOAD, 0, 0, _MACHINE_AT),
            (_IF_EQUAL, 0, last + 2, machine),
            (_LOAD, 0, 0, _NUMBER_AT),
            *((test, last - at, 0, value) for at, (test, value) in enumerate(tests)),
            (_RETURN, 0, 0, _ALLOW),
            (_RETURN, 0, 0, _REFUSE),
        )
    )
    return ctypes.byref(_Program(len(octets) // 8, octets))


if __name__ == "__main__":
    main(sys.argv[1:])
