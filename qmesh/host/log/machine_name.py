"""This machine's name in its mesh, for those that log before they know anything else.

It imports little, for the process that holds the guard.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from qmesh.errors import BadInput
from qmesh.mesh.values import validate_machine_name

SETTINGS: Final = "machine.json"
"""The file in the state directory that has it."""


def read_machine_name(directory: Path) -> str:
    """The name by the settings; empty where these do not tell. directory: the state directory."""
    try:
        found = json.loads((directory / SETTINGS).read_bytes())
        return validate_machine_name(found["name"])
    except (OSError, ValueError, RecursionError, LookupError, TypeError, BadInput):
        return ""
