"""The node's config.yml on this machine: find it, render it, write it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from qmesh.agent.node.node_directory import FILE_NAME
from qmesh.errors import BadInput, QmeshError
from qmesh.host import config_directory
from qmesh.host.config_directory import ConfigDirectory
from qmesh.mesh import nodeconfig
from qmesh.mesh.values import Profile, SecretStruct

if TYPE_CHECKING:  # `ready` reads a file a core, and has no use for the registry
    from qmesh.agent.local import Local


class NodeFile(SecretStruct, frozen=True):
    """A node's config.yml. text: None when there is no such file; never to be printed as it is."""

    path: Path
    text: str | None
    mode: int | None
    is_utf16: bool = False


def read(directory: ConfigDirectory) -> NodeFile:
    """The config.yml in `directory`, UTF-8. Raises MachineRefused, or BadInput when it is no such text."""
    found = read_in_any_encoding(directory)
    if found.is_utf16:
        raise BadInput(
            f"{found.path} is UTF-16, and qmesh changes only UTF-8",
            hint="save the file as UTF-8: `iconv -f UTF-16 -t UTF-8`; nothing was changed",
        )
    return found


def read_in_any_encoding(directory: ConfigDirectory) -> NodeFile:
    """As `read`, also where it is UTF-16, as some nodes read it."""
    path = directory.path / FILE_NAME
    found = config_directory.read(directory, FILE_NAME)
    if found is None:
        return NodeFile(path, None, None)
    octets, mode = found
    try:
        text, is_utf16 = nodeconfig.decode_config(octets)
    except BadInput as error:
        where = error.message.replace(FILE_NAME, str(path), 1)
        raise BadInput(where, hint=f"{error.hint}; nothing was changed") from None
    return NodeFile(path, text, mode, is_utf16)


def read_profile(directory: ConfigDirectory | None) -> Profile | None:
    """The node's profile as its config.yml tells; None when it does not."""
    text = None if directory is None else read(directory).text
    return None if text is None else nodeconfig.detect_profile(text)


def refuse_to_create(here: Local, directory: ConfigDirectory | None) -> None:
    """Raise BadInput where a new config.yml would be a node without its identity or a worker's secret."""
    missing = (
        "qmesh does not know where config.yml is"
        if directory is None
        else f"there is no config.yml in {directory}"
    )
    where = None if directory is None else str(directory)
    nodeconfig.refuse_new_config(here.inventory, here.settings.name, missing, directory=where)


def write(directory: ConfigDirectory, old: str | None, new: str) -> tuple[Path, bool]:
    """Put a rendered config.yml in place of `old`; the file that was written, and whether it changed.

    It is its owner's alone afterwards, also where it was right, and so is keys.yml beside it: the node makes
    both for every user to read. Raises BadInput where another one is there.
    """
    # `ready` reads config.yml for each core, and has no use for cryptography.
    from qmesh.mesh.node_keys.key_store import find_key_store  # noqa: PLC0415

    before = None if old is None else old.encode("utf-8")
    written = config_directory.write(directory, FILE_NAME, new.encode("utf-8"), instead_of=before)
    with contextlib.suppress(QmeshError):  # what is wrong with keys.yml is for `check` to say
        keys = Path(find_key_store(new, str(directory.path)))
        if keys.parent == directory.path:
            config_directory.close_to_others(directory, keys.name)
    return written
