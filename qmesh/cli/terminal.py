"""The one place that prints: whatever reaches a terminal is `escape_text` before."""

from __future__ import annotations

import sys

from qmesh.mesh.printable import escape_text


def print_stdout(text: str) -> None:
    """Print an answer, on standard output."""
    print(escape_text(text), flush=True)  # noqa: T201 - this is where it is printed


def print_stderr(text: str, *, end: str = "\n") -> None:
    """Print what is no answer, on standard error. end: what comes after it, a new line or a space."""
    print(escape_text(text), file=sys.stderr, end=end, flush=True)  # noqa: T201 - see above
