"""What an audit answers with."""

from __future__ import annotations

import shlex
from typing import Final, Literal, TypeAlias

import msgspec

Severity: TypeAlias = Literal["error", "warning", "info"]

PRIVATE_MODE: Final = 0o600
APPLY: Final = "qmesh apply"
RENDER: Final = "qmesh render-config --write"
CODES_PAGE: Final = "docs/checks.md"
"""What each code means, in qmesh's repository; a code is an anchor in it."""


class Finding(msgspec.Struct, frozen=True):
    """Something that is not as it should be.

    code: one of those in docs/checks.md.
    subject: what it is about: a file, an interface, a machine, a port.
    cure: the command or the instruction that fixes it.
    link: where the code is explained. It follows from the code, whatever is passed.
    """

    code: str
    severity: Severity
    subject: str
    wanted: str
    seen: str
    cure: str
    link: str = ""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "link", f"{CODES_PAGE}#{self.code}")


def error_finding(code: str, subject: str, wanted: str, seen: str, cure: str = APPLY) -> Finding:
    """What has to be fixed."""
    return Finding(code, "error", subject, wanted, seen, cure)


def warning_finding(code: str, subject: str, wanted: str, seen: str, cure: str = APPLY) -> Finding:
    """What should be looked at."""
    return Finding(code, "warning", subject, wanted, seen, cure)


def file_mode_finding(code: str, path: str, mode: int, closing: str) -> Finding:
    """A file that others may read. closing: the command that ends that; empty for `chmod` of the path."""
    cure = closing or f"chmod 600 {shlex.quote(path)}"
    return error_finding(code, path, "mode 0600, or less", f"mode {mode:04o}", cure)


def failed_check_finding(part: str, why: str, cure: str) -> Finding:
    """A part that could not be audited: it may be right or wrong."""
    return error_finding("check-failed", part, "a check of this part of the machine", why, cure)
