"""The names of the mesh's machines, for whoever presses Tab: read without what a registry takes to load.

It is no look at the mesh: what cannot be read, or is no name, is left out without a word.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

_WORD = re.compile(r"[a-z0-9-]{1,63}")
"""No character of it means anything to a shell."""


def list_offered_names() -> list[str]:
    """Those of this machine's registry."""
    return list_machine_names(Path(os.environ.get("QMESH_STATE", "/var/lib/qmesh")))


def list_machine_names(directory: Path) -> list[str]:
    """Those of the registry in that state directory: none on a member, and none for who may not read it."""
    import sqlite3  # noqa: PLC0415 - every command imports this, and few read names

    place = f"{(directory.absolute() / 'mesh.db').as_uri()}?mode=ro"
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(place, timeout=0, uri=True)) as connection,
    ):
        found = connection.execute("SELECT name FROM machines ORDER BY name").fetchall()
        return [name for (name,) in found if isinstance(name, str) and _WORD.fullmatch(name)]
    return []
