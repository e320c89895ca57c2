"""Which directory has the node's config.yml on this machine.

Apart from what reads that file: who joins need not load that before the tunnel is up.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from qmesh.errors import BadInput, QmeshError
from qmesh.host import config_directory
from qmesh.host.config_directory import ConfigDirectory
from qmesh.host.log.events import report_event
from qmesh.host.typed_commands import build_command

FILE_NAME: Final = "config.yml"


def find_directory(given: Path | None) -> ConfigDirectory | None:
    """The node's config directory: as given, or `.config` here when it holds a config.yml.

    What `.config` is here is decided by whoever made the directory in which somebody happens to be: it is
    taken only where it is root's, or that of the user who typed `sudo`.
    Raises BadInput when a given one is no directory, or is reached by a link that is not root's.
    """
    if given is None:
        return _find_in_working_directory()
    found = config_directory.find(given.absolute())
    if found is not None:
        return found
    make = build_command("mkdir -p {}", given)
    raise BadInput(
        f"there is no directory {given}",
        hint="pass the directory that has the node's config.yml; where the node has not run yet: on the"
        f" control machine start the node once, on a worker machine run `{make}`",
    )


def _find_in_working_directory() -> ConfigDirectory | None:
    try:
        path = Path.cwd() / ".config"
    except FileNotFoundError:  # somebody deleted the directory that this is
        return None
    try:
        found = config_directory.find(path)
        if found is None or config_directory.read_stamp(found, FILE_NAME) is None:
            return None
    except QmeshError as error:
        report_event("config-ignored", "%s is not used: %s (hint: %s)", path, error.message, error.hint)
        return None
    if is_trusted(found):
        return found
    report_event(
        "config-ignored",
        "%s is not used, as user %d owns it; if it is the node's, pass it with --config",
        found,
        found.owner,
    )
    return None


def is_trusted(directory: ConfigDirectory) -> bool:
    """Whether it is root's, or that of the user who typed `sudo`; of who is not root nothing can be had."""
    trusted = {0, os.geteuid()}
    by_sudo = os.environ.get("SUDO_UID", "")
    if by_sudo.isdecimal() and len(by_sudo) < 11:
        trusted.add(int(by_sudo))
    return directory.owner in trusted
