"""Every event that is logged, by its code, and how much it matters. docs/events.md has what each means.

A code that is also the code of a finding, or of an event of the registry, is about the same matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

from qmesh.mesh.events.mesh_events import EVENT_WORDS

Level: TypeAlias = Literal["err", "warning", "notice", "info", "debug"]
"""err: it needs you. warning: look at it. notice: a change that matters. info: routine."""

PRIORITIES: Final[Mapping[Level, int]] = {"err": 3, "warning": 4, "notice": 5, "info": 6, "debug": 7}
"""The levels as syslog(3) and the journal have them."""

EVENTS: Final[Mapping[str, Level]] = {
    # The agent and its parts
    "agent-started": "info",
    "agent-stopped": "info",
    "agent-well": "info",
    "agent-failing": "warning",
    "agent-recovered": "notice",
    "agent-hung": "warning",
    "agent-extended": "info",
    "agent-blind": "err",
    "agent-lock-unknown": "warning",
    "agent-installed": "info",
    "agent-missing": "warning",
    "thread-failed": "err",
    "library-failed": "err",
    # Guard and tunnel
    "step-taken": "notice",
    "guard-changed": "warning",
    "guard-restored": "warning",
    "guard-not-kept": "err",
    "guard-open": "err",
    "claim-refuted": "err",
    "claims-hold": "notice",
    "holder-restarted": "warning",
    "connection-cut": "notice",
    "connections-not-cut": "warning",
    "ports-not-reserved": "warning",
    "peers-kept": "warning",
    "detour-found": "warning",
    "detours-gone": "notice",
    "ssh-cut-off": "warning",
    "unit-outdated": "err",
    "leftovers-taken": "notice",
    # The membership
    "membership-arrived": "notice",
    "membership-old": "warning",
    "membership-conflict": "err",
    "members-served": "info",
    # The membership, as the registry has it too
    **dict.fromkeys(EVENT_WORDS, "notice"),
    # Between machines
    "handover-waits": "warning",
    "control-endpoint-tried": "info",
    "control-endpoint-found": "notice",
    "clock": "warning",
    "findings-not-reported": "warning",
    "readers-served": "info",
    "connections-refused": "warning",
    "connection-failed": "err",
    "request-failed": "err",
    # The node
    "config-written": "notice",
    "config-stale": "warning",
    "config-ignored": "warning",
    "restart-due": "notice",
    "control-restarted": "notice",
    "control-restart-waits": "info",
    "workers-restarted": "notice",
    "workers-stopped": "notice",
    "node-keys": "warning",
    "node-keys-agree": "notice",
    "node-program": "warning",
    "node-program-agrees": "notice",
    "node-ports-open": "notice",
    "control-unanswered": "warning",
    "ready-waits": "info",
    # Changes that are rolled back
    "restore-begun": "notice",
    "restore-failed": "err",
    "rolled-back": "warning",
    "rollback-kept": "warning",
    "rollback-failed": "err",
    "command-killed": "warning",
    "command-hangs": "warning",
    "command-waits": "info",
    # Metrics
    "metrics-served": "info",
    "metrics-file-missing": "warning",
    "metrics-incomplete": "warning",
    # Notifications
    "notification-sent": "info",
    "notification-failed": "warning",
    "notification-unkept": "warning",
    # Commands
    "advice": "info",
    "talk": "info",
    "command-failed": "err",
}


def find_level(number: int) -> Level:
    """The level of a record of Python's logging by its number, of which any is possible."""
    if number >= 40:
        return "err"
    if number >= 30:
        return "warning"
    if number >= 25:
        return "notice"
    return "info" if number >= 20 else "debug"
