"""Text with a meaning, which a terminal shows in colour. Colour is never the only sign of it.

Of the eight colours that every terminal has, red and magenta are readable on black and on white.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal, NamedTuple, TypeAlias

from qmesh.mesh.printable import escape_line

Style: TypeAlias = Literal["plain", "heading", "warning", "error"]

SGR: Final[Mapping[Style, str]] = {"heading": "1", "warning": "1;35", "error": "1;31"}
"""How each style looks: ECMA-48's Select Graphic Rendition, of the basic colours alone."""

_LABEL: Final = re.compile(r"( *)([a-z][a-z -]*): ")


class Span(NamedTuple):
    """A piece of a line."""

    text: str
    style: Style = "plain"


Line: TypeAlias = tuple[Span, ...]
Lines: TypeAlias = tuple[Line, ...]


def render_lines(lines: Iterable[Line], *, is_coloured: bool) -> str:
    """The lines as they are printed. Whatever stands in a span is escaped: it has no colour of its own."""
    return "\n".join("".join(_render_span(span, is_coloured=is_coloured) for span in line) for line in lines)


def _render_span(span: Span, *, is_coloured: bool) -> str:
    text = escape_line(span.text)
    if not is_coloured or span.style == "plain" or not text:
        return text
    return f"\x1b[{SGR[span.style]}m{text}\x1b[0m"


def style_labels(text: str, styles: Mapping[str, Style], otherwise: Style = "plain") -> Iterator[Line]:
    """The lines of a text, each with the word before its first colon in the style that this word has.

    otherwise: the style of other words.
    """
    for line in text.split("\n"):
        found = _LABEL.match(line)
        if found is None:
            yield (Span(line),)
        else:
            style = styles.get(found[2], otherwise)
            yield Span(found[1]), Span(found[2], style), Span(line[found.end(2) :])
