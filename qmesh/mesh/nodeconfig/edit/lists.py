"""Edits of a list, entry by entry: those that are right stay as they are written."""

from __future__ import annotations

import re

from qmesh.mesh.nodeconfig.document import Scalar, Sequence
from qmesh.mesh.nodeconfig.edit.keys import add_value, insert_after_key
from qmesh.mesh.nodeconfig.edit.layout import Edit, detect_newline, find_line_end
from qmesh.mesh.nodeconfig.edit.settings import Setting, build_layout_error
from qmesh.mesh.nodeconfig.edit.values import insert_below, remove_value, replace_item, require_plain
from qmesh.mesh.nodeconfig.key_location import KeyLocation

_DASH = re.compile(r" *-[ \t]*")


def change_list(text: str, place: KeyLocation, old: Sequence, setting: Setting) -> list[Edit]:
    """The entries as the setting has them. Raises BadInput where lines hold more than an entry."""
    items, wanted = [require_plain(item) for item in old.items], setting.values
    if old.flow:
        return _change_flow(text, place, old, items, wanted)
    if wanted:
        return _change_lines(text, place, items, setting)
    assert place.key
    return [insert_after_key(text, place.key, "[]"), *_remove_lines(text, place, items, setting)]


def _change_flow(
    text: str, place: KeyLocation, old: Sequence, items: list[Scalar], wanted: tuple[str, ...]
) -> list[Edit]:
    if not wanted:
        return [Edit(old.start.at, old.end.at, "[]")]
    if not items and _is_alone_on_line(place, old):
        assert place.key
        return [remove_value(text, old), *add_value(text, place, place.key, wanted)]
    if not items:
        return [Edit(old.start.at + 1, old.start.at + 1, ", ".join(wanted))]
    edits = _replace_items(text, items, wanted)
    if len(wanted) < len(items):
        return [*edits, Edit(items[len(wanted) - 1].end.at, items[-1].end.at, "")]
    return [*edits, _append_in_flow(text, old, items, wanted[len(items) :])]


def _change_lines(text: str, place: KeyLocation, items: list[Scalar], setting: Setting) -> list[Edit]:
    wanted = setting.values
    edits = _replace_items(text, items, wanted)
    if len(wanted) > len(items):
        return [*edits, _append_lines(text, place, items[-1], wanted[len(items) :], setting)]
    return edits + _remove_lines(text, place, items[len(wanted) :], setting)


def _replace_items(text: str, items: list[Scalar], wanted: tuple[str, ...]) -> list[Edit]:
    pairs = zip(items, wanted, strict=False)
    return [replace_item(text, item, new, item.style) for item, new in pairs if item.value != new]


def _is_alone_on_line(place: KeyLocation, brackets: Sequence) -> bool:
    """Whether `[]` is in its key's line with nothing but a comment behind, so that lines may follow."""
    assert place.section
    assert place.key
    return not place.section.flow and place.key.start.line == brackets.start.line == brackets.end.line


def _append_in_flow(text: str, old: Sequence, items: list[Scalar], more: tuple[str, ...]) -> Edit:
    """Further entries behind the last one, a line each where the last one has a line of its own."""
    last = items[-1]
    before = items[-2].start if len(items) > 1 else old.start
    margin = text[last.start.at - last.start.column : last.start.at]
    own_line = before.line < last.start.line and not margin.strip(" \t")
    separator = f",{detect_newline(text, before.at)}{margin}" if own_line else ", "
    at = last.end.at
    return Edit(at, at, "".join(f"{separator}{last.style}{new}{last.style}" for new in more))


def _append_lines(
    text: str, place: KeyLocation, last: Scalar, more: tuple[str, ...], setting: Setting
) -> Edit:
    """Further entries in lines of their own, which start as the last one's line does."""
    dash = _find_dash_prefix(text, place, last, setting)
    lead = dash if dash.endswith((" ", "\t")) else f"{dash} "
    return insert_below(text, last, [f"{lead}{last.style}{new}{last.style}" for new in more])


def _remove_lines(text: str, place: KeyLocation, items: list[Scalar], setting: Setting) -> list[Edit]:
    return [_remove_line(text, place, item, setting) for item in items]


def _remove_line(text: str, place: KeyLocation, item: Scalar, setting: Setting) -> Edit:
    """Take an entry's line away, with the line break before it: the last line may have none behind."""
    _find_dash_prefix(text, place, item, setting)
    start = item.start.at - item.start.column
    line_break = 2 if text[start - 2 : start] == "\r\n" else 1
    return Edit(start - line_break, find_line_end(text, item.end.at), "")


def _find_dash_prefix(text: str, place: KeyLocation, item: Scalar, setting: Setting) -> str:
    """What stands before an entry in its line: indentation, dash, spaces."""
    lead = text[item.start.at - item.start.column : item.start.at]
    if not _DASH.fullmatch(lead):
        raise build_layout_error(place, setting)
    return lead
