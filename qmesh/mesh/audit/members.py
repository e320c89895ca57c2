"""Members that the control node asked for their findings, and that gave none."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from qmesh.mesh.audit.findings import Finding, error_finding, warning_finding

Silence: TypeAlias = Literal["away", "silent", "older"]
"""Why there is none: the machine was not reached, it was asked and gave no answer, or its qmesh knows no such
question."""

_WANTED: Final = "the findings of its own `check`"


def unanswered_finding(machine: str, why: Silence) -> Finding:
    """A machine whose findings are not known: it may be right or wrong."""
    run = f"on {machine}: `qmesh check`"
    if why == "older":
        return warning_finding(
            "check-failed",
            machine,
            _WANTED,
            "its qmesh is older than this one and does not report findings",
            f"{run}; update qmesh there",
        )
    seen = (
        "its agent did not ask the control node for news, so it could not be asked"
        if why == "away"
        else "its agent was asked, and gave no answer in time"
    )
    return error_finding(
        "check-failed", machine, _WANTED, seen, f"{run}; `qmesh status` here shows its handshake"
    )


def left_out_finding(machine: str, count: int) -> Finding:
    """Findings of a machine that did not fit into its report."""
    return warning_finding(
        "check-failed", machine, _WANTED, f"{count} more of them", f"run `qmesh check` on {machine}"
    )


def uncollected_finding(why: str, cure: str) -> Finding:
    """No member could be asked, as this machine's agent did not ask."""
    return error_finding("check-failed", "other machines", _WANTED, why, cure)
