"""One thing that an operator is told: it happened, or it began or ended."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, get_args

import msgspec

from qmesh.mesh.audit.findings import Severity
from qmesh.mesh.values import UnixTime

ChangeKind: TypeAlias = Literal[
    "peer-silent",
    "worker-silent",
    "guard-not-whole",
    "guard-changed",
    "finding",
    "joined",
    "replaced",
    "removed",
    "restored",
    "handed-over",
    "test",
]
"""Where an event or a finding is of the same matter, its code. docs/events.md has all of them."""
KINDS: Final[tuple[ChangeKind, ...]] = get_args(ChangeKind)

Phase: TypeAlias = Literal["begun", "ended", "happened"]

Key: TypeAlias = tuple[ChangeKind, str, str]
"""What is the same condition, look by look: its kind, machine and subject."""

MOST_TEXT: Final = 300
"""Characters of each of a change's texts."""


class Condition(msgspec.Struct, frozen=True):
    """Something that is so now, and should not last.

    machine: by name. subject: of a worker its core; of a finding its code and what it is about.
    code, severity, detail, fix: of a finding, as of `Finding`; detail is what was seen, of a worker too.
    least_s: seconds that it has to last at least, whatever is wished.
    """

    kind: ChangeKind
    machine: str
    subject: str = ""
    code: str = ""
    severity: Severity = "error"
    detail: str = ""
    fix: str = ""
    least_s: float = 0.0

    @property
    def key(self) -> Key:
        """By which it is known again."""
        return self.kind, self.machine, self.subject


class ToldChange(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One of them. A receiver that gets a number twice has had that change before.

    number: of this machine's changes, from 1 on; 0 before it has one. at: Unix time in seconds.
    machine: which one it is about, by name. cores: of workers, as first and last ones.
    code, severity, subject, detail, fix: of a finding; detail also of other kinds, in words.
    times: how often it happened.
    hold_s: seconds that the next such change has to last until it is told, where it came often lately; or 0.
    """

    at: UnixTime
    kind: ChangeKind
    phase: Phase
    number: int = 0
    machine: str = ""
    cores: tuple[tuple[int, int], ...] = ()
    code: str = ""
    severity: Severity = "error"
    subject: str = ""
    detail: str = ""
    fix: str = ""
    times: int = 1
    hold_s: int = 0


def cut_text(text: str) -> str:
    """A text of others, no longer than a change may have it."""
    return text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]}..."
