"""The files of this machine's node that hold its identity, config.yml and keys.yml: read as of one moment.

They are read as their directory's owner, who may let that take some seconds: never with a lock, nor by the
agent's loop.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from qmesh.agent.node import node_config, node_directory
from qmesh.errors import BadInput, MachineRefused, QmeshError
from qmesh.host import config_directory
from qmesh.host.config_directory import ConfigDirectory
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.node_keys.key_store import (
    KEY_STORE,
    find_key_store,
    list_needed_keys,
    refuse_incomplete_identity,
)
from qmesh.mesh.nodeconfig import parse_config, render_config_for
from qmesh.mesh.protocol.node_files import NodeFiles
from qmesh.mesh.values import Profile, SecretStruct

SETTLED_S: Final = 1.0
"""Seconds since a file's last change after which nothing writes to it any more: the node writes in place."""
_PATIENCE_S: Final = 6.0
_PAUSE_S: Final = 0.2

Stamp = tuple[tuple[int, int, int, int] | None, ...]
"""Of each file what `config_directory.read_stamp` says."""


class IdentityFiles(SecretStruct, frozen=True, kw_only=True):
    """Both files. config: None where there is none. key_store: as config, and where the node needs none.

    path: where the node has keys.yml.
    """

    config: str | None
    key_store: bytes | None
    path: Path


def read_identity_files(directory: ConfigDirectory, profile: Profile) -> IdentityFiles:
    """Both files as they are now. Raises BadInput, StateUnreadable or MachineRefused as reading does."""
    config = node_config.read(directory).text
    parsed = None if config is None else parse_config(config)
    path = Path(find_key_store(parsed, str(directory.path)))
    if KEY_STORE not in list_needed_keys(profile):
        return IdentityFiles(config=config, key_store=None, path=path)
    found = config_directory.read(locate_file(directory, path), path.name)
    return IdentityFiles(config=config, key_store=None if found is None else found.octets, path=path)


def locate_file(directory: ConfigDirectory, path: Path) -> ConfigDirectory:
    """The directory of a file to which config.yml leads: another one has to be of the same owner."""
    if path.parent == directory.path:
        return directory
    return ConfigDirectory(path.parent, directory.owner)


def read_stamp(directory: ConfigDirectory, path: Path | None = None) -> Stamp:
    """Which files they are, without reading them. path: of keys.yml; None where it is beside config.yml.

    Raises as `read_identity_files`.
    """
    store = directory.path / KEY_STORE if path is None else path
    return (
        config_directory.read_stamp(directory, node_directory.FILE_NAME),
        config_directory.read_stamp(locate_file(directory, store), store.name),
    )


def is_settled(stamp: Stamp) -> bool:
    """Whether nothing has written to these files just now, as far as the clock tells."""
    now = time.time_ns()
    return all(each is None or abs(now - each[1]) > SETTLED_S * 1e9 for each in stamp)


def read_settled_files(directory: ConfigDirectory, profile: Profile) -> IdentityFiles:
    """Both files as of one moment at which nothing writes to them, waiting for it for some seconds.

    Raises MachineRefused where that does not come, and as `read_identity_files`.
    """
    until = time.monotonic() + _PATIENCE_S
    while True:
        # One that is cut short while it is written may well be no YAML: that counts once it has settled.
        unreadable: QmeshError | None = None
        before: Stamp = ()
        try:
            files = read_identity_files(directory, profile)
            before = read_stamp(directory, files.path)
            is_same = files == read_identity_files(directory, profile)
            if is_same and is_settled(before) and before == read_stamp(directory, files.path):
                return files
        except QmeshError as error:
            unreadable = error
            before = read_stamp(directory)
        if unreadable is not None and is_settled(before):
            raise unreadable
        if time.monotonic() > until:
            raise MachineRefused(
                f"config.yml or {KEY_STORE} in {directory} is being written all the time",
                hint="see which program writes there; then run the same command again",
            )
        time.sleep(_PAUSE_S)


def read_files_for(
    directory: ConfigDirectory | None, inventory: Inventory, name: str, *, key_store: str
) -> NodeFiles:
    """What another machine is given of this one's, the control node's.

    key_store: where that machine will have keys.yml.
    Raises BadInput, StateUnreadable and MachineRefused where this machine's own files are not whole.
    """
    if directory is None:
        raise BadInput(
            "the control node does not know where its node's config.yml is",
            hint="run `qmesh render-config --write --config DIR` on the control node",
        )
    files = read_settled_files(directory, inventory.node)
    if files.config is None:
        raise BadInput(
            f"the control node has no config.yml in {directory}",
            hint="start the node once there, or restore its config.yml from a backup",
        )
    parsed = parse_config(files.config)
    refuse_incomplete_identity(parsed, files.key_store, inventory.node)
    config = render_config_for(inventory, name, parsed, key_store=key_store)
    return NodeFiles(config=config.text, keys=files.key_store)


def refuse_unprintable_path(directory: ConfigDirectory) -> str:
    """Where a directory has keys.yml. Raises BadInput where config.yml can't say that."""
    path = os.fspath(directory.path / KEY_STORE)
    if not (path.isascii() and path.isprintable()):
        raise BadInput(
            "the path of the node's directory has other characters than printable ASCII",
            hint="pass a directory with another name with --config",
        )
    return path
