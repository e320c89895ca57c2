"""The commands as `--help` shows them, for what else is made of the same text: man pages and completions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import typer
import typer.main

from qmesh import __version__
from qmesh.cli.app import GROUPS, app, load_command

NAME = "qmesh"
VERSION = __version__
OPTIONS = "Options"
"""The title of the options that have no group of their own."""


@dataclass(frozen=True)
class Parameter:
    """An option or an argument of a command.

    names: as typed, such as `-o` and `--out`; of an argument, the word that stands for it.
    switches_off: the names that say no.
    value: the word for what follows an option; empty for a switch, and for an argument.
    kind: what a shell can offer there: `choice`, `file`, `directory`, `machine`, or empty for none of these.
    text: what `--help` says of it, with its default in brackets.
    """

    names: tuple[str, ...]
    switches_off: tuple[str, ...]
    value: str
    kind: str
    choices: tuple[str, ...]
    text: str
    panel: str
    repeats: bool
    is_argument: bool

    @property
    def takes_value(self) -> bool:
        return bool(self.value)


@dataclass(frozen=True)
class Command:
    """A command; that without a name is the program itself."""

    name: str
    group: str
    summary: str
    paragraphs: tuple[str, ...]
    usage: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    examples: tuple[str, ...]

    @property
    def options(self) -> tuple[Parameter, ...]:
        return tuple(each for each in self.parameters if not each.is_argument)

    @property
    def arguments(self) -> tuple[Parameter, ...]:
        return tuple(each for each in self.parameters if each.is_argument)


def read_program() -> Command:
    """The program, as `qmesh --help` has it."""
    return _read("", "", typer.main.get_command(app))


def read_commands() -> list[Command]:
    """All commands, in the order of `qmesh --help`."""
    return [_read(name, group, load_command(name)) for group, names in GROUPS.items() for name in names]


def _read(name: str, group: str, found: Any) -> Command:
    context = typer.Context(found, info_name=f"{NAME} {name}".strip())
    summary, *paragraphs = found.help.split("\n\n")
    epilog = (found.epilog or "").split("\n\n")
    return Command(
        name=name,
        group=group,
        summary=summary,
        paragraphs=tuple(paragraphs),
        usage=tuple(found.collect_usage_pieces(context)),
        parameters=tuple(
            _read_parameter(each, context)
            for each in found.get_params(context)
            if each.get_help_record(context)
        ),
        examples=tuple(each.strip() for each in epilog[1:]) if name else (),
    )


def _read_parameter(found: Any, context: typer.Context) -> Parameter:
    is_argument = found.param_type_name == "argument"
    is_switch = not is_argument and found.is_flag
    _, text = found.get_help_record(context)
    metavar = found.metavar or ""
    choices = tuple(map(str, found.type_descriptor.choices or ()))
    if not choices and re.fullmatch(r"[a-z-]+(\|[a-z-]+)+", metavar):
        choices = tuple(metavar.split("|"))
    return Parameter(
        names=(metavar or found.name.upper(),) if is_argument else tuple(found.opts),
        switches_off=tuple(found.secondary_opts),
        value="" if is_argument or is_switch else _word_for_value(found.display_type_rich(context)),
        kind="" if is_switch else _find_kind(found, metavar, choices),
        choices=choices,
        text=" ".join(text.split()),
        panel=found.rich_help_panel or OPTIONS,
        repeats=found.multiple or found.nargs != 1,
        is_argument=is_argument,
    )


def _word_for_value(shown: str) -> str:
    """`<int range>` and `<list[str]>` are for a screen with colours."""
    return re.sub(r"^<(?:list\[)?([^\]]+?)(?: range)?\]?>$", r"\1", shown)


def _find_kind(found: Any, metavar: str, choices: tuple[str, ...]) -> str:
    if choices:
        return "choice"
    if found._custom_shell_complete is not None:  # noqa: SLF001 - typer has no other place to ask
        return "machine"
    if "DIR" in metavar or (found.type_descriptor.is_path and "FILE" not in metavar):
        return "directory"
    return "file" if re.search("FILE|PROGRAM|PATH", metavar) else ""
