"""What `check` prints: findings in words, and as a monitoring plugin.

Source of the latter: the monitoring plugins' development guidelines, plugin output and return codes.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from qmesh.agent.commands.check import Report
from qmesh.cli.screen.spans import Lines, Style, style_labels
from qmesh.mesh.audit.findings import Finding
from qmesh.mesh.printable import escape_line

if TYPE_CHECKING:
    from qmesh.agent.audit.fleet import MemberReport
    from qmesh.agent.audit.own_fixes import FixedReport

LOOKED_AT: Final = (
    "  looked at: keys, tunnel, guard, other firewalls, listeners, agent, config.yml, this machine's"
    " workers\n"
    "  not looked at: other machines; for these run `qmesh check --all` on the control node"
)
PAGES: Final = Path("/usr/share/doc/qmesh")
"""Where the Debian package has them."""
_MOST_NAMED: Final = 3
_MOST_SUBJECT: Final = 60
_STATUSES: Final = ("OK", "WARNING", "CRITICAL", "UNKNOWN")


class PluginStatus(NamedTuple):
    """A line, and the exit code that goes with it."""

    line: str
    code: int


_STYLES: Final[Mapping[str, Style]] = {
    "error": "error",
    "warning": "warning",
    "not fixed": "error",
    "cure": "heading",
}


def build_report_lines(report: Report) -> Lines:
    """A report with styles: each finding by its severity, and what fixes it."""
    return tuple(style_labels(render_report(report), _STYLES))


def build_fixed_lines(report: FixedReport) -> Lines:
    """What was done and how the machine is then, with styles."""
    return tuple(style_labels(render_fixed(report), _STYLES))


def render_report(report: Report) -> str:
    """A report in words; that of all machines has those of the others below this one's."""
    members = list_members(report)
    lines = [*map(_render_finding, report.findings)]
    if not report.findings:
        lines = [f"{report.machine} is as desired (revision {report.revision})"]
        lines += [LOOKED_AT] if members is None else []
    if members is not None:
        lines += _render_members(members)
    return "\n".join((*lines, *_render_links(report.all_findings)))


def list_members(report: Report) -> tuple[MemberReport, ...] | None:
    """Those of the other machines; None where they were not asked."""
    return getattr(report, "members", None)


def _render_members(members: tuple[MemberReport, ...]) -> Iterable[str]:
    fine = sum(not member.findings for member in members)
    for member in members:
        if member.findings:
            yield f"{escape_line(member.machine)}{'' if member.revision is None else ' says'}:"
            for finding in member.findings:
                yield textwrap.indent(_render_finding(finding, where=member.machine), "  ")
    if members:
        yield f"{fine} of {len(members)} other machines are as desired, as they say"
    else:
        yield "there are no other machines"


def render_fixed(report: FixedReport) -> str:
    """What was done, and how the machine is then."""
    lines = []
    for each in report.fixes:
        lines.append(f"{'not fixed' if each.error else 'fixed'}: {escape_line(each.fix)}")
        if each.error:
            lines.append(f"  {escape_line(each.error)}; {escape_line(each.hint)}")
        lines += [f"  {escape_line(did)}" for did in each.did]
    if not report.fixes:
        lines.append("there is nothing that qmesh fixes by itself")
    return "\n".join((*lines, render_report(report)))


def _render_finding(finding: Finding, *, where: str = "") -> str:
    on = f"on {where}: " if where and not finding.cure.startswith(f"on {where}: ") else ""
    return (
        f"{finding.severity}: {finding.code} {escape_line(finding.subject)}\n"
        f"  wanted: {escape_line(finding.wanted)}\n"
        f"  seen:   {escape_line(finding.seen)}\n"
        f"  cure:   {on}{escape_line(finding.cure)}"
    )


def _render_links(findings: Iterable[Finding]) -> Iterable[str]:
    """Where each code is explained, once; the page is named once."""
    links = list(dict.fromkeys(finding.link for finding in findings))
    if links:
        page, _, _ = links[0].partition("#")
        installed = PAGES / page
        page = str(installed) if installed.is_file() else page
        yield f"what these codes mean: {page}" + ",".join(f" #{link.partition('#')[2]}" for link in links)


def summarize_for_plugin(report: Report) -> PluginStatus:
    """The status of the worst finding, and what was found in a line, with counts as performance data.

    Where something could not be looked at, and nothing is an error besides, it is UNKNOWN.
    """
    findings = report.all_findings
    counts = Counter(finding.severity for finding in findings)
    errors = [finding for finding in findings if finding.severity == "error"]
    if not errors:
        code = 1 if counts["warning"] else 0
    else:
        code = 3 if all(finding.code == "check-failed" for finding in errors) else 2
    worst = errors or [finding for finding in findings if finding.severity == "warning"]
    named = ", ".join(f"{each.code} {each.subject[:_MOST_SUBJECT]}" for each in worst[:_MOST_NAMED])
    more = f" and {len(worst) - _MOST_NAMED} more" if len(worst) > _MOST_NAMED else ""
    members = list_members(report)
    who = report.machine if members is None else f"{1 + len(members)} machines"
    said = f"{who}: {named}{more}" if worst else f"{who}: as desired"
    figures = f"errors={counts['error']};;0;0 warnings={counts['warning']};0;;0"
    return PluginStatus(_build_plugin_line(code, said, figures), code)


def describe_failure_for_plugin(why: str) -> PluginStatus:
    """For a check that did not come to an answer."""
    return PluginStatus(_build_plugin_line(3, why, ""), 3)


def _build_plugin_line(code: int, said: str, figures: str) -> str:
    # What comes after a bar is performance data.
    text = f"QMESH {_STATUSES[code]} - {escape_line(said).replace('|', '/')}"
    return f"{text} | {figures}" if figures else text
