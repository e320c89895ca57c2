"""Work with what a user may have mounted, in a thread that is given up where a disk does not answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from qmesh.errors import MachineRefused
from qmesh.host.system import heartbeat

WAIT_S: Final = 4.0
"""Seconds until a file system counts as one that does not answer; a disk that is asleep takes some three."""

_hanging: dict[Path, threading.Thread] = {}

_T = TypeVar("_T")


def run_in_time(
    path: Path,
    work: Callable[[], _T],
    *,
    wait_s: float | None = None,
    else_do: str = "see `dmesg` for errors of the disk",
) -> _T:
    """What `work` returns or raises, in a thread of its own, with which another user's rights end.

    path: what it works with. wait_s: `WAIT_S` where it is None. else_do: the hint's second half.
    Raises MachineRefused where it does not end in time, and at once while it has not.
    """
    before = _hanging.get(path)
    if before is not None and before.is_alive():
        raise _build_hanging_error(path, else_do)
    ended: list[_T | BaseException] = []

    def run() -> None:
        try:
            ended.append(work())
        except BaseException as error:  # noqa: BLE001 - it is raised where it was asked for
            ended.append(error)

    thread = threading.Thread(target=run, name="disk", daemon=True)
    thread.start()
    seconds = WAIT_S if wait_s is None else wait_s
    with heartbeat.allow_wait(seconds):
        thread.join(seconds)
    if not ended:
        _hanging[path] = thread
        raise _build_hanging_error(path, else_do)
    (outcome,) = ended
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _build_hanging_error(path: Path, else_do: str) -> MachineRefused:
    return MachineRefused(
        f"the disk of {path} does not answer",
        hint=f"if it is a network file system, mount it again; else {else_do}",
    )
