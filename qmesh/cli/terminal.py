"""The one place that prints: whatever reaches a terminal is `escape_text` before."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from qmesh.cli.screen.spans import Line, render_lines
from qmesh.mesh.printable import escape_text


def print_lines(lines: Iterable[Line], *, is_coloured: bool) -> None:
    """Print an answer whose parts have meanings, on standard output."""
    print(render_lines(lines, is_coloured=is_coloured), flush=True)  # noqa: T201 - see above


def print_stdout(text: str) -> None:
    """Print an answer, on standard output."""
    print(escape_text(text), flush=True)  # noqa: T201 - this is where it is printed


def print_stderr(text: str, *, end: str = "\n") -> None:
    """Print what is no answer, on standard error. end: what comes after it, a new line or a space."""
    print(escape_text(text), file=sys.stderr, end=end, flush=True)  # noqa: T201 - see above
