"""What typer refuses of a command line, as errors that say what would be right."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from qmesh.errors import BadInput
from qmesh.mesh.values import quote_text

_NUMBERS: Final[Mapping[Any, str]] = {int: "a whole number", float: "a number"}
_OF_ONE_MACHINE: Final = ("This machine", "Node")
"""The groups whose commands are about the machine that they run on."""


def build_usage_error(error: Any, words: Sequence[str], groups: Mapping[str, Mapping[str, str]]) -> BadInput:
    """The error of ours for one of typer's.

    words: the command line. groups: the commands by their titles in `--help`.
    """
    titles = {name: title for title, group in groups.items() for name in group}
    name = next((word for word in words if word in titles), "")
    see = f"see `qmesh {name} --help`" if name else "see `qmesh --help`"
    message = " ".join(error.format_message().split()).rstrip(".")
    if found := re.fullmatch(r"No such command '(.+)'", message):
        return BadInput(
            f"there is no command {quote_text(found[1])}", hint=_suggest_command(found[1], titles)
        )
    if found := re.fullmatch(r"Got unexpected extra arguments?(?:\(s\))? \((.+)\)", message):
        return _build_extra_error(name, found[1], titles.get(name), see)
    if found := re.fullmatch(r"(No such option:? \S+) \(Possible options: (.+)\)", message):
        return BadInput(found[1], hint=f"did you mean {' or '.join(found[2].split(', '))}? {see}")
    if found := re.fullmatch(r"Missing argument '?([^']+?)'?", message):
        return BadInput(f"Missing argument {found[1].strip('{}')}", hint=see)
    return BadInput(message, hint=see)


def _suggest_command(typed: str, known: Mapping[str, str]) -> str:
    alike = difflib.get_close_matches(typed, known)
    meant = " or ".join(f"`qmesh {name}`" for name in alike)
    return f"did you mean {meant}? " * bool(alike) + "see `qmesh --help`"


def _build_extra_error(name: str, extra: str, title: str | None, see: str) -> BadInput:
    message = f"`qmesh {name}` takes no further argument: {quote_text(extra)}"
    if title in _OF_ONE_MACHINE:
        where = f"log in to {extra}" if re.fullmatch(r"[a-z0-9-]+", extra) else "log in to another machine"
        return BadInput(
            message,
            hint=f"it is about the machine that it runs on: {where}, and run `qmesh {name}` there; {see}",
        )
    return BadInput(message, hint=f"leave it out; {see}")


def describe_invalid_value(param: Any, value: object) -> str | None:
    """What a value should be and what was typed instead; None where that is not known."""
    kind = getattr(param, "type_descriptor", None)
    if kind is None or not isinstance(value, str):
        return None
    if kind.choices:
        return f"{quote_text(value)} is not one of {', '.join(map(str, kind.choices))}"
    number = _NUMBERS.get(kind.annotation)
    if number is None:
        return None
    least, most = kind.parameter_info.min, kind.parameter_info.max
    limits = "" if least is None else f" from {least} on" if most is None else f" from {least} to {most}"
    return f"{quote_text(value)} is not {number}{limits}"
