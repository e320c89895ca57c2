"""Edits that give a key its value: where the key is missing, or has nothing behind it."""

from __future__ import annotations

import re

from qmesh.mesh.nodeconfig.document import Mapping, Scalar
from qmesh.mesh.nodeconfig.edit.layout import (
    STEP,
    Edit,
    detect_newline,
    indent_lines,
    render_block,
    render_flow,
)
from qmesh.mesh.nodeconfig.edit.settings import Setting
from qmesh.mesh.nodeconfig.edit.values import insert_below, remove_value
from qmesh.mesh.nodeconfig.key_location import KeyLocation, Value

_COLON = re.compile(r"[ \t]*:")


def add_section(text: str, place: KeyLocation, setting: Setting) -> list[Edit]:
    """A key whose section is missing, or has nothing behind it."""
    path, value = setting.key.path, setting.value
    if place.root is not None and place.root.flow:
        return [_add_in_flow(text, place.root, place.section_key, place.section_null, path, value)]
    if place.section_key and place.section_null:
        step = _detect_indent(place)
        lines = indent_lines(render_block(path[1:], value, step), place.section_key.start.column + step)
        return [remove_value(text, place.section_null), insert_below(text, place.section_key, lines)]
    lines = render_block(path, value, _detect_indent(place))
    return [_insert_at_end(text, place, indent_lines(lines, place.root.start.column if place.root else 0))]


def add_key(text: str, place: KeyLocation, section: Mapping, setting: Setting) -> list[Edit]:
    """A key that its section lacks, or that has nothing behind it."""
    names, value = (setting.key.name,), setting.value
    if section.flow:
        return [_add_in_flow(text, section, place.key, place.null, names, value)]
    if place.key and place.null:
        return [remove_value(text, place.null), *add_value(text, place, place.key, value)]
    lines = indent_lines(render_block(names, value, _detect_indent(place)), section.start.column)
    return [
        insert_below(text, place.section_key, lines)
        if place.section_key
        else _insert_at_end(text, place, lines)
    ]


def add_value(text: str, place: KeyLocation, key: Scalar, value: Value) -> list[Edit]:
    """Give a key of a block that has nothing behind it this value."""
    if isinstance(value, str) or not value:
        return [insert_after_key(text, key, value if isinstance(value, str) else "[]")]
    return [
        insert_below(
            text, key, indent_lines(render_block((), value), key.start.column + _detect_indent(place))
        )
    ]


def insert_after_key(text: str, key: Scalar, value: str) -> Edit:
    """A value in the line of a key that has nothing behind it."""
    at = _find_colon_end(text, key)
    return Edit(at, at, f" {value}")


def _find_colon_end(text: str, key: Scalar) -> int:
    """Where a key's missing value belongs. PyYAML's two parsers do not agree on that."""
    colon = _COLON.match(text, key.end.at)
    return colon.end() if colon else key.end.at


def _add_in_flow(
    text: str, parent: Mapping, key: Scalar | None, null: Scalar | None, names: tuple[str, ...], value: Value
) -> Edit:
    """Give a key of `{...}` a value in the place of null, or add the key in front of the others."""
    if key is None or null is None:
        at = parent.start.at + 1
        pair = render_flow(names, value)[1:-1]
        return Edit(at, at, f"{pair}, " if parent.pairs else pair)
    shown = render_flow(names[1:], value)
    if null.value or null.style:
        return Edit(null.start.at, null.end.at, shown)
    return insert_after_key(text, key, shown)


def _detect_indent(place: KeyLocation) -> int:
    """Columns by which the file indents a level."""
    root = place.root.pairs if place.root else ()
    pairs = [(place.section_key, place.section), *root]
    steps = (
        value.start.column - key.start.column
        for key, value in pairs
        if key and isinstance(value, Mapping) and not value.flow
    )
    return next(steps, STEP)


def _insert_at_end(text: str, place: KeyLocation, lines: list[str]) -> Edit:
    """Put lines behind the root's content; a last line without a line break is left without one."""
    at = len(text) if place.end is None else place.end
    line_break = detect_newline(text)
    block = line_break.join(lines)
    if at == 0 or text[at - 1] in "\r\n":
        return Edit(at, at, block + line_break)
    return Edit(at, at, line_break + block)
