"""Files that are handed out, such as an invitation or a backup: none replaces something else."""

from __future__ import annotations

from pathlib import Path

from qmesh.host.output_file import open_output_directory, refuse_replacement, write_output


def refuse_output_file(path: Path | None, *, begins: bytes, what: str) -> None:
    """Raise BadInput where a file cannot be written, or would replace something else. None is fine.

    begins: how files of that kind begin, one of which may be replaced, as may an empty one.
    """
    if path is None:
        return
    with open_output_directory(path) as directory:
        refuse_replacement(directory / path.name, path, begins=begins, what=what)


def write_line(path: Path, line: str) -> None:
    """Write an invitation, or another line, 0600 from the first byte."""
    write_output(path, line.encode() + b"\n")
