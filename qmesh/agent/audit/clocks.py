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

    None where there is nothing to compare with, as a control node that does not answer, or an older one.
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
        return None
    return None if there is None else ClockOffset(before - there, f"the clock of {here.inventory.control}")
