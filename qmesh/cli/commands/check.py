"""`qmesh check`."""

from __future__ import annotations

import typer

from qmesh.agent.commands.check import Report, check
from qmesh.cli.output import STATE, JsonOption, StateOption, answer
from qmesh.host.state.directory import State
from qmesh.mesh.printable import one_line

EXAMPLES = ("qmesh check", "qmesh check --json")


def command(state: StateOption = STATE, as_json: JsonOption = False) -> None:
    """Audit keys, tunnel, guard, listeners and config.yml.

    Nothing is changed. Exit code 0 when there is no error, 1 otherwise; every finding names the
    command that cures it.
    """
    report = check(State(state))
    answer(report, as_json=as_json, text=_in_words)
    if not report.is_fine:
        raise typer.Exit(1)


def _in_words(report: Report) -> str:
    if not report.findings:
        return f"{report.machine} is as desired (revision {report.revision})"
    return "\n".join(
        f"{finding.severity}: {finding.code} {one_line(finding.subject)}\n"
        f"  wanted: {one_line(finding.wanted)}\n"
        f"  seen:   {one_line(finding.seen)}\n"
        f"  cure:   {one_line(finding.cure)}"
        for finding in report.findings
    )
