"""A version of qmesh that is to come: this checkout with what a later one may change."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from qmesh import __version__
from qmesh.host.registry import schema
from qmesh.mesh.guard.render import FORMAT
from qmesh.mesh.protocol.versions import OWN
from tests.support.versions import Edit, build_later

LATER: Final = "99.0.0"
NEW_FORMAT: Final = "qmesh guard 99"
_SCHEMA: Final = "host/registry/schema.py"
_TABLE: Final = '_NEXT: Final = "CREATE TABLE next (one INTEGER) STRICT;"\n'
_STEPS_END: Final = '}\n"""What makes a registry'
_READERS: Final = "    readers: str | None = None\n"
_RESTART: Final = "    restart: bool = False\n"
_ENCODE: Final = "json.encode(settings)"
_STATE: Final[tuple[Edit, ...]] = (
    ("__init__.py", f'"{__version__}"', f'"{LATER}"'),
    (_SCHEMA, f"VERSION: Final = {schema.VERSION}\n", f"VERSION: Final = {schema.VERSION + 1}\n"),
    (_SCHEMA, "executescript(SCHEMA + ", "executescript(_NEXT + SCHEMA + "),
    (_SCHEMA, "SCHEMA: Final = ", f"{_TABLE}SCHEMA: Final = "),
    (_SCHEMA, _STEPS_END, f"    {schema.VERSION}: _NEXT,\n{_STEPS_END}"),
    ("host/state/documents.py", _READERS, f"{_READERS}    new_rule: int = 0\n"),
    ("host/state/directory.py", _ENCODE, "json.encode(msgspec.structs.replace(settings, new_rule=1))"),
    ("mesh/guard/render.py", FORMAT, NEW_FORMAT),
    ("mesh/inventory.py", _RESTART, f'{_RESTART}    colour: str = "red"\n'),
)
"""The registry, machine.json, the guard's tables and the membership are others."""


def build_next() -> Path:
    """The version after this one: it understands this one, as each does the one before it."""
    return build_later(*_STATE, _speak(OWN.newest + 1, OWN.newest))


def build_distant() -> Path:
    """One that is so much later that it does not."""
    return build_later(*_STATE, _speak(OWN.newest + 2, OWN.newest + 1))


def _speak(newest: int, oldest: int) -> Edit:
    own = f"newest={OWN.newest}, oldest={OWN.oldest}"
    return "mesh/protocol/versions.py", own, f"newest={newest}, oldest={oldest}"
