"""What can happen to a mesh: its codes, and in words, for the page and for notifications."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

EventKind: TypeAlias = Literal[
    "mesh-made",
    "mesh-changed",
    "machine-changed",
    "invited",
    "invitation-withdrawn",
    "invitation-expired",
    "joined",
    "removed",
    "paused",
    "resumed",
    "replacement-invited",
    "replacement-ended",
    "replaced",
    "key-offered",
    "key-rotated",
    "restored",
    "handover-begun",
    "handover-ended",
    "handed-over",
    "node-files-fetched",
]

EVENT_WORDS: Final[Mapping[EventKind, str]] = {
    "mesh-made": "the mesh was made",
    "mesh-changed": "the mesh was changed",
    "machine-changed": "{} was changed",
    "invited": "{} was invited",
    "invitation-withdrawn": "the invitation of {} was withdrawn",
    "invitation-expired": "the invitation of {} expired",
    "joined": "{} joined",
    "removed": "{} was removed",
    "paused": "{} was paused",
    "resumed": "{} was resumed",
    "replacement-invited": "{} was invited again",
    "replacement-ended": "the new invitation of {} ended",
    "replaced": "{} joined again, with a new key",
    "key-offered": "{} offered a new key",
    "key-rotated": "{} has a new key",
    "restored": "the control node was restored from a backup",
    "handover-begun": "a handover to {} began",
    "handover-ended": "the handover to {} was cancelled",
    "handed-over": "the control role moved to {}",
    "node-files-fetched": "{} fetched the node's files",
}
"""A clause of each, with `{}` for the machine."""


def describe_event(kind: str, machine: str) -> str:
    """An event in words; one that is not known here, such as of a later version, by its code."""
    words = next((words for known, words in EVENT_WORDS.items() if known == kind), f"{kind} {{}}")
    return words.replace("{}", machine).rstrip()


def describe_author(command: str, user: str | None) -> str:
    """Who made an event happen; empty where that was not noted. Of a join it is noted who invited."""
    if user is None:
        return ""
    return f"invited by {user}" if command == "join" else f"by {user}"
