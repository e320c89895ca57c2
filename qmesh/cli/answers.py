"""How answers and errors are printed: the answer on standard output, all talk on standard error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeAlias, TypeVar

import typer

from qmesh.errors import QmeshError

T = TypeVar("T")

StateOption: TypeAlias = Annotated[
    Path,
    typer.Option("--state", envvar="QMESH_STATE", help="The state directory.", metavar="DIR", readable=False),
]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
ConfigOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="Directory of the node's config.yml.",
        metavar="DIR",
        show_default=False,
        readable=False,
    ),
]

STATE = Path("/var/lib/qmesh")


def answer(facts: T, *, as_json: bool, text: Callable[[T], str]) -> None:
    """Print a command's answer.

    facts: whatever msgspec encodes.
    text: the same in words; empty for nothing to say.
    """
    if as_json:
        import msgspec  # noqa: PLC0415 - a hall that only prints help has no use for it

        typer.echo(msgspec.json.encode(facts).decode())
    elif words := text(facts):
        typer.echo(words)


def refuse(error: QmeshError, *, as_json: bool) -> int:
    """Print an error with its hint on standard error; returns the exit code."""
    if as_json:
        facts = {"error": error.message, "hint": error.hint, "exit_code": error.exit_code}
        typer.echo(json.dumps(facts), err=True)
    else:
        typer.echo(f"error: {error.message}\nhint: {error.hint}", err=True)
    return error.exit_code
