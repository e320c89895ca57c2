"""Files that are handed out, put where somebody wants them: root follows no link of another user's there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from qmesh.errors import BadInput, StateUnreadable
from qmesh.host import files
from qmesh.host.owned_path import DirectoryUse, PathMissing, find_changeable_place, open_without_links
from qmesh.host.typed_commands import build_command


def write_output(path: Path, octets: bytes) -> None:
    """As `files.write`, 0600, without the reserve, which is in the state directory alone.

    Raises as `open_output_directory`, and MachineRefused.
    """
    with open_output_directory(path) as directory:
        files.write_with_owner(directory / path.name, path, octets, files.PRIVATE_MODE, None)


def write_new_output(path: Path, octets: bytes) -> None:
    """The same for a file that was not there. Raises BadInput where it cannot be new."""
    if path.is_symlink() or path.exists():
        raise BadInput(f"{path} exists already", hint="pass another file with -o, or remove that one")
    write_output(path, octets)


def refuse_replacement(place: Path, named: Path, *, begins: bytes, what: str) -> None:
    """Raise BadInput where a file that is written would replace something else.

    place: in a directory that is open; named: the file's path, in messages. begins: how files of that kind
    begin, one of which may be replaced, as may an empty one.
    """
    if place.is_dir():
        raise BadInput(f"{named} is a directory", hint=f"name a file in it, such as {named / what}")
    if (place.is_symlink() or place.exists()) and not _can_be_replaced(place, begins):
        raise BadInput(f"{named} exists already, and is not a qmesh {what}", hint="name a new file")


def _can_be_replaced(place: Path, begins: bytes) -> bool:
    """Whether it is a regular file that is empty or of that kind."""
    try:
        return files.read_head(place, len(begins)) in {b"", begins}
    except StateUnreadable:
        return False


def refuse_changeable_directory(directory: Path, *, option: str, content: str) -> None:
    """Raise BadInput where others than root could change what root puts there, and has run.

    option: names it. content: what it is for.
    """
    with open_without_links(directory.absolute(), DirectoryUse(option, content)) as place:
        if find_changeable_place(place.path) is not None:
            raise BadInput(
                f"others than root can change {place.path}, and what {content} there say is done as root",
                hint=f"pass with {option} a directory that only root can change, such as /etc/systemd/system",
            )


@contextlib.contextmanager
def open_output_directory(path: Path) -> Iterator[Path]:
    """The directory of a file that is to be written: the same one, whatever is put in its place meanwhile.

    Raises BadInput where there is none, or the way to it leads through a link that others than root can
    change: they could choose so which file root replaces, and of an export or a config.yml also with what.
    """
    try:
        with open_without_links(path.absolute().parent, DirectoryUse("FILE", "it")) as place:
            yield Path(f"/proc/self/fd/{place.descriptor}")
    except PathMissing:
        make = build_command("mkdir -p {}", path.parent)
        raise BadInput(
            f"there is no directory {path.parent}",
            hint=f"make it with `{make}`, or name a file in another directory",
        ) from None
