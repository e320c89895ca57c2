"""This machine's name in its mesh, for those that log before they know anything else.

It imports little, for the process that holds the guard.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from qmesh.errors import BadInput
from qmesh.mesh.decode import decode_json
from qmesh.mesh.values import validate_machine_name

SETTINGS: Final = "machine.json"
"""The file in the state directory that has it."""


class _Named(msgspec.Struct):
    """Of the settings the name alone, whatever else is in them."""

    name: str


def read_machine_name(directory: Path) -> str:
    """The name by the settings; empty where these do not tell. directory: the state directory."""
    try:
        found = decode_json((directory / SETTINGS).read_bytes(), _Named)
        return validate_machine_name(found.name)
    except (OSError, BadInput):
        return ""
