"""What the formats have in common: a first line, and values that need no quotes."""

from __future__ import annotations

import re
from typing import Final

from qmesh.errors import BadInput
from qmesh.mesh.values import validate_machine_name

SUFFIX: Final = ".qmesh"
"""Behind a machine's name where that alone might mean something else."""

_PLAIN = re.compile(r"[A-Za-z0-9._:/+=\[\]-]+")


def validate_plain(value: str) -> str:
    """The value, as it stands in a format without quotes: no space, `#`, `;`, quote or brace in it.

    The model has no other values; this holds it also for a state directory that others wrote.
    Raises BadInput, without repeating what may be a secret.
    """
    if is_plain(value):
        return value
    raise BadInput(
        "a value of this mesh has characters that other tools do not accept",
        hint="run `qmesh check`; a file in the state directory may have been edited",
    )


def is_plain(value: str) -> bool:
    """Whether a value is what `validate_plain` takes."""
    return _PLAIN.fullmatch(value) is not None


def render_header(what: str, machine: str, revision: int, *more: str) -> str:
    """Comment lines for the top of a file: what it is and who made it of what, then those of `more`."""
    made = f"Made by `qmesh export {what}` on {validate_machine_name(machine)}, revision {revision}."
    return "".join(f"# {line}\n" for line in (made, *more))


def tunnel_host_name(name: str) -> str:
    """What a machine's tunnel address is called, so that its name goes on to mean what it meant."""
    return validate_machine_name(name) + SUFFIX
