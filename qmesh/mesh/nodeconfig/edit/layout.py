"""How sections and lists are laid out in YAML text, and how pieces of a text are exchanged."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from qmesh.mesh.nodeconfig.document import BREAKS
from qmesh.mesh.nodeconfig.key_location import Value

_LINE_END = re.compile(f"[{BREAKS}]")
_NEWLINE = re.compile(r"\r\n|\n|\r")
STEP: Final = 2
"""Spaces of indentation a level, where the file shows no habit of its own."""


class Edit(NamedTuple):
    """Put `text` in place of the characters [start, end)."""

    start: int
    end: int
    text: str


def apply_edits(text: str, edits: Iterable[Edit]) -> str:
    """The text with all edits made. They may touch, but not overlap; at one place, in their order."""
    pieces, done = [], 0
    for start, end, new in sorted(edits, key=lambda edit: edit[:2]):
        pieces += [text[done:start], new]
        done = end
    return "".join([*pieces, text[done:]])


def find_line_end(text: str, index: int) -> int:
    """Where the line that holds `index` ends: at its line break, or at the end of the text."""
    found = _LINE_END.search(text, index)
    return found.start() if found else len(text)


def detect_newline(text: str, index: int = 0) -> str:
    """The line break that the text uses from `index` on, else anywhere, else a line feed."""
    found = _NEWLINE.search(text, index) or _NEWLINE.search(text)
    return found.group() if found else "\n"


def render_block(names: tuple[str, ...], value: Value, step: int = STEP) -> list[str]:
    """A value under nested keys, a line each: `("a", "b")` gives `a:`, `  b:`, `    - ...`.

    With no name, a list's own lines.
    """
    if not names:
        return [f"- {entry}" for entry in value]
    name, *inner = names
    if not inner and (isinstance(value, str) or not value):
        return [f"{name}: {value or '[]'}"]
    return [f"{name}:", *indent_lines(render_block(tuple(inner), value, step), step)]


def indent_lines(lines: Iterable[str], columns: int) -> list[str]:
    """The lines, each moved to the right."""
    return [" " * columns + line for line in lines]


def render_flow(names: tuple[str, ...], value: Value) -> str:
    """A value under nested keys in one line: `("a", "b")` gives `{a: {b: [...]}}`."""
    shown = value if isinstance(value, str) else f"[{', '.join(value)}]"
    for name in reversed(names):
        shown = f"{{{name}: {shown}}}"
    return shown
