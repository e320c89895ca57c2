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
_WAITING: Final = "command-waits", "waiting for another qmesh command on this machine to end ..."


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
    others = ", ".join(map(str, sorted(processes.list_opening_processes(directory)))) or "unknown"
    return Busy(
        f"another command of qmesh is at work on this machine (process {others})",
        hint="wait until it ends; if you stopped it with Ctrl-Z, type `fg` in its shell",
    )


def wait_for_lock(descriptor: int) -> None:
    """Lock what is open; a word is said where it takes longer than commands usually do."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        words = threading.Timer(SHORT_WAIT_S, report_event, _WAITING)  # the kernel wakes us, and not that
        words.start()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        finally:
            words.cancel()
            words.join()  # what is being said comes before all else


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
