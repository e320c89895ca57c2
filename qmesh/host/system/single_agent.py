"""That a machine has one agent, whichever state directory it is of, and also where that directory is gone.

A machine is a network namespace here: it has one guard. The lock is below /run, where only root enters: a
name that any user could take first would let them keep the agent away.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from qmesh.errors import MachineRefused
from qmesh.host import files
from qmesh.host.lean import process_lock
from qmesh.host.log.events import report_event
from qmesh.host.system import leftover_processes

PLACE: Final = Path("/run/qmesh")
_NOTICED_S: Final = 20.0
"""Seconds in which an agent has seen that its state is gone, on a busy machine."""


@contextlib.contextmanager
def acquire_agent_lock() -> Iterator[bool]:
    """Be this machine's one agent while the block runs; gives False when another is already."""
    with contextlib.ExitStack() as stack:
        try:
            descriptor = _open_lock_directory()
        except (MachineRefused, OSError) as error:
            report_event(
                "agent-lock-unknown",
                "qmesh cannot check whether another agent runs on this machine: %s",
                error,
            )
            yield True
            return
        stack.callback(os.close, descriptor)
        yield _acquire_lock(descriptor)


def _acquire_lock(descriptor: int) -> bool:
    """Whether it is locked now; one whose state is gone is waited for: it notices that and ends."""
    deadline = time.monotonic() + _NOTICED_S
    while not process_lock.acquire_lock(descriptor):
        is_ending = any(each.kind == "agent" for each in leftover_processes.list_orphaned_processes())
        if not is_ending or time.monotonic() > deadline:
            return False
    return True


def _open_lock_directory() -> int:
    place = _lock_directory_path()
    files.make_private_directory(PLACE)
    files.make_private_directory(place)
    return os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def remove_lock_directory() -> None:
    """Leave nothing of it, where no agent runs any more."""
    for place in (_lock_directory_path(), PLACE):
        with contextlib.suppress(OSError):  # another namespace's is in it, or there is none
            place.rmdir()


def _lock_directory_path() -> Path:
    return PLACE / f"agent-{Path('/proc/self/ns/net').stat().st_ino}"
