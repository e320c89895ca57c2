"""What `check` prints of findings, this machine's and others', and as a monitoring plugin."""

from __future__ import annotations

import re

import msgspec
import pytest

from qmesh.agent.audit.fleet import FleetReport, MemberReport
from qmesh.agent.audit.own_fixes import FixedReport, FixResult
from qmesh.agent.commands.check import Report
from qmesh.cli import check_text
from qmesh.cli.check_text import (
    describe_failure_for_plugin,
    render_fixed,
    render_report,
    summarize_for_plugin,
)
from qmesh.mesh.audit.findings import Finding, Severity

HOSTILE = "x\x1b[2J\nOK | errors=0\u202e"
FIGURES = re.compile(r"\|( '?[a-z]+'?=\d+(;[0-9.:@~]*){0,4})+$")


def finding(code: str = "key-mode", severity: Severity = "error", subject: str = "/k") -> Finding:
    return Finding(code, severity, subject, "wanted", "seen", "cure")


def fleet(*findings: Finding, of_member: tuple[Finding, ...] = ()) -> FleetReport:
    members = (MemberReport("b", 2, of_member), MemberReport("c", 2, ()))
    return FleetReport("a", 2, findings, members)


@pytest.mark.parametrize(
    ("findings", "code", "line"),
    [
        ((), 0, "QMESH OK - a: as desired | errors=0;;0;0 warnings=0;0;;0"),
        ((finding(severity="info"),), 0, "QMESH OK - a: as desired | errors=0;;0;0 warnings=0;0;;0"),
        (
            (finding("clock", "warning", "x"),),
            1,
            "QMESH WARNING - a: clock x | errors=0;;0;0 warnings=1;0;;0",
        ),
        (
            (finding("clock", "warning", "x"), finding()),
            2,
            "QMESH CRITICAL - a: key-mode /k | errors=1;;0;0 warnings=1;0;;0",
        ),
        (
            (finding("check-failed", subject="keys"),),
            3,
            "QMESH UNKNOWN - a: check-failed keys | errors=1;;0;0 warnings=0;0;;0",
        ),
        (
            (finding("check-failed"), *(finding(subject=f"/{number}") for number in range(4))),
            2,
            "QMESH CRITICAL - a: check-failed /k, key-mode /0, key-mode /1 and 2 more | {}".format(
                "errors=5;;0;0 warnings=0;0;;0"
            ),
        ),
    ],
)
def test_a_plugin_says_the_worst_in_a_line_and_counts_all(
    findings: tuple[Finding, ...], code: int, line: str
) -> None:
    assert summarize_for_plugin(Report("a", 2, findings)) == (line, code)
    assert FIGURES.search(line)


def test_a_plugin_counts_what_members_find_and_takes_no_line_of_theirs_for_its_own() -> None:
    status = summarize_for_plugin(fleet(of_member=(finding(subject=HOSTILE),)))
    assert status.code == 2
    assert status.line.startswith("QMESH CRITICAL - 3 machines: key-mode x\\x1b[2J\\nOK / errors=0\\u202e | ")
    assert status.line.count("|") == 1
    assert status.line.isprintable()
    assert summarize_for_plugin(fleet()).line.startswith("QMESH OK - 3 machines: as desired | ")


def test_a_plugin_that_knows_nothing_says_so() -> None:
    assert describe_failure_for_plugin("no | state\n") == ("QMESH UNKNOWN - no / state\\n", 3)


def test_the_page_of_codes_is_named_where_this_machine_has_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(check_text, "PAGES", tmp_path)
    assert render_report(fleet(finding("clock"))).endswith("\nwhat these codes mean: docs/checks.md #clock")
    page = tmp_path / "docs/checks.md"
    page.parent.mkdir()
    page.touch()
    assert render_report(fleet(finding("clock"))).endswith(f"\nwhat these codes mean: {page} #clock")


def test_findings_of_all_machines_are_told_with_whose_they_are_and_where_the_cure_is_run() -> None:
    said = render_report(fleet(finding("clock"), of_member=(finding(subject=HOSTILE),)))
    assert said.split("\n") == [
        *("error: clock /k", "  wanted: wanted", "  seen:   seen", "  cure:   cure"),
        "b says:",
        "  error: key-mode x\\x1b[2J\\nOK | errors=0\\u202e",
        *("    wanted: wanted", "    seen:   seen", "    cure:   on b: cure"),
        "1 of 2 other machines are as desired, as they say",
        "what these codes mean: docs/checks.md #clock, #key-mode",
    ]
    assert render_report(fleet()).split("\n") == [
        "a is as desired (revision 2)",
        "2 of 2 other machines are as desired, as they say",
    ]
    assert render_report(FleetReport("a", 2, (), ())).endswith("\nthere are no other machines")
    named = render_report(fleet(of_member=(msgspec.structs.replace(finding(), cure="on b: cure"),)))
    assert "    cure:   on b: cure\n" in named
    silent = FleetReport("a", 2, (), (MemberReport("b", None, (finding("check-failed"),)),))
    assert "\nb:\n  error: check-failed" in render_report(silent)
    assert not silent.is_fine


def test_what_was_fixed_is_told_before_what_is_left() -> None:
    fixes = (
        FixResult(fix="qmesh apply", did=("load-guard x: y",)),
        FixResult(fix="chmod 600 /k", error="no", hint="do it"),
    )
    said = render_fixed(FixedReport("a", 2, (finding(),), fixes))
    assert said.split("\n")[:5] == [
        *("fixed: qmesh apply", "  load-guard x: y"),
        *("not fixed: chmod 600 /k", "  no; do it", "error: key-mode /k"),
    ]
    nothing = render_fixed(FixedReport("a", 2, (), ()))
    assert nothing.startswith("there is nothing that qmesh fixes by itself\na is as desired")
