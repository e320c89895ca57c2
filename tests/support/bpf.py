"""eBPF programs of two instructions, for tests: each answers the same to every packet or call."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from typing import Final

DROP, SHOT = 0, 2
"""What a program at a control group answers to refuse, and one at an interface."""
TCX_EGRESS, CLASSIFIER = 47, 3
"""A place, and the kind of program that belongs there."""
_LOAD, _ATTACH, _DETACH, _LAST = 5, 8, 9, 16  # bpf(2); BPF_F_AFTER of none
_NUMBERS: Final = {"x86_64": 321, "aarch64": 280, "riscv64": 280}


def attach_program(of: int, place: int, kind: int, answer: int, *, name: str) -> None:
    """Load a program and attach it to a control group, by descriptor, or an interface, by number.

    place: BPF_CGROUP_*, BPF_TCX_*. kind: BPF_PROG_TYPE_*. Raises OSError.
    """
    code = ctypes.create_string_buffer(struct.pack("=BBhiBBhi", 0xB7, 0, 0, answer, 0x95, 0, 0, 0))
    licence = ctypes.create_string_buffer(b"GPL")
    places = ctypes.addressof(code), ctypes.addressof(licence)
    program = _call(_LOAD, struct.pack("=IIQQ24x16sII", kind, 2, *places, name.encode(), 0, place))
    try:
        _call(_ATTACH, struct.pack("=IIII32x", of, program, place, 0))
    finally:
        os.close(program)


def detach_program(of: int, place: int) -> None:
    """Take away the last one of an interface. Raises OSError."""
    _call(_DETACH, struct.pack("=IIII32x", of, 0, place, _LAST))


def _call(command: int, asked: bytes) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    found = libc.syscall(_NUMBERS[platform.machine()], command, asked, len(asked))
    if found < 0:
        raise OSError(ctypes.get_errno(), "bpf(2) refuses")
    return int(found)
