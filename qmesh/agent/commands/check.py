"""`check`: look at this machine and its surroundings, and audit them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Final

import msgspec

from qmesh.agent.audit.agent_status import read_agent_status
from qmesh.agent.audit.context import (
    begin_audit_dialling,
    build_audit_context,
    look_at_node_files,
    look_at_own_node,
)
from qmesh.agent.audit.part_checks import PartChecks
from qmesh.agent.converge import desired_and_observed, desired_and_observed_guard
from qmesh.agent.local import MembershipInvalid, load_local, with_tunnel_and_guard
from qmesh.agent.preconditions import check_state, check_user, lock_checked
from qmesh.agent.readers.ask import ask_as_reader, is_reader
from qmesh.agent.rollback import roll_back_if_due
from qmesh.errors import Busy
from qmesh.host.linux import Linux
from qmesh.host.state.directory import State
from qmesh.host.state.lock import READING_S
from qmesh.mesh.audit.findings import Finding
from qmesh.mesh.audit.maintenance import invalid_membership_finding
from qmesh.mesh.audit.parts import list_audit_parts
from qmesh.mesh.state import NodeState

NOTHING: Final = NodeState(guard=None, tunnel=None, reserved_ports=())


class Report(msgspec.Struct, frozen=True):
    """What `check` answers."""

    machine: str
    revision: int  # 0 where the membership is invalid
    findings: tuple[Finding, ...]

    @property
    def all_findings(self) -> tuple[Finding, ...]:
        """Of this machine, and of all others that were asked."""
        return self.findings

    @property
    def is_fine(self) -> bool:
        """Whether no finding is an error."""
        return all(finding.severity != "error" for finding in self.all_findings)


def check(state: State) -> Report:
    """Audit this machine, part by part: one that can't be audited is a finding, and the others are told.

    A reader is told what this machine's agent says. Raises QmeshError where it is not known what the machine
    should be.
    """
    if is_reader(state):
        return ask_as_reader("check", Report)
    check_user("check")
    looks = PartChecks()
    # Before it has to wait for this command, which must not wait for a user's disk.
    agent = looks.run("agent", lambda: read_agent_status(state), (None, None))
    files = look_at_node_files(state, looks)
    with _lock_if_free(state, looks):
        try:
            remembered = load_local(state)
        except MembershipInvalid as error:  # it is not known what the machine should be
            invalid = invalid_membership_finding(str(error.path), error.why, error.hint)
            return Report(state.settings().name, 0, (invalid, *looks.failures))
        here = with_tunnel_and_guard(remembered)
        linux = Linux(state, here.settings.interface, [])
        seen = looks.run("tunnel", lambda: desired_and_observed(here, linux), None)
        if seen is None:
            seen = looks.run("guard", lambda: desired_and_observed_guard(here, linux), None)
        taken_down = not remembered.settings.up
        dialled = None
        if not taken_down:
            dialled = looks.run("workers", lambda: begin_audit_dialling(here, agent[1]), None)
        with dialled or contextlib.nullcontext():
            around = build_audit_context(
                state,
                here,
                looks,
                seen,
                taken_down=taken_down,
                agent=agent,
                files=files,
                dialled=dialled,
            )
    if not taken_down:
        node = looks.run("node processes", lambda: look_at_own_node(state, here, files), None)
        around = msgspec.structs.replace(around, node=node)
    desired, observed = seen or (NOTHING, NOTHING)
    if seen is None:
        looks.skip("guard", "ports", "sysctls", "listeners", "config.yml")
    if "tunnel" in looks.skipped:
        looks.skip("membership service")
    found: list[Finding] = []
    for part, findings in list_audit_parts(desired, observed, around):
        if part not in looks.skipped:
            found += looks.run(part, partial(_collect_findings, findings), ())
    return Report(here.settings.name, here.inventory.revision, (*looks.failures, *found))


@contextlib.contextmanager
def _lock_if_free(state: State, looks: PartChecks) -> Iterator[None]:
    """Hold the lock; a command that hangs, or was stopped, is a finding, and keeps no other from being told.

    What is due to be undone is undone. Raises what is in the command's way.
    """
    with contextlib.ExitStack() as locked:
        try:
            locked.enter_context(lock_checked(state, "check", READING_S))
        except Busy as error:
            check_state(state, "check")
            looks.add_failure("unconfirmed changes", error.message, error.hint)
        else:
            looks.run("unconfirmed changes", lambda: roll_back_if_due(state), otherwise=False)
        yield


def _collect_findings(findings: Callable[[], Iterable[Finding]]) -> tuple[Finding, ...]:
    return tuple(findings())
