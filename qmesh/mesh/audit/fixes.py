"""Which findings qmesh fixes itself: those where the mesh says already how the machine should be.

What needs a decision, belongs to another program, or restarts the node's processes is for a person.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, TypeAlias

import msgspec

from qmesh.mesh.audit.findings import APPLY, RENDER, Finding

FixKind: TypeAlias = Literal["close-file", "restart-agent", "apply", "render-config"]

_MODES: Final = frozenset({"key-mode", "config-mode"})
_DECIDED: Final = frozenset({"change-undone"})
"""Findings whose command a person runs: what it does was rolled back, as no confirmation came."""


class Fix(msgspec.Struct, frozen=True):
    """Something that qmesh does. subject: the file that is closed to others; else empty."""

    kind: FixKind
    subject: str = ""


def list_fixes(findings: Iterable[Finding]) -> tuple[Fix, ...]:
    """What fixes them, each once, in the order in which it is done."""
    found = {fix for finding in findings if (fix := _find_fix(finding)) is not None}
    order: tuple[FixKind, ...] = ("close-file", "restart-agent", "apply", "render-config")
    return tuple(sorted(found, key=lambda fix: (order.index(fix.kind), fix.subject)))


def _find_fix(finding: Finding) -> Fix | None:
    if finding.code in _MODES:
        return Fix("close-file", finding.subject)
    if finding.code == "agent-silent":
        return Fix("restart-agent")
    if finding.code in _DECIDED or _is_taken_down(finding):
        return None
    if finding.cure == APPLY:
        return Fix("apply")
    return Fix("render-config") if finding.cure == RENDER else None


def _is_taken_down(finding: Finding) -> bool:
    """Whether the tunnel is down because `qmesh down` said so."""
    return finding.code == "tunnel-missing" and finding.severity == "warning"
