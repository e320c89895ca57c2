"""What a member reports of itself: it fits, is of the member that was asked, and lies within bounds only."""

from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmesh.errors import EnrolmentRefused
from qmesh.mesh.audit.findings import Finding, Severity
from qmesh.mesh.audit.fixes import Fix, list_fixes
from qmesh.mesh.audit.members import (
    Silence,
    left_out_finding,
    unanswered_finding,
    uncollected_finding,
)
from qmesh.mesh.protocol.aead import encrypt_message
from qmesh.mesh.protocol.findings_report import (
    FINDINGS,
    MOST_OCTETS,
    MOST_TEXT,
    FindingsReport,
    decrypt_report,
    encrypt_report,
    is_request_id,
)
from qmesh.mesh.values import Secret

SHARED, OTHER = (Secret("A" * 42 + end) for end in ("M=", "Q="))
REQUEST = "0123456789abcdef" * 2
NONCE = bytes(12)
FINDING = Finding("guard-drift", "error", "table inet qmesh", "closed", "open", "qmesh apply")
REPORT = FindingsReport(revision=3, findings=(FINDING,))


def through(report: FindingsReport) -> FindingsReport:
    sealed = encrypt_report(report, REQUEST, SHARED, nonce=NONCE)
    assert len(sealed) < 16 * 1024
    return decrypt_report(sealed, REQUEST, SHARED)


def test_a_report_arrives_as_it_was():
    assert through(REPORT) == REPORT
    assert through(FindingsReport(revision=0, findings=())) == FindingsReport(revision=0, findings=())


@given(
    st.lists(
        st.builds(
            Finding,
            st.sampled_from(["key-mode", "clock"]),
            st.sampled_from(["error", "warning", "info"]),
            *[st.text(st.characters(categories=["L", "Cs", "Cc"]), max_size=600)] * 4,
        ),
        max_size=60,
    )
)
def test_law_whatever_is_found_fits_and_errors_come_first(findings):
    report = through(FindingsReport(revision=1, findings=tuple(findings)))
    assert len(report.findings) + report.left_out == len(findings)
    severities = [each.severity for each in report.findings]
    assert severities == sorted(severities, key=["error", "warning", "info"].index)
    assert all(len(each.seen) <= MOST_TEXT for each in report.findings)


def test_what_does_not_fit_is_counted():
    many = FindingsReport(revision=1, findings=(FINDING,) * 3000, left_out=2)
    report = through(many)
    assert 100 < len(report.findings) <= 500
    assert report.left_out == 3002 - len(report.findings)
    long = msgspec.structs.replace(FINDING, seen="x" * MOST_TEXT, wanted="x" * MOST_TEXT)
    assert len(through(FindingsReport(revision=1, findings=(long,) * 100)).findings) < MOST_OCTETS / 800


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode([REQUEST, 1, 0]),
        msgspec.msgpack.encode([REQUEST, -1, 0, []]),
        msgspec.msgpack.encode([REQUEST, 2**60, 0, []]),
        msgspec.msgpack.encode([REQUEST, 1, 0, [["code\n", "error", "a", "b", "c", "d"]]]),
        msgspec.msgpack.encode([REQUEST, 1, 0, [["code", "fatal", "a", "b", "c", "d"]]]),
        msgspec.msgpack.encode([REQUEST, 1, 0, [["code", "error", "a" * 401, "b", "c", "d"]]]),
        msgspec.msgpack.encode([REQUEST, 1, 0, [["code", "error", "a", "b", "c", "d"]] * 501]),
        msgspec.msgpack.encode([REQUEST, 1, 0, [["code", "error", "a", "b", "c", "d", "e"]]]),
    ],
)
def test_what_is_no_report_is_refused(said):
    with pytest.raises(EnrolmentRefused, match="not understood"):
        decrypt_report(encrypt_message(said, SHARED, about=FINDINGS, nonce=NONCE), REQUEST, SHARED)


def test_another_ones_report_and_an_old_one_are_refused():
    sealed = encrypt_report(REPORT, REQUEST, SHARED, nonce=NONCE)
    with pytest.raises(EnrolmentRefused, match="another request"):
        decrypt_report(sealed, "f" * 32, SHARED)
    with pytest.raises(EnrolmentRefused, match="preshared key"):
        decrypt_report(sealed, REQUEST, OTHER)
    with pytest.raises(EnrolmentRefused, match="preshared key"):
        decrypt_report(encrypt_message(b"x", SHARED, about=b"else", nonce=NONCE), REQUEST, SHARED)


def test_a_link_is_ours_whatever_a_member_says():
    lies = Finding("clock", "error", "a", "b", "c", "d", "https://evil.example/")
    assert through(FindingsReport(revision=1, findings=(lies,))).findings[0].link == "docs/checks.md#clock"


@pytest.mark.parametrize(
    ("text", "is_one"),
    [(REQUEST, True), ("", False), (REQUEST[:-1], False), (REQUEST[:-1] + "\n", False), ("F" * 32, False)],
)
def test_what_names_a_request(text, is_one):
    assert is_request_id(text) is is_one


@pytest.mark.parametrize("why", get_args(Silence))
def test_a_machine_that_says_nothing_is_a_finding(why):
    finding = unanswered_finding("machine-b", why)
    assert (finding.code, finding.subject) == ("check-failed", "machine-b")
    assert finding.severity == ("warning" if why == "older" else "error")
    assert finding.cure.startswith("on machine-b: `qmesh check`; ")


def test_what_was_left_out_and_that_nobody_was_asked_are_findings():
    finding = left_out_finding("machine-b", 7)
    assert (finding.code, finding.severity, finding.seen) == ("check-failed", "warning", "7 more of them")
    finding = uncollected_finding("no agent", "do it")
    assert (finding.code, finding.severity, finding.cure) == ("check-failed", "error", "do it")


def of(code: str, cure: str = "qmesh apply", severity: Severity = "error", subject: str = "s") -> Finding:
    return Finding(code, severity, subject, "w", "s", cure)


@pytest.mark.parametrize(
    ("finding", "fix"),
    [
        (of("guard-missing"), Fix("apply")),
        (of("agent-missing", severity="warning"), Fix("apply")),
        (of("config-stale", "qmesh render-config --write"), Fix("render-config")),
        (of("config-mode", "chmod 600 /c", subject="/c"), Fix("close-file", "/c")),
        (of("key-mode", "chmod 600 '/c d'", subject="/c d"), Fix("close-file", "/c d")),
        (of("agent-silent", "systemctl restart qmesh.service"), Fix("restart-agent")),
        (of("tunnel-missing"), Fix("apply")),
        (of("tunnel-missing", severity="warning"), None),
        (of("change-undone"), None),
        (of("change-unconfirmed", "qmesh confirm"), None),
        (of("tunnel-mtu", "qmesh apply --mtu 1400"), None),
        (of("foreign-drop", "nft delete rule ip a b handle 7"), None),
        (of("sysctl", "sysctl -w net.ipv4.conf.eth0.route_localnet=0"), None),
        (of("worker-silent", "on machine-b: systemctl restart node-worker@4"), None),
        (of("config-stale", "edit it; then `qmesh render-config --write`"), None),
        (of("config-missing", "qmesh render-config --write --config DIR"), None),
        (of("node-keys", "qmesh node-files --write --replace"), None),
    ],
)
def test_what_qmesh_fixes_by_itself(finding, fix):
    assert list_fixes([finding]) == (() if fix is None else (fix,))


def test_each_fix_is_done_once_and_in_order():
    findings = [
        of("config-stale", "qmesh render-config --write"),
        of("guard-missing"),
        of("tunnel-down"),
        of("agent-silent", "x"),
        of("key-mode", "x", subject="/b"),
        of("key-mode", "x", subject="/a"),
    ]
    kinds = [(each.kind, each.subject) for each in list_fixes(findings)]
    assert kinds == [
        *(("close-file", "/a"), ("close-file", "/b"), ("restart-agent", "")),
        *(("apply", ""), ("render-config", "")),
    ]
