"""`down`: take the tunnel down; the guard too where that is asked for."""

from __future__ import annotations

import contextlib
from typing import Final

import msgspec

from qmesh.agent.control_client import build_client
from qmesh.agent.converge import converge, plan_steps_without_dns, warn_of_refusal
from qmesh.agent.facts import find_closed_ports
from qmesh.agent.local import Local, linux_for
from qmesh.agent.preconditions import check_user, lock_member
from qmesh.agent.ssh_lockout import warn_of_ssh_lockout
from qmesh.errors import EnrolmentRefused
from qmesh.host.api.messages import ControlNodeUnavailable
from qmesh.host.state.directory import State
from qmesh.mesh.inventory import worker_ports
from qmesh.mesh.plan.steps import Step
from qmesh.mesh.protocol.member_note import MemberNote

_NOTE_S: Final = 1.0
"""Seconds that the control node has to hear of it: what it knows helps it, and is no condition."""


class DownResult(msgspec.Struct, frozen=True):
    """What `down` did. closed: whether the guard has the ports.

    ports: this machine's worker ports. guarded_ports: the others that its guard closes.
    """

    steps: tuple[Step, ...]
    ports: tuple[int, ...]
    closed: bool
    guarded_ports: tuple[int, ...] = ()


def down(state: State, *, unguarded: bool) -> DownResult:
    """Take the tunnel down; the guard too when `unguarded`."""
    check_user("down")
    with lock_member(state, "down") as remembered:
        guarded = remembered.settings.guarded and not unguarded
        settings = msgspec.structs.replace(remembered.settings, up=False, guarded=guarded)
        # Remembered first, or the agent would put back what is taken away here.
        state.save_settings(settings)
        state.rollback_record.remove()
        if remembered.settings.up:
            _note_for_control_node(remembered)
        here = msgspec.structs.replace(remembered, settings=settings)
        linux = linux_for(state, here.settings)
        warn_of_ssh_lockout(linux, plan_steps_without_dns(here, linux))
        steps = converge(here, linux)
        warn_of_refusal(linux)
        others = find_closed_ports(here, linux).guarded_ports
    return DownResult(steps, worker_ports(here.inventory, settings.name), guarded, others)


def _note_for_control_node(here: Local) -> None:
    """Have it say why no worker of this machine answers."""
    if here.settings.control or here.inventory.control == here.settings.name:
        return
    client = build_client(here, note=MemberNote(is_down=True))
    with contextlib.suppress(ControlNodeUnavailable, EnrolmentRefused):
        client.poll_membership(newer_than=here.inventory.revision, connect_s=_NOTE_S, read_s=_NOTE_S)
