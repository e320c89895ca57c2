"""What is given in a file or on standard input: invitations, requests, answers, backups, lists."""

from __future__ import annotations

import sys
from pathlib import Path

from qmesh.errors import BadInput, StateUnreadable
from qmesh.host import files
from qmesh.mesh.values import quote_text


def read_input_text(file: str, *, most: int, hint: str) -> str:
    """The text of a file, as `read_input` takes it."""
    return read_input(file, most=most, hint=hint).decode("ascii", "replace")


def read_input(file: str, *, most: int, hint: str) -> bytes:
    """The octets of a file, `-` for standard input, as `read_file` takes them. Raises BadInput alike."""
    if file != "-":
        return read_file(Path(file), most=most, hint=hint)
    try:
        return sys.stdin.buffer.read(most + 1)
    except OSError as error:
        raise BadInput(f"standard input cannot be read: {error.strerror}", hint=hint) from None


def read_file(path: Path, *, most: int, hint: str) -> bytes:
    """The first octets of a file, one more than `most` where there are more.

    Raises BadInput with that hint where it cannot be read.
    """
    try:
        with path.open("rb") as opened:
            return opened.read(most + 1)
    except OSError as error:
        raise BadInput(f"{quote_text(str(path))} cannot be read: {error.strerror}", hint=hint) from None


def read_found_file(path: Path, *, most: int, hint: str) -> bytes | None:
    """A file that another user may have put there: a regular one, and no link. None where there is none.

    Raises BadInput with that hint for anything else, without waiting for one who writes to it.
    """
    try:
        return files.read(path, limit=most)
    except StateUnreadable as error:
        raise BadInput(error.message, hint=hint) from None
