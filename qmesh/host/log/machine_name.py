"""This machine's name in its mesh, for those that log before they know anything else.

It imports next to nothing, for the process that holds the guard.
"""

from __future__ import annotations

import os

from qmesh.host.lean.json_field import find_field, parse_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

SETTINGS: Final = "machine.json"
"""The file in the state directory that has it."""
_OF_NAMES: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")
"""As `validate_machine_name` has it: none of them needs to be escaped anywhere."""


def read_machine_name(directory: str | os.PathLike[str]) -> str:
    """The name by the settings; empty where these do not tell. directory: the state directory."""
    try:
        with open(f"{os.fspath(directory)}/{SETTINGS}", "rb") as file:
            name = parse_text(find_field(file.read(), "name"))
    except OSError:
        return ""
    return name if _OF_NAMES.issuperset(name) and len(name) < 64 else ""
