"""`qmesh check`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import typer

from qmesh.agent.commands.check import Report, check
from qmesh.cli.output import STATE, JsonOption, StateOption, print_answer
from qmesh.host.state.directory import State
from qmesh.mesh.audit import Finding
from qmesh.mesh.printable import escape_line

EXAMPLES = ("qmesh check", "qmesh check --json")


_LOOKED_AT: Final = (
    "  looked at: keys, tunnel, guard, other firewalls, listeners, agent, config.yml, this machine's"
    " workers\n"
    "  not looked at: other machines; run `qmesh check` there, and `qmesh status` on the control node"
)


def command(state: StateOption = STATE, as_json: JsonOption = False) -> None:
    """Check this machine: keys, tunnel, guard, listeners and config.yml.

    It changes nothing. Exit code 0 when there is no error, 1 otherwise; every finding names the
    command that fixes it.
    """
    report = check(State(state))
    print_answer(report, as_json=as_json, text=_render_text)
    if not report.is_fine:
        raise typer.Exit(1)


def _render_text(report: Report) -> str:
    if not report.findings:
        return f"{report.machine} is as desired (revision {report.revision})\n{_LOOKED_AT}"
    return "\n".join((*map(_render_finding, report.findings), _render_links(report.findings)))


def _render_finding(finding: Finding) -> str:
    return (
        f"{finding.severity}: {finding.code} {escape_line(finding.subject)}\n"
        f"  wanted: {escape_line(finding.wanted)}\n"
        f"  seen:   {escape_line(finding.seen)}\n"
        f"  cure:   {escape_line(finding.cure)}"
    )


def _render_links(findings: Iterable[Finding]) -> str:
    """Where each code is explained, once; the page is named once."""
    links = dict.fromkeys(finding.link for finding in findings)
    page, _, _ = next(iter(links)).partition("#")
    return f"what these codes mean: {page}" + ",".join(f" #{link.partition('#')[2]}" for link in links)
