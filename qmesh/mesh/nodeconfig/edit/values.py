"""Edits of a plain value, and of the lines below a value."""

from __future__ import annotations

from qmesh.mesh.nodeconfig.document import Node, Scalar, bad_config_at
from qmesh.mesh.nodeconfig.edit.layout import Edit, detect_newline, find_line_end
from qmesh.mesh.nodeconfig.key_location import require_scalar


def require_plain(item: Node) -> Scalar:
    """The scalar that can be exchanged. Raises BadInput for an anchor, a tag, a block."""
    scalar = require_scalar(item)
    if scalar.is_block or scalar.anchor is not None or scalar.tag is not None:
        raise bad_config_at(
            item.start,
            "this value is not plain text",
            "write it as /ip4/ADDRESS/tcp/PORT, without &, !, | or >",
        )
    return scalar


def replace_item(text: str, item: Scalar, new: str, style: str) -> Edit:
    """Another value in those quotes. An empty entry ends at its dash: there a space is wanted."""
    start, end = item.start.at, item.end.at
    space = " " if start == end and text[start - 1 : start] == "-" else ""
    return Edit(start, end, f"{space}{style}{new}{style}")


def remove_value(text: str, node: Node) -> Edit:
    """Take a value away, with the spaces before it."""
    start = node.start.at
    while text[start - 1] in " \t":
        start -= 1
    return Edit(start, node.end.at, "")


def insert_below(text: str, node: Node, lines: list[str]) -> Edit:
    """Put lines below the one in which a node ends."""
    at = find_line_end(text, node.end.at)
    line_break = detect_newline(text, at)
    return Edit(at, at, "".join(line_break + line for line in lines))
