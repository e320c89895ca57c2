"""That a process is the only one of its kind: it has a file locked, as long as it is there."""

from __future__ import annotations

import fcntl
import os
import time

from qmesh.errors import MachineRefused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_PRIVATE_MODE: Final = 0o600


def open_lock_file(path: str) -> int:
    """The file as a descriptor, made where there is none. Raises MachineRefused where there can be none."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, _PRIVATE_MODE)
    except OSError as error:
        directory = path.rpartition("/")[0]
        raise MachineRefused(
            f"{path} cannot be opened: {error.strerror}",
            hint=f"look at the state directory: `ls -la {directory}`; pass another one with --state",
        ) from None


def acquire_lock(descriptor: int) -> bool:
    """Lock an open file or directory for this process alone; whether that could be had."""
    for _ in range(100):  # `is_agent_running` holds it for an instant, on a busy machine for longer
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
        else:
            return True
    return False
