"""The one lock of a machine's qmesh: the state directory's own, held by whoever has it open."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from pathlib import Path
from typing import Final

from qmesh.errors import Busy, MachineRefused
from qmesh.host.log.events import report_event
from qmesh.host.system import processes
from qmesh.host.typed_commands import build_command

SHORT_WAIT_S = 1.0
"""A command usually ends within it: only a longer wait is worth a word."""
READING_S: Final = 10.0
"""Seconds that a command waits which changes nothing of the mesh, and can do without the lock."""


def refuse_other_owner(directory: Path, found: os.stat_result) -> None:
    """Raise MachineRefused where another user says what this machine is, and root would do it."""
    if found.st_uid != os.geteuid() == 0:
        raise MachineRefused(
            f"{directory} belongs to user {found.st_uid}, who could have root do anything by it",
            hint="pass root's own state directory with --state; or look at all of its files, then run"
            f" `{build_command('chown -R root {}', directory, needs_root=True)}`",
        )


def build_busy_error(directory: Path) -> Busy:
    """What is said where the lock could not be had, with the processes that have it."""
    return Busy(
        f"another command of qmesh is at work on this machine ({_name_holders(directory)})",
        hint="wait until it ends; if you stopped it with Ctrl-Z, type `fg` in its shell",
    )


def _name_holders(directory: Path) -> str:
    holders = sorted(processes.list_locking_processes(directory))
    return f"process {', '.join(map(str, holders)) or 'unknown'}"


def wait_for_lock(descriptor: int, directory: Path, seconds: float | None = None) -> bool:
    """Lock what is open, within that time where one is given; whether it was had.

    A word is said where it takes longer than commands usually do.
    """
    if try_lock(descriptor, 0):
        return True
    words = threading.Timer(SHORT_WAIT_S, _say_who_is_waited_for, [directory])
    words.start()
    try:
        if seconds is not None:
            return try_lock(descriptor, seconds)
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # the kernel wakes us
        return True
    finally:
        words.cancel()
        words.join()  # what is being said comes before all else


def _say_who_is_waited_for(directory: Path) -> None:
    others = _name_holders(directory)
    report_event("command-waits", "waiting for another qmesh command on this machine to end (%s) ...", others)


def try_lock(descriptor: int, seconds: float) -> bool:
    """Lock what is open within that time; whether it was had."""
    begun = time.monotonic()
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() - begun >= seconds:
            return False
        time.sleep(0.02)
