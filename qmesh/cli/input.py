"""Lines of text that are given in a file or on standard input: invitations, requests, answers."""

from __future__ import annotations

import sys
from pathlib import Path

from qmesh.errors import BadInput
from qmesh.mesh.values import quote_text


def read_input_text(file: str, *, most: int, hint: str) -> str:
    """The text of a file, `-` for standard input, read to a little more than `most` characters.

    Raises BadInput with that hint where it cannot be read.
    """
    if file == "-":
        return sys.stdin.buffer.read(most + 1).decode("ascii", "replace")
    try:
        with Path(file).open("rb") as opened:
            return opened.read(most + 1).decode("ascii", "replace")
    except OSError as error:
        raise BadInput(f"{quote_text(file)} cannot be read: {error.strerror}", hint=hint) from None
