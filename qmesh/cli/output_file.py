"""Files that are handed out, such as an invitation or a backup: none replaces something else."""

from __future__ import annotations

from pathlib import Path

from qmesh.errors import BadInput, StateUnreadable
from qmesh.host import files
from qmesh.host.output_file import open_output_directory, write_output


def refuse_output_file(path: Path | None, *, begins: bytes, what: str) -> None:
    """Raise BadInput where a file cannot be written, or would replace something else. None is fine.

    begins: how files of that kind begin, one of which may be replaced, as may an empty one.
    """
    if path is None:
        return
    with open_output_directory(path):
        pass
    if path.is_dir():
        raise BadInput(f"{path} is a directory", hint=f"name a file in it, such as {path / what}")
    if (path.is_symlink() or path.exists()) and not _can_be_replaced(path, begins):
        raise BadInput(f"{path} exists already, and is not a qmesh {what}", hint="name a new file")


def _can_be_replaced(path: Path, begins: bytes) -> bool:
    """Whether it is a regular file that is empty or of that kind."""
    try:
        return files.read_head(path, len(begins)) in {b"", begins}
    except StateUnreadable:
        return False


def write_line(path: Path, line: str) -> None:
    """Write an invitation, or another line, 0600 from the first byte."""
    write_output(path, line.encode() + b"\n")
