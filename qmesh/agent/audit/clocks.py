"""This machine's clock, compared with what else has one."""

from __future__ import annotations

import time

from qmesh.agent.control_client import build_client
from qmesh.agent.local import Local
from qmesh.errors import EnrolmentRefused
from qmesh.host.api.messages import ControlNodeUnavailable
from qmesh.host.registry import Registry
from qmesh.host.state.directory import State
from qmesh.mesh.audit.surroundings import ClockOffset

CONNECT_S = 1.0
ANSWER_S = 2.0


def compare_clock(state: State, here: Local) -> ClockOffset | None:
    """What this machine's clock differs by: from the control node's, or there from the mesh's last event.

    Where the control node does not answer, from when the membership was written: a clock that went back may
    be why. None where there is nothing to compare with, as with an older control node.
    """
    if here.settings.control:
        with Registry(state.registry_file) as registry:
            last = registry.find_last_time()
        if last is None:
            return None
        return ClockOffset(time.time() - last, "the newest entry of `qmesh log`", may_be_ahead=True)
    try:
        before = time.time()
        there = build_client(here).read_clock(connect_s=CONNECT_S, read_s=ANSWER_S)
    except (ControlNodeUnavailable, EnrolmentRefused):  # `service-silent` says so
        return _compare_with_membership(state)
    return None if there is None else ClockOffset(before - there, f"the clock of {here.inventory.control}")


def _compare_with_membership(state: State) -> ClockOffset | None:
    try:
        written = state.membership_file.stat().st_mtime
    except OSError:
        return None
    return ClockOffset(time.time() - written, "the time at which it got its membership", may_be_ahead=True)
