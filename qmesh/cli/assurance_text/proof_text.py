"""What `prove` prints: each claim, the rules that decide it, or a packet that breaks it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from qmesh.cli.screen.spans import Lines, Style, style_labels
from qmesh.mesh.ports.port_ranges import format_port_ranges
from qmesh.mesh.printable import escape_line
from qmesh.mesh.prover.claims.claim_list import CLAIMS
from qmesh.mesh.prover.packet_text import describe_packet

if TYPE_CHECKING:
    from qmesh.agent.commands.prove import ProofReport
    from qmesh.mesh.prover.decide import Verdict

_STYLES: Final[Mapping[str, Style]] = {"refuted": "error", "not proved": "warning", "proved": "heading"}
_FAMILIES: Final = {"ip": "IPv4", "ip6": "IPv6"}
_MOST_RULES: Final = 12


def build_proof_lines(report: ProofReport) -> Lines:
    """A report with styles: each claim by what became of it."""
    return style_proof(render_proof(report))


def style_proof(text: str) -> Lines:
    """What `render_proof` made, with styles."""
    return tuple(style_labels(text, _STYLES))


def render_proof(report: ProofReport) -> str:
    """A report in words."""
    return "\n".join(_list_lines(report))


def _list_lines(report: ProofReport) -> Iterator[str]:
    yield (
        f"{escape_line(report.machine)}: {escape_line(report.source)}, {report.rules} rules;"
        f" closed ports: {format_port_ranges(report.ports)}"
    )
    for claim, words in CLAIMS.items():
        found = [verdict for verdict in report.verdicts if verdict.claim == claim]
        proved = [verdict for verdict in found if verdict.answer == "proved"]
        if found and len(proved) == len(found):
            tables = any(verdict.without for verdict in found)
            yield f"proved: {words}{'; also with either table of the guard alone' if tables else ''}"
            yield from _list_rules(proved)
        for verdict in found:
            if verdict.answer != "proved":
                yield from _list_broken(verdict, words)


def _list_rules(proved: Sequence[Verdict]) -> Iterator[str]:
    """The rules that a proof needs, of both families together, with the whole rule set."""
    rules = dict.fromkeys(str(rule) for verdict in proved if not verdict.without for rule in verdict.rules)
    for rule in list(rules)[:_MOST_RULES]:
        yield f"    by {escape_line(rule)}"
    if len(rules) > _MOST_RULES:
        yield f"    and {len(rules) - _MOST_RULES} more rules"


def _list_broken(verdict: Verdict, words: str) -> Iterator[str]:
    without = f" without the table {verdict.without}" if verdict.without else ""
    late = ": out of time" if verdict.out_of_time else ""
    yield f"{verdict.answer}{late}: {words} ({_FAMILIES[verdict.family]}{without})"
    if verdict.packet is not None:
        may = "" if verdict.answer == "refuted" else "it may be broken by: "
        yield f"    {may}{describe_packet(verdict.packet)}"
    for step in verdict.path:
        yield f"    came to {escape_line(step)}"
    for rule in verdict.unclear:
        yield f"    not understood: {escape_line(str(rule))}"
    yield from (f"    not ordinary: {each}" for each in verdict.unusual)
