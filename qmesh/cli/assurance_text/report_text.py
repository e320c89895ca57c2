"""What `prove` prints of reports: where one was written, and what became of one."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from qmesh.cli.assurance_text.proof_text import render_proof, style_proof
from qmesh.cli.screen.spans import Lines, Style, style_labels
from qmesh.mesh.printable import escape_line

if TYPE_CHECKING:
    from qmesh.agent.commands.prove import WrittenProof
    from qmesh.mesh.proof_report.verification import Verification

_STYLES: Final[Mapping[str, Style]] = {"different": "error", "not proved now": "error"}
_SIGNATURES: Final = {
    "own": "signed by this machine",
    "other": "signed by another key",
    "bad": "the signature is not valid",
    "none": "not signed",
}


def build_written_lines(written: WrittenProof) -> Lines:
    """The proof, and the files."""
    return (*style_proof(render_proof(written)), *style_labels("\n".join(_list_files(written)), {}))


def _list_files(written: WrittenProof) -> Iterator[str]:
    yield f"report: {escape_line(written.report)}, mode 0600: read it before you give it away"
    if written.signature is not None:
        file = escape_line(written.signature)
        yield f"signature: {file}: give it away with the report, and the key in another way:"
        yield f"    {written.key}"
        yield f"    {escape_line(written.machine)} {written.public_key}"


def build_verification_lines(found: Verification) -> Lines:
    """What differs, or that nothing does."""
    return tuple(style_labels("\n".join(_list_lines(found)), _STYLES))


def _list_lines(found: Verification) -> Iterator[str]:
    made = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(found.made_at))
    machine, version = escape_line(found.machine), escape_line(found.qmesh)
    source = "" if found.is_live else "; of the rules of a file, NOT of what was loaded"
    yield f"{machine}: {made}, {_describe_age(found.age_s)} old, by qmesh {version}{source}"
    key = "" if found.key is None else f": {found.key}"
    yield f"{_SIGNATURES[found.signature]}{key}"
    given = None if found.ruleset is None else escape_line(found.ruleset)
    if given is not None and found.rules is not None:
        yield f"compared with the rules of {given}, NOT with what is loaded"
    for each in found.differences:
        yield f"different: {escape_line(each.text)}"
    option = "" if given is None else f" --ruleset {given}"
    for claim in found.broken:
        yield f"not proved now: {claim}; `qmesh prove{option}` says why"
    if found.is_same:
        rules = "that are loaded" if given is None else f"of {given}"
        yield (
            f"the same: the report, the closed ports, and {found.rules} rules {rules};"
            " every claim is proved again"
        )


def _describe_age(age_s: int) -> str:
    for unit, seconds in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if age_s >= 2 * seconds:
            return f"{age_s // seconds} {unit}"
    return f"{age_s} seconds"
