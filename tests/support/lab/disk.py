"""Disks that fail at each point where a command makes, writes, replaces or syncs a file."""

from __future__ import annotations

import errno
from typing import Any, Final

from tests.support.lab.crash import INIT, Result, Rig, trouble_of_control, trouble_of_membership
from tests.support.lab.faults import Ended, sample
from tests.support.lab.machines import Lab

FAULTS: Final = {
    "full": (errno.ENOSPC, ("create", "write", "mkdir")),
    "failing": (errno.EIO, ("fsync",)),
    "read-only": (errno.EROFS, ("create", "write", "mkdir", "unlink", "rmdir", "replace", "chmod")),
}
"""From a point of these kinds on, every one of them ends in that error."""


def init(lab: Lab, *, fault: str, every: int | None) -> Result:
    """`init` on a disk that fails, and again on one that does not."""
    rig = Rig(lab, 40000, of_control=True)
    rig.control.reset()
    points = _of_kinds(rig.control.succeed(*INIT).points, fault)
    result = Result(len(points))
    for number in sample(points, every):
        rig.control.reset()
        ended = rig.control(*INIT, **_failing(fault, number))
        trouble = _trouble(ended) or _trouble_again(rig.control(*INIT)) or trouble_of_control(rig)
        result.note(number, points[number - 1], trouble)
    return result


def join(lab: Lab, *, fault: str, every: int | None) -> Result:
    """`join` on a disk that fails, and again on one that does not."""
    rig = Rig(lab, 40003)
    rig.found()
    rig.invite()
    points = _of_kinds(rig.join().points, fault)
    result = Result(len(points))
    for number in sample(points, every):
        rig.member.reset()
        rig.invite()
        ended = rig.join(**_failing(fault, number))
        trouble = _trouble(ended) or _trouble_again(rig.join()) or trouble_of_membership(rig)
        result.note(number, points[number - 1], trouble)
    return result


def _of_kinds(points: list[str], fault: str) -> list[str]:
    return [label for label in points if label.partition(" ")[0] in FAULTS[fault][1]]


def _failing(fault: str, number: int) -> dict[str, Any]:
    code, kinds = FAULTS[fault]
    return {"fail": {"at": number, "errno": code, "kinds": kinds}}


def _trouble(ended: Ended) -> str:
    """It may go well without that file; else it says in two lines what is wrong with this machine."""
    return "" if ended.code == 0 or ended.refused(3) else f"it ended with {ended.code}: {ended.err}"


def _trouble_again(ended: Ended) -> str:
    return "" if ended.code == 0 else f"the same command again: {ended.err}"
