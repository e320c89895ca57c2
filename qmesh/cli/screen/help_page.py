"""What `--help` shows: usage, what a command does, its options and commands in boxes, examples.

Typer would have Rich do it, which takes longer to load than all else that help needs.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from qmesh.cli.screen.spans import Line, Lines, Span
from qmesh.cli.screen.terminal_traits import TerminalTraits

_LEAST: Final = 40
_MOST: Final = 100
_WIDTH_OF_A_FILE: Final = 80


class HelpRow(NamedTuple):
    """An argument, an option or a command, and what it is for."""

    name: str
    text: str


class HelpBox(NamedTuple):
    """Rows that belong together."""

    title: str
    rows: tuple[HelpRow, ...]


class HelpPage(NamedTuple):
    """All that the help of a command says. ending: paragraphs; one that begins with a space is an example."""

    usage: str
    paragraphs: tuple[str, ...]
    boxes: tuple[HelpBox, ...]
    ending: tuple[str, ...]


class _Corners(NamedTuple):
    """What boxes are drawn with. top, bottom: their left ends and their right ones."""

    top: str
    bottom: str
    line: str
    side: str


_ROUND: Final = _Corners("╭╮", "╰╯", "─", "│")
_PLAIN: Final = _Corners("++", "++", "-", "|")


def read_help_page(command: Any, context: Any) -> HelpPage:
    """The help of a command of typer's, or of a group of them, which is asked for its commands' names."""
    boxes: dict[str, list[HelpRow]] = {"Arguments": [], "Options": []}
    for param in command.get_params(context):
        record = param.get_help_record(context)
        if record is not None:
            usual = "Arguments" if param.param_type_name == "argument" else "Options"
            boxes.setdefault(param.rich_help_panel or usual, []).append(HelpRow(*record))
    for name in command.list_commands(context) if hasattr(command, "list_commands") else ():
        listed = command.get_command(context, name)
        boxes.setdefault(listed.rich_help_panel, []).append(HelpRow(name, listed.help))
    return HelpPage(
        usage=" ".join(command.get_usage(context).split()),
        paragraphs=_split_paragraphs(command.help),
        boxes=tuple(HelpBox(title, tuple(rows)) for title, rows in boxes.items() if rows),
        ending=_split_paragraphs(command.epilog),
    )


def _split_paragraphs(text: str | None) -> tuple[str, ...]:
    return tuple(text.split("\n\n")) if text else ()


def build_help_lines(page: HelpPage, traits: TerminalTraits) -> Lines:
    """The page as lines: as wide as the terminal, but no wider than is good to read."""
    width = max(_LEAST, min(_MOST, traits.width or _WIDTH_OF_A_FILE))
    return tuple(_list_lines(page, width, _ROUND if traits.has_boxes else _PLAIN))


def _list_lines(page: HelpPage, width: int, corners: _Corners) -> Iterator[Line]:
    label, _, words = page.usage.partition(" ")
    first, *further = _wrap(words, width - len(label) - 3)
    yield ()
    yield Span(f" {label} ", "heading"), Span(first)
    yield from ((Span(" " * (len(label) + 2) + line),) for line in further)
    yield ()
    for paragraph in page.paragraphs:
        yield from ((Span(f" {line}"),) for line in _wrap(paragraph, width - 2))
        yield ()
    for box in page.boxes:
        yield from _list_box_lines(box, width, _measure_names(box, page.boxes), corners)
    for before, paragraph in zip(("", *page.ending), page.ending, strict=False):
        is_example = paragraph.startswith(" ")
        if not (is_example and before.startswith(" ")):
            yield ()
        shown = [paragraph] if is_example else _wrap(paragraph, width - 2)  # an example is copied as it is
        yield from ((Span(f" {line}"),) for line in shown)


def _measure_names(box: HelpBox, boxes: Sequence[HelpBox]) -> int:
    """How wide the column of names is: as each box of options needs it, and the same in all others."""
    has_options = _has_options(box)
    alike = (each for each in boxes if each is box or not (has_options or _has_options(each)))
    return max(len(row.name) for each in alike for row in each.rows)


def _has_options(box: HelpBox) -> bool:
    return box.rows[0].name.startswith("-")


def _list_box_lines(box: HelpBox, width: int, column: int, corners: _Corners) -> Iterator[Line]:
    """A box, with the names in a column of that width, but of no more than half the room."""
    room = width - 4
    column = min(column, room // 2)
    title = box.title[: width - 6]
    rule = corners.line * (width - len(title) - 5)
    yield Span(f"{corners.top[0]}{corners.line} "), Span(title, "heading"), Span(f" {rule}{corners.top[1]}")
    for row in box.rows:
        for name, text in _list_cells(row, room, column):
            yield (
                Span(f"{corners.side} "),
                Span(name, "heading"),
                Span(" " * max(0, column - len(name))),
                Span(f"{text:<{room - max(column, len(name))}} {corners.side}"),
            )
    yield (Span(corners.bottom[0] + corners.line * (width - 2) + corners.bottom[1]),)


def _list_cells(row: HelpRow, room: int, column: int) -> Iterator[tuple[str, str]]:
    """What stands in both columns, line by line; the text is below a name that is wider than its column."""
    texts = [f"  {line}" for line in _wrap(row.text, room - column - 2)]
    if len(row.name) > column:
        yield from ((line, "") for line in _wrap(row.name, room))
    else:
        yield row.name, texts.pop(0)
    yield from (("", line) for line in texts)


def _wrap(text: str, width: int) -> Sequence[str]:
    """A text in lines. No word is broken where that can be helped, and no option at its hyphens."""
    return textwrap.wrap(text, width, break_on_hyphens=False) or [""]
