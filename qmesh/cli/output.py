"""How answers are printed: on standard output, all talk being on standard error."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, TypeAlias, TypeVar

import typer

from qmesh.cli.screen.spans import Lines
from qmesh.cli.screen.terminal_traits import read_terminal_traits
from qmesh.cli.streams import find_stdout_failure, keep_lost_answer
from qmesh.cli.terminal import print_lines, print_stderr, print_stdout
from qmesh.host.machine_names import list_offered_names
from qmesh.mesh.values import DEFAULT_PROFILE, STATE_DIRECTORY, Profile

T = TypeVar("T")

file_option = partial(typer.Option, metavar="FILE", readable=False)
directory_option = partial(typer.Option, metavar="DIR", readable=False)
"""Options for a path that nothing is read of before the command says so."""

machine_argument = partial(typer.Argument, metavar="NAME", autocompletion=list_offered_names)
machine_option = partial(typer.Option, metavar="NAME", autocompletion=list_offered_names)
"""For the name of a machine that is in the registry."""

StateOption: TypeAlias = Annotated[
    Path, directory_option("--state", envvar="QMESH_STATE", help="The state directory.")
]
JsonOption: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print the answer, or the error, as JSON.")
]
ConfigOption: TypeAlias = Annotated[
    Path | None, directory_option("--config", help="Directory of the node's config.yml.")
]
NoApplyOption: TypeAlias = Annotated[
    bool, typer.Option("--no-apply", help="Only write the state; `qmesh apply` does the rest.")
]
NewFileOption: TypeAlias = Annotated[
    Path | None, file_option("-o", "--out", help="Write it to a new FILE, mode 0600.")
]

NodeOption: TypeAlias = Annotated[
    Profile | None,
    typer.Option(help="The node's version.", show_default=f"as config.yml tells, or {DEFAULT_PROFILE}"),
]

AnnounceOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--announce",
        help="From 2.1: IP address or DNS name at which the internet reaches this machine's workers.",
        metavar="ADDRESS",
        show_default="its first public endpoint",
    ),
]

TakeOverOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--take-over",
        help="End leftovers of an earlier qmesh whose state is gone; its worker ports stay closed.",
    ),
]

STATE = Path(STATE_DIRECTORY)


def print_answer(facts: T, *, as_json: bool, text: Callable[[T], str | Lines]) -> None:
    """Print a command's answer.

    facts: whatever msgspec encodes.
    text: the same in words, which may have styles; empty for nothing to say.
    """
    if as_json:
        from qmesh.mesh.printable_json import render_json  # noqa: PLC0415 - --help has no use for it

        print_stdout(render_json(facts))
    elif words := text(facts):
        print_text(words)


def print_text(words: str | Lines) -> None:
    """Print an answer in words, in colour where that is wanted."""
    if isinstance(words, str):
        print_stdout(words)
    else:
        print_lines(words, is_coloured=read_terminal_traits().is_coloured)


def print_outcome(facts: T, *, as_json: bool, text: Callable[[T], str]) -> None:
    """Print the answer of a command that has changed something: where nothing reads it, on standard error.

    It is told what `print_answer` is told. No secret may be in it.
    """
    print_answer(facts, as_json=as_json, text=text)
    if find_stdout_failure() is None:
        return
    keep_lost_answer(facts)
    if not as_json and (words := text(facts)):
        print_stderr(words)


def is_readable_by_others(descriptor: int) -> bool:
    """Whether that is a file which other users may read: no place for a secret."""
    found = os.fstat(descriptor)
    return stat.S_ISREG(found.st_mode) and bool(found.st_mode & 0o077)
