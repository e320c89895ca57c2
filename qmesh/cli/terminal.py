"""The one place that prints: whatever reaches a terminal is `shown` before."""

from __future__ import annotations

import sys

from qmesh.mesh.printable import shown


def say(text: str) -> None:
    """Print an answer, on standard output."""
    print(shown(text), flush=True)  # noqa: T201 - this is where it is printed


def talk(text: str, *, end: str = "\n") -> None:
    """Print what is no answer, on standard error. end: what comes after it, a new line or a space."""
    print(shown(text), file=sys.stderr, end=end, flush=True)  # noqa: T201 - see above
