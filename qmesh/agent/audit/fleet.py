"""`check --all`: this machine, which is the control node, and what the other machines say of themselves."""

from __future__ import annotations

import msgspec

from qmesh.agent.commands.check import Report, check
from qmesh.agent.preconditions import check_user, load_checked
from qmesh.host.api.collection import CollectedReport, NoCollection, collect_reports
from qmesh.host.state.directory import State
from qmesh.mesh.audit.findings import Finding
from qmesh.mesh.audit.members import left_out_finding, unanswered_finding, uncollected_finding
from qmesh.mesh.audit.node.silence import name_dropping_rules


class MemberReport(msgspec.Struct, frozen=True):
    """A machine's findings, as it says. revision: None where it said nothing."""

    machine: str
    revision: int | None
    findings: tuple[Finding, ...]


class FleetReport(Report, frozen=True):
    """What `check --all` answers: a Report with those of the other machines, by name."""

    members: tuple[MemberReport, ...] = ()

    @property
    def all_findings(self) -> tuple[Finding, ...]:
        return (*self.findings, *(finding for member in self.members for finding in member.findings))


def check_all(state: State) -> FleetReport:
    """Check this machine, and have the members check themselves. It takes a minute at most.

    Raises as `check`, and BadInput on another machine than the control node.
    """
    check_user("check --all")
    load_checked(state, "check --all")
    own = check(state)
    members: list[MemberReport] = []
    findings = own.findings
    try:
        members += map(_build_report, collect_reports(state.directory))
    except NoCollection as error:
        findings = (*findings, uncollected_finding(str(error), "run `qmesh check`, then this again"))
    members.sort(key=lambda each: each.machine)
    findings = tuple(name_dropping_rules(findings, {each.machine: each.findings for each in members}))
    return FleetReport(own.machine, own.revision, findings, tuple(members))


def _build_report(collected: CollectedReport) -> MemberReport:
    name, report = collected.machine, collected.report
    if report is None:
        return MemberReport(name, None, (unanswered_finding(name, collected.silence or "silent"),))
    more = (left_out_finding(name, report.left_out),) if report.left_out else ()
    return MemberReport(name, report.revision, (*report.findings, *more))
