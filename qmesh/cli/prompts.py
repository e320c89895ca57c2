"""Questions at the terminal, before something that cannot be undone."""

from __future__ import annotations

import sys

from qmesh.cli.terminal import print_stderr
from qmesh.errors import BadInput


def ask_question(question: str, *, refusal: BadInput) -> str:
    """What was typed, without spaces around it. Raises `refusal` where there is no terminal to ask at."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise refusal
    print_stderr(question, end=" ")
    return sys.stdin.readline().strip()
