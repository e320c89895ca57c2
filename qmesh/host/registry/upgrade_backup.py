"""The backup that is made before a registry is brought to a newer version: by it there is a way back.

It is what `qmesh backup` would have written a moment before, so the version before restores it. Only root can
read it, as all else in that directory.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path

from qmesh import __version__
from qmesh.host import files
from qmesh.host.registry.sqlite import connect, select
from qmesh.host.state.documents import UPGRADE_BACKUP


def write_upgrade_backup(registry_file: Path) -> None:
    """Write it beside the registry, durably. The caller keeps others from writing to that.

    Nothing is written where this is no control node's registry: as of an `init` that was cut off.
    """
    from qmesh.mesh.protocol.backup_file import Backup, encode_backup  # noqa: PLC0415 - needed once a version

    directory = registry_file.parent
    settings, private_key, signing_key = (
        files.read(directory / name) for name in ("machine.json", "private.key", "signing.key")
    )
    if settings is None or private_key is None or signing_key is None:
        return
    with contextlib.closing(connect(registry_file)) as connection:
        invited = select(connection, tuple[str], "SELECT machine FROM invitations WHERE outcome = 'open'")
        with contextlib.closing(sqlite3.connect(":memory:")) as copy:
            connection.backup(copy)
            registry = copy.serialize()
    backup = Backup(
        taken_at=int(time.time()),
        written_by=__version__,
        settings=settings,
        private_key=private_key.decode("ascii", "replace").strip(),
        signing_key=signing_key,
        registry=registry,
        withdrawn=tuple(sorted(name for (name,) in invited)),
        retired=files.read(directory / "retired.json") or b"",
    )
    files.write(directory / UPGRADE_BACKUP, encode_backup(backup, None))


def describe_way_back(registry_file: Path) -> str:
    """What an older version says that finds a registry of a newer one."""
    path = registry_file.with_name(UPGRADE_BACKUP)
    if files.read_mode(path) is None:
        return "install that version of qmesh, or a newer one; the guard stays as it is"
    return (
        "install that version of qmesh, or a newer one; the guard stays as it is. Or, to stay with this one,"
        f" copy {path} elsewhere, run `qmesh uninstall --delete-state`, then `qmesh restore` with that copy"
    )
