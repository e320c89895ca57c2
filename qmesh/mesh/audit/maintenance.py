"""The keys, the agent, and a change that waits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from qmesh.errors import JOIN_ANEW, RESTORE
from qmesh.mesh.audit.findings import PRIVATE_MODE, Finding, error_finding, file_mode_finding, warning_finding
from qmesh.mesh.audit.network.links import is_control_away, list_quiet_machines
from qmesh.mesh.audit.surroundings import (
    CONTROL_NODE,
    LOOK,
    SERVICE,
    AuditContext,
    KeyFile,
    SecretFile,
)
from qmesh.mesh.systemd.instructions import describe_units_update
from qmesh.mesh.systemd.units import CONTROL_PROCESS
from qmesh.mesh.values import CONTROL_FIRST

MOST_CLOCK_OFFSET_S: Final = 60
"""Seconds that two clocks may differ by: one that is kept by NTP is right to a fraction of a second."""
_SEE_CONTROL: Final = "run `qmesh check` on the control node"


def key_findings(around: AuditContext) -> Iterator[Finding]:
    """Keys that are lost, wrong, or readable by others."""
    for file in around.key_files:
        cure = RESTORE if around.is_control else JOIN_ANEW
        if file.mode is None:
            yield error_finding("key-missing", file.path, f"the key of {file.wanted}", "no such file", cure)
        elif file.public_key != file.wanted:
            seen = f"the key of {file.public_key}" if file.public_key else "the file has no key in it"
            yield error_finding("key-mismatch", file.path, f"the key of {file.wanted}", seen, cure)
    files: tuple[KeyFile | SecretFile, ...] = (*around.key_files, *around.secret_files)
    for each in files:
        if each.mode is not None and each.mode & ~PRIVATE_MODE:
            yield file_mode_finding("key-mode", each.path, each.mode, each.closing)


def agent_findings(around: AuditContext) -> Iterator[Finding]:
    """No agent, or one with a problem. A machine that was removed needs none, and no advice to start one."""
    agent = around.agent
    if around.removed:
        return
    if agent is None:
        does = "fixes this machine and lets others join" if around.is_control else "fixes this machine"
        yield error_finding("agent-missing", "qmesh agent", f"an agent that {does}", "no agent runs")
        return
    # Looks that fail have a reason, which is told; another agent would do no better.
    if agent.silent is not None and LOOK not in {each.part for each in agent.troubles}:
        wanted = "an agent that reports how it is"
        yield error_finding("agent-silent", "qmesh agent", wanted, agent.silent, agent.restart)
    for trouble in agent.troubles:
        if trouble.part not in {SERVICE, CONTROL_NODE}:
            cure = trouble.hint or agent.restart
            yield error_finding(
                "agent-failing", trouble.part, "a part of the agent that works", trouble.reason, cure
            )

    for each in agent.outdated:
        yield warning_finding("agent-outdated", each.part, "the installed version", each.reason, each.hint)
    for each in agent.restarts:
        yield warning_finding(
            "agent-restarted", each.part, "a part of the agent that keeps running", each.reason, each.hint
        )


def service_findings(around: AuditContext, *, has_way: bool) -> Iterator[Finding]:
    """A membership service that does not answer, this machine's own or the control node's, or notes nothing.

    has_way: whether nothing is wrong with the tunnel, which would be why.
    """
    own = (
        next((each for each in around.agent.troubles if each.part == SERVICE), None) if around.agent else None
    )
    if own is not None and around.agent is not None:
        cure = own.hint or around.agent.restart
        yield error_finding(
            "service-silent", SERVICE, "an answer to members and joining machines", own.reason, cure
        )
    if around.unwritable is not None:
        seen = f"{around.unwritable.reason}: no machine can join, and nothing of the mesh can be changed"
        wanted = "a registry that takes changes"
        yield error_finding("service-silent", around.unwritable.part, wanted, seen, around.unwritable.hint)
    if around.unanswered is not None and has_way and not is_control_away(around):
        wanted = "an answer from the control node"
        works = around.links.report.watched and not list_quiet_machines(around)
        seen = f"{around.unanswered}; packets do come through the tunnel" if works else around.unanswered
        yield error_finding("service-silent", SERVICE, wanted, seen, _SEE_CONTROL)


def membership_findings() -> Iterator[Finding]:
    """A mesh that has removed this machine."""
    yield error_finding(
        "membership-stale",
        "membership",
        "a mesh that has this machine",
        "it was removed; its tunnel and its worker ports are closed",
        "run `qmesh join` with a new invitation, or `qmesh uninstall`",
    )


def invalid_membership_finding(path: str, why: str, cure: str) -> Finding:
    """The membership that this machine holds is none: what the machine should be is not known.

    why: what is wrong with the file, after its name.
    """
    wanted = "a membership that the mesh's key has signed"
    return error_finding("membership-invalid", path, wanted, f"the file {why}", cure)


def clock_findings(around: AuditContext) -> Iterator[Finding]:
    """A clock that is wrong by so much that handshakes or invitations suffer."""
    clock = around.clock
    if clock is None or abs(clock.seconds) <= MOST_CLOCK_OFFSET_S:
        return
    if clock.seconds > 0 and clock.may_be_ahead:
        return
    seen = f"{abs(clock.seconds):.0f} s {'ahead of' if clock.seconds > 0 else 'behind'} {clock.than}"
    yield warning_finding(
        "clock",
        "this machine's clock",
        f"a clock that is right to {MOST_CLOCK_OFFSET_S} s: WireGuard refuses machines whose clock went back",
        seen,
        "compare `date -u` here and on the control node, and set the wrong clock: `timedatectl set-ntp true`",
    )


def conflict_findings(around: AuditContext) -> Iterator[Finding]:
    """A registry that is an older copy, as a member has shown."""
    conflict = around.conflict
    if conflict is None:
        return
    what = (
        f"{conflict.machine} holds another revision {conflict.revision}"
        if conflict.revision == conflict.own
        else f"{conflict.machine} holds revision {conflict.revision}, and the registry had {conflict.own}"
    )
    yield error_finding(
        "membership-conflict",
        "registry",
        "a registry as new as what its members hold",
        f"{what}: this machine was restored to an older copy, or another one is the control node too; no"
        " machine can join, and members learn of no change",
        "where another machine is the control node now: `qmesh uninstall` here. Else here: `qmesh backup"
        " FILE`, `qmesh uninstall --delete-state`, `qmesh restore FILE`; then compare `qmesh status` with"
        " the members'",
    )


def unit_findings(around: AuditContext) -> Iterator[Finding]:
    """A unit that was written for a version of the node that starts in another order."""
    needs_first = around.profile in CONTROL_FIRST
    if around.is_control and around.is_control_first not in {None, needs_first}:
        order = ("before", "after") if needs_first else ("after", "before")
        wanted = f"a start {order[0]} the workers, as node {around.profile} needs it"
        seen, cure = f"it starts {order[1]} them", describe_units_update()
        yield warning_finding("units-stale", CONTROL_PROCESS, wanted, seen, cure)


def change_findings(around: AuditContext) -> Iterator[Finding]:
    """A change by `apply --confirm` that waits to be confirmed, or was rolled back."""
    if around.change == "unconfirmed":
        yield warning_finding(
            "change-unconfirmed",
            "qmesh apply",
            "a confirmed change",
            "it will be rolled back unless you confirm it in time",
            "qmesh confirm",
        )
    elif around.change == "undone":
        seen = "the change was not confirmed and was rolled back; the agent leaves it that way"
        yield error_finding("change-undone", "qmesh apply", "a machine as desired", seen)
