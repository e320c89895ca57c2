"""`handover`: another member becomes the control node; what each machine does is in `succeeding`."""

from __future__ import annotations

import logging
import time
from typing import Final

import msgspec

from qmesh.agent import succeeding
from qmesh.agent.converge import converge
from qmesh.agent.here import Here, linux_for, load, refuse_removed, require_control, require_root
from qmesh.agent.keeping import ensure_agent
from qmesh.agent.undoing import refuse_while_waiting
from qmesh.errors import BadInput, EnrolmentRefused
from qmesh.host import telling
from qmesh.host.registry import Readiness, Registry
from qmesh.host.state import State
from qmesh.mesh.inventory import Inventory

log = logging.getLogger("qmesh")

_PASSED_ON_S: Final = 1.5
_LOOK_S: Final = 0.2
_ANSWERS_S: Final = 30.0
_NAMED: Final = 5
"""Machines that a line names, at most."""


class Handed(msgspec.Struct, frozen=True, rename={"was": "from", "now": "to"}):
    """What `handover` answers.

    was, now: the control node. address: the tunnel address that worker ports accept now.
    left_behind: members that know nothing of it. withdrawn: machines whose invitations were open.
    answers: whether the new control node was heard as such.
    """

    was: str
    now: str
    address: str
    revision: int
    left_behind: tuple[str, ...]
    withdrawn: tuple[str, ...]
    answers: bool


def handover(state: State, name: str, *, wait_s: float, leave_behind: bool) -> Handed:
    """Make that member the control node, and this machine a member like others.

    wait_s: how long to wait until all are ready. leave_behind: go on without those that are not.
    Raises BadInput or EnrolmentRefused with everything as it was.
    """
    require_root("qmesh handover")
    here, withdrawn = _begun(state, name)
    missing: tuple[str, ...] = ()
    with Registry(state.registry_file) as registry:
        mesh = registry.inventory()
        if mesh.control != name:
            try:
                missing = _ready(registry, name, wait_s=wait_s, leave_behind=leave_behind)
                with state.lock():
                    mesh = registry.hand_over(now=int(time.time()))
            except BaseException:
                _give_up(state, registry)
                raise
    telling.tell(state.directory, wait_s=_PASSED_ON_S)
    answers = _follow(state, here)
    return Handed(
        was=here.settings.name,
        now=name,
        address=mesh.control_node.address,
        revision=mesh.revision,
        left_behind=missing,
        withdrawn=withdrawn,
        answers=answers,
    )


def _begun(state: State, name: str) -> tuple[Here, tuple[str, ...]]:
    """This machine with all ready for it, and whose invitations were withdrawn."""
    with state.lock():
        refuse_while_waiting(state)
        here = load(state)
        refuse_removed(here)
        require_control(here, "qmesh handover")
        if not here.settings.up:
            raise BadInput("the tunnel is down, and all members have to know", hint="`qmesh apply` first")
        with Registry(state.registry_file) as registry:
            withdrawn = registry.begin_handover(name, now=int(time.time()))
    ensure_agent(state)
    telling.tell(state.directory, wait_s=_PASSED_ON_S)
    return here, withdrawn


def _ready(registry: Registry, name: str, *, wait_s: float, leave_behind: bool) -> tuple[str, ...]:
    """Wait until all are ready; who is left behind. Raises EnrolmentRefused."""
    until = time.monotonic() + wait_s
    said = ""
    while True:
        now = registry.readiness()
        if now.holds and not now.missing:
            return ()
        if time.monotonic() > until:
            break
        waiting = _waiting_for(now, name)
        if waiting != said:
            log.info("waiting for %s", waiting)
        said = waiting
        time.sleep(_LOOK_S)
    if now.holds and leave_behind:
        return now.missing
    raise EnrolmentRefused(
        f"nothing was changed: {wait_s:.0f} s were not enough for {_waiting_for(now, name)}",
        hint=f"is qmesh up there, and does UDP pass to and from {name}? see `qmesh status`"
        if now.holds
        else f"is the agent of {name} up, and qmesh as new there as here? see `qmesh status`",
    )


def _waiting_for(now: Readiness, name: str) -> str:
    if not now.holds:
        return f"{name} to fetch the registry"
    more = len(now.missing) - _NAMED
    return ", ".join(now.missing[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _give_up(state: State, registry: Registry) -> None:
    with state.lock():
        is_ended = registry.end_handover(now=int(time.time()))
    if is_ended:
        telling.tell(state.directory, wait_s=_PASSED_ON_S)


def _follow(state: State, here: Here) -> bool:
    """Be a member, once the new control node answers; whether it does."""
    until = time.monotonic() + _ANSWERS_S
    while time.monotonic() < until:
        # The agent does the same.
        if not state.settings().control or succeeding.retire_when_answered(state, here):
            with state.lock():
                here = load(state)
                converge(here, linux_for(state, here), follow_roaming=True)
            return True
        time.sleep(_LOOK_S)
    return False


def cancel(state: State) -> Inventory:
    """Give a handover up that was begun. Raises BadInput where none is, or it is done."""
    require_root("qmesh handover")
    with state.lock(), Registry(state.registry_file) as registry:
        require_control(load(state), "qmesh handover")
        if registry.successor() == registry.inventory().control:
            raise BadInput("that handover is done", hint="hand over again from the control node there is now")
        if not registry.end_handover(now=int(time.time())):
            raise BadInput("no handover is under way", hint="see `qmesh status`")
        mesh = registry.inventory()
    telling.tell(state.directory, wait_s=_PASSED_ON_S)
    return mesh
