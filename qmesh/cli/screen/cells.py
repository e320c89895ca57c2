"""How much room text takes on a terminal, in cells: one of East Asia takes two, an accent none.

Source: Unicode's annex 11, whose widths Python has.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

from qmesh.cli.screen.spans import Line, Span
from qmesh.mesh.printable import escape_line


def measure_width(text: str) -> int:
    """The cells that a text takes, which is printable."""
    return len(text) if text.isascii() else sum(map(_measure_character, text))


def _measure_character(character: str) -> int:
    if unicodedata.category(character) in {"Mn", "Me"}:
        return 0
    return 2 if unicodedata.east_asian_width(character) in {"W", "F"} else 1


def pad_text(text: str, width: int) -> str:
    """The text with spaces behind it until it takes that many cells."""
    return text + " " * (width - measure_width(text))


def cut_middle(text: str, width: int, *, gap: str) -> str:
    """The text in at most that many cells: its beginning and its end, with the gap between them."""
    if measure_width(text) <= width:
        return text
    room = width - measure_width(gap)
    if room < 2:
        return cut_end(text, width)
    return cut_end(text, room - room // 2) + gap + cut_end(text[::-1], room // 2)[::-1]


def cut_end(text: str, width: int) -> str:
    """The beginning of a text that takes at most that many cells."""
    if text.isascii():
        return text[: max(0, width)]
    taken = 0
    for place, character in enumerate(text):
        taken += _measure_character(character)
        if taken > width:
            return text[:place]
    return text


def wrap_line(line: Line, width: int) -> Iterator[Line]:
    """A line as several, none wider than that: broken behind a space, where one is near the end."""
    current: list[Span] = []
    left = width
    for span in line:
        text = escape_line(span.text)
        while measure_width(text) > left:
            part = cut_end(text, left)
            space = part.rfind(" ") + 1
            if space > len(part) * 2 // 3 or (space and current):
                part = part[:space]
            elif not part and not current:
                part = text[:1]  # not even one character has room
            yield (*current, Span(part.rstrip(), span.style))
            text = text[len(part) :].lstrip()
            current, left = [], width
        current.append(Span(text, span.style))
        left -= measure_width(text)
    yield tuple(current)


def clip_line(line: Line, width: int) -> Line:
    """What of a line fits."""
    clipped = []
    for span in line:
        text = cut_end(escape_line(span.text), width)
        clipped.append(Span(text, span.style))
        width -= measure_width(text)
    return tuple(clipped)
