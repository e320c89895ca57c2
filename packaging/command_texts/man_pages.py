"""Man pages: one of qmesh and one of each command, of the text that `--help` and docs/reference.md have."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable

from command_tree import NAME, OPTIONS, VERSION, Command, Parameter
from reference_page import Reference, read_exit_code_text, read_reference

SECTION = "8"
OTHERS = ("nft", "systemctl", "wg")
"""Programs of others that are of use beside it. systemctl is in section 1."""


def render_pages(program: Command, commands: list[Command]) -> dict[str, str]:
    """All pages by their places below /usr/share."""
    reference = read_reference()
    pages = {name_page(""): render_program(program, commands, reference)}
    names = [command.name for command in commands]
    for command in commands:
        pages[name_page(command.name)] = render_command(command, names, reference)
    return pages


def name_page(command: str) -> str:
    """The place of a command's page."""
    return f"man/man{SECTION}/{join_name(command)}.{SECTION}"


def join_name(command: str) -> str:
    """A command's name as man has it."""
    return f"{NAME}-{command}" if command else NAME


def render_program(program: Command, commands: list[Command], reference: Reference) -> str:
    """The page of qmesh itself: commands by groups, exit codes, and files."""
    parts = [
        *_render_head(program),
        ".SH OPTIONS",
        *_render_parameters(program.options),
        ".SH COMMANDS",
    ]
    group = ""
    for command in commands:
        if command.group != group:
            parts += [f'.SS "{_escape(command.group)}"']
            group = command.group
        parts += [".TP", _link(command.name), _render(command.summary)]
    parts += [
        ".SH EXIT STATUS",
        *_render_rows(reference.exit_codes),
        ".SH FILES",
        *_render_rows(reference.files),
        *_render_see_also([*(join_name(each.name) for each in commands), *OTHERS]),
    ]
    return "\n".join(parts) + "\n"


def render_command(command: Command, names: list[str], reference: Reference) -> str:
    """The page of one command. names: of all commands, in their order."""
    section = reference.sections[command.name]
    parts = _render_head(command)
    if command.arguments:
        parts += [".SH ARGUMENTS", *_render_parameters(command.arguments)]
    parts += [".SH OPTIONS"]
    for panel in dict.fromkeys((OPTIONS, *(each.panel for each in command.options))):
        own = [each for each in command.options if each.panel == panel]
        parts += [f'.SS "{_escape(panel)}"'] * (panel != OPTIONS) + _render_parameters(own)
    everywhere = {code: text for code, text in reference.exit_codes.items() if code in reference.everywhere}
    parts += [".SH EXIT STATUS", *_render_rows(everywhere)]
    if own_codes := read_exit_code_text(section):
        parts += [".PP", _render(own_codes)]
    parts += [".SH EXAMPLES", ".EX", *map(_render, command.examples), ".EE"]
    said = " ".join((*command.paragraphs, *(each.text for each in command.parameters), section))
    named = {name for name in names if re.search(rf"`{NAME} {name}\b(?!-)", said)} - {command.name}
    parts += _render_see_also([NAME, *(join_name(name) for name in names if name in named)])
    return "\n".join(parts) + "\n"


def _render_head(command: Command) -> list[str]:
    date = time.strftime("%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))))
    name = join_name(command.name)
    typed = f"{NAME} {command.name}".strip()
    parts = [
        f'.TH "{_escape(name.upper())}" "{SECTION}" "{date}" "{NAME} {VERSION}" "System Administration"',
        ".nh",
        ".ad l",
        ".SH NAME",
        f"{_escape(name)} \\- {_render(command.summary.rstrip('.'))}",
        ".SH SYNOPSIS",
        f"\\fB{_escape(typed)}\\fR {' '.join(map(_render_usage, command.usage))}",
        ".SH DESCRIPTION",
    ]
    for number, paragraph in enumerate((command.summary, *command.paragraphs)):
        parts += [".PP"] * (number > 0) + [_render(paragraph)]
    return parts


def _render_usage(piece: str) -> str:
    """`{NAME}` is how typer shows what has to be there: for man that is the word alone."""
    return _italic_words(re.sub(r"^\{(.+)\}$", r"\1", piece))


def _render_parameters(parameters: Iterable[Parameter]) -> list[str]:
    parts: list[str] = []
    for each in parameters:
        shown = ", ".join(f"\\fB{_escape(name)}\\fR" for name in (*each.names, *each.switches_off))
        if each.is_argument:
            shown = _italic_words(each.names[0])
        if each.takes_value:
            shown += f" {_italic_words(each.value)}"
        parts += [".TP", shown, _render(each.text)]
    return parts


def _render_rows(rows: dict[str, str]) -> list[str]:
    return [line for term, text in rows.items() for line in (".TP", _render(term), _render(text))]


def _render_see_also(names: Iterable[str]) -> list[str]:
    links = [f"\\fB{_escape(name)}\\fR({'1' if name == 'systemctl' else SECTION})" for name in names]
    return [".SH SEE ALSO", *(f"{each}," for each in links[:-1]), links[-1]]


def _link(command: str) -> str:
    return f"\\fB{_escape(join_name(command))}\\fR({SECTION})"


def _italic_words(text: str) -> str:
    """The words that stand for something in italics; brackets and bars as they are."""
    return re.sub(r"[^\[\]|{} ]+", lambda found: f"\\fI{_escape(found[0])}\\fR", text)


def _render(text: str) -> str:
    """A sentence of Markdown: code is bold, a link is its text."""
    text = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", text)
    parts = re.split(r"`([^`]+)`", text)
    shown = "".join(
        f"\\fB{_escape(part)}\\fR" if number % 2 else _escape(part) for number, part in enumerate(parts)
    )
    return re.sub(r"^([.'])", r"\\&\1", shown)


def _escape(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    return text.replace("'", "\\(aq").replace("`", "\\(ga").replace("^", "\\(ha").replace("~", "\\(ti")
