"""What a member reports to the control node that asked for it: the findings of its own `check`.

They are encrypted with the preshared key of the two. What stands in them is another machine's text: it is
bounded here, and escaped where it is printed.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from qmesh.errors import EnrolmentRefused
from qmesh.mesh.audit.findings import Finding, Severity
from qmesh.mesh.decode import SAME_VERSION, decode_msgpack, refuse_malformed
from qmesh.mesh.protocol.aead import decrypt_message, encrypt_message
from qmesh.mesh.values import Secret

FINDINGS: Final = b"findings of a check"
"""The kind of message, for `qmesh.mesh.protocol.aead`."""
MOST_OCTETS: Final = 12 * 1024
"""Of a report before it is encrypted: with the rest of a request it is less than a request may have."""
MOST_TEXT: Final = 400
"""Characters of a text of a finding; what is longer is cut."""
_MOST_FINDINGS: Final = 500

Code = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z-]{1,39}\Z")]
Text = Annotated[str, msgspec.Meta(max_length=MOST_TEXT)]
RequestId = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
"""Which request it answers."""


class _ReportedFinding(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    code: Code
    severity: Severity
    subject: Text
    wanted: Text
    seen: Text
    cure: Text


class _Report(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    request: RequestId
    revision: Annotated[int, msgspec.Meta(ge=0, le=2**53)]
    left_out: Annotated[int, msgspec.Meta(ge=0, le=2**53)]
    findings: Annotated[tuple[_ReportedFinding, ...], msgspec.Meta(max_length=_MOST_FINDINGS)]


class FindingsReport(msgspec.Struct, frozen=True, kw_only=True):
    """A member's findings. revision: of the membership that it holds; 0 where that is invalid.

    left_out: how many more it has; errors are left out last.
    """

    revision: int
    findings: tuple[Finding, ...]
    left_out: int = 0


def is_request_id(text: str) -> bool:
    """Whether that names a request."""
    return len(text) == 32 and set(text) <= set("0123456789abcdef")


def encrypt_report(report: FindingsReport, request: str, shared: Secret, *, nonce: bytes) -> bytes:
    """A report as it travels, cut to its largest size: warnings go before errors.

    request: the one that it answers, 32 hexadecimal digits. nonce: see `encrypt_message`.
    """
    by_weight = sorted(report.findings, key=lambda each: ("error", "warning", "info").index(each.severity))
    kept: list[_ReportedFinding] = []
    octets_left = MOST_OCTETS
    for finding in by_weight[:_MOST_FINDINGS]:
        cut = _cut_finding(finding)
        octets_left -= len(msgspec.msgpack.encode(cut))
        if octets_left < 0:
            break
        kept.append(cut)
    left_out = report.left_out + len(report.findings) - len(kept)
    encoded = msgspec.msgpack.encode(_Report(request, report.revision, left_out, tuple(kept)))
    return encrypt_message(encoded, shared, about=FINDINGS, nonce=nonce)


def _cut_finding(finding: Finding) -> _ReportedFinding:
    texts = (finding.subject, finding.wanted, finding.seen, finding.cure)
    # Octets of a file's name that were no text cannot be written down.
    cut = (text[:MOST_TEXT].encode("utf-8", "replace").decode() for text in texts)
    return _ReportedFinding(finding.code, finding.severity, *cut)


def decrypt_report(sealed: bytes, request: str, shared: Secret) -> FindingsReport:
    """Read a report as it arrived. Raises EnrolmentRefused where it is not that member's answer to it."""
    octets = decrypt_message(sealed, shared, about=FINDINGS)
    with refuse_malformed("a member's report of its findings is not understood"):
        report = decode_msgpack(octets, _Report)
    if report.request != request:
        raise EnrolmentRefused("a member's report of its findings answers another request", hint=SAME_VERSION)
    findings = tuple(Finding(*msgspec.structs.astuple(each)) for each in report.findings)
    return FindingsReport(revision=report.revision, findings=findings, left_out=report.left_out)
