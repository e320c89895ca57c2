"""A file system whose program never answers, for tests on a machine of their own."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from tests.support.skips import CANNOT


def mount_fuse(place: Path, *, user: int, is_file: bool = False) -> int:
    """Mount one, as that user has it mounted; what keeps it there. Source: mount.fuse(8)."""
    try:
        descriptor = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        pytest.skip(f"{CANNOT}/dev/fuse: {error.strerror}")
    mode = "100000" if is_file else "40000"
    options = f"fd={descriptor},rootmode={mode},user_id={user},group_id={user},allow_other"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"evil", os.fsencode(place), b"fuse.evil", 0, options.encode()) != 0:
        pytest.skip(f"{CANNOT}no FUSE: {os.strerror(ctypes.get_errno())}")
    return descriptor
