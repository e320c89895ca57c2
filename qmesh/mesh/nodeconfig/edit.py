"""The surgical edit of a config's keys: every byte that is not a wanted key's stays.

Three rules keep it safe. An edit only exchanges spans that the parser marked. What is written
in a way that has no such span is refused. And the result is parsed again: it has to hold the
wanted value and, outside of it, the same nodes in the same order, or nothing is returned.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from qmesh.errors import BadInput
from qmesh.mesh.nodeconfig.document import BOM, Mapping, Node, ParsedConfig, Scalar, Sequence, bad_config_at
from qmesh.mesh.nodeconfig.key_location import (
    Key,
    KeyLocation,
    Value,
    content_without_key,
    find_key,
    read_as_node,
    read_value,
    require_scalar,
)
from qmesh.mesh.nodeconfig.layout import (
    STEP,
    Edit,
    apply_edits,
    detect_newline,
    find_line_end,
    indent_lines,
    render_block,
    render_flow,
)
from qmesh.mesh.nodeconfig.parse import parse_config, refuse_oddities, scan_config
from qmesh.mesh.values import Profile

_DASH = re.compile(r" *-[ \t]*")
_COLON = re.compile(r"[ \t]*:")
_PLAIN = re.compile(r"(?:[A-Za-z0-9/.:][A-Za-z0-9/.:-]*)?[A-Za-z0-9]")
"""What YAML takes as it is, wherever it stands: addresses, multiaddrs, numbers, `true`."""
_NUMBER_OR_FLAG = re.compile(r"[0-9]+|true|false")


class Setting(msgspec.Struct, frozen=True):
    """A key and what it is to hold: a list's entries, or one value, as plain as a multiaddr or number."""

    key: Key
    value: Value

    def __post_init__(self) -> None:
        for text in self.values:
            if not _PLAIN.fullmatch(text):
                raise BadInput(f"{self.key} cannot hold this value", hint="use a multiaddr or a number")

    @property
    def values(self) -> tuple[str, ...]:
        """The value, or the entries."""
        return (self.value,) if isinstance(self.value, str) else self.value

    @property
    def is_unquoted(self) -> bool:
        """Whether it is a number or a flag, which must have no quotes."""
        return isinstance(self.value, str) and bool(_NUMBER_OR_FLAG.fullmatch(self.value))

    @property
    def is_list(self) -> bool:
        """Whether it is a list."""
        return not isinstance(self.value, str)


def edit_settings(text: str, settings: Iterable[Setting]) -> str:
    """As `edit_config`, from text to text."""
    return edit_config(text, settings).text


def edit_config(config: str | ParsedConfig, settings: Iterable[Setting]) -> ParsedConfig:
    """The config with these settings; all else byte for byte as it was.

    A list changes entry by entry: those that are right stay as they are written, others change in
    their quotes, and new ones follow the last one's looks. A comment line stays, also inside a block
    list; the comment behind an entry goes with the entry. An empty list is written as `[]`.

    Raises BadInput, with line and column, when the text does not load, or when a value cannot be
    exchanged without touching more.
    """
    parsed = parse_config(config)
    refuse_oddities(parsed)
    body, root = parsed.text.removeprefix(BOM), parsed.root
    mark = parsed.text[: len(parsed.text) - len(body)]
    for setting in settings:
        place = find_key(root, setting.key, is_list=setting.is_list)
        if not _is_written(place, setting):
            body = apply_edits(body, _build_edits(body, place, setting))
            root = _check_edit(body, place, setting)
    return ParsedConfig(mark + body, root)


def read_settings(config: str | ParsedConfig, keys: Iterable[tuple[Key, bool]]) -> tuple[Value | None, ...]:
    """What a config holds for each key, with whether it is a list's; None where nothing stands.

    Raises BadInput when the text does not load, or when something else stands there.
    """
    root = parse_config(config).root
    return tuple(read_value(find_key(root, key, is_list=is_list)) for key, is_list in keys)


def read_settings_as_node(
    config: str | ParsedConfig, keys: Iterable[tuple[Key, bool]], profile: Profile
) -> tuple[Value | None, ...]:
    """As `read_settings`, however they are written: what the node of that profile reads.

    Raises BadInput when the text is YAML to no node.
    """
    root, has_merges = scan_config(config).root, profile != "2.1-rust"
    return tuple(read_as_node(root, key, is_list=is_list, has_merges=has_merges) for key, is_list in keys)


def _is_written(place: KeyLocation, setting: Setting) -> bool:
    """Whether the setting stands there: a number or flag in quotes is a text, which no node takes for one."""
    is_quoted = isinstance(place.value, Scalar) and bool(place.value.style)
    return read_value(place) == setting.value and not (setting.is_unquoted and is_quoted)


def _check_edit(new: str, before: KeyLocation, setting: Setting) -> Node | None:
    """The new text's root, when it holds the setting and all else as before."""
    try:
        root = parse_config(new).root
        after = find_key(root, setting.key, is_list=setting.is_list)
        if _is_written(after, setting) and content_without_key(after) == content_without_key(before):
            return root
    except BadInput:
        pass
    raise _layout_error(before, setting)


def _layout_error(place: KeyLocation, setting: Setting) -> BadInput:
    name = setting.key.name
    below = "with one `- /ip4/ADDRESS/tcp/PORT` a line below it"
    return bad_config_at(
        place.mark,
        f"qmesh cannot change `{name}` here without changing more",
        f"edit the file: write `{name}:` {below if setting.is_list else 'with its value behind it'}",
    )


def _build_edits(text: str, place: KeyLocation, setting: Setting) -> list[Edit]:
    if isinstance(place.value, Sequence):
        return _change_list(text, place, place.value, setting)
    if isinstance(place.value, Scalar):
        value = _require_plain(place.value)
        style = "" if setting.is_unquoted else value.style
        return [_replace_item(text, value, setting.values[0], style)]
    if place.section is not None:
        return _add_key(text, place, place.section, setting)
    return _add_section(text, place, setting)


def _add_section(text: str, place: KeyLocation, setting: Setting) -> list[Edit]:
    path, value = setting.key.path, setting.value
    if place.root is not None and place.root.flow:
        return [_add_in_flow(text, place.root, place.section_key, place.section_null, path, value)]
    if place.section_key and place.section_null:
        step = _detect_indent(place)
        lines = indent_lines(render_block(path[1:], value, step), place.section_key.start.column + step)
        return [_remove_value(text, place.section_null), _insert_below(text, place.section_key, lines)]
    lines = render_block(path, value, _detect_indent(place))
    return [_insert_at_end(text, place, indent_lines(lines, place.root.start.column if place.root else 0))]


def _add_key(text: str, place: KeyLocation, section: Mapping, setting: Setting) -> list[Edit]:
    names, value = (setting.key.name,), setting.value
    if section.flow:
        return [_add_in_flow(text, section, place.key, place.null, names, value)]
    if place.key and place.null:
        return [_remove_value(text, place.null), *_add_value(text, place, place.key, value)]
    lines = indent_lines(render_block(names, value, _detect_indent(place)), section.start.column)
    return [
        _insert_below(text, place.section_key, lines)
        if place.section_key
        else _insert_at_end(text, place, lines)
    ]


def _add_value(text: str, place: KeyLocation, key: Scalar, value: Value) -> list[Edit]:
    if isinstance(value, str) or not value:
        return [_insert_after_key(text, key, value if isinstance(value, str) else "[]")]
    return [
        _insert_below(
            text, key, indent_lines(render_block((), value), key.start.column + _detect_indent(place))
        )
    ]


def _insert_after_key(text: str, key: Scalar, value: str) -> Edit:
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
    return _insert_after_key(text, key, shown)


def _change_list(text: str, place: KeyLocation, old: Sequence, setting: Setting) -> list[Edit]:
    items, wanted = [_require_plain(item) for item in old.items], setting.values
    if old.flow:
        return _change_flow(text, place, old, items, wanted)
    if wanted:
        return _change_lines(text, place, items, setting)
    assert place.key
    return [_insert_after_key(text, place.key, "[]"), *_remove_lines(text, place, items, setting)]


def _change_flow(
    text: str, place: KeyLocation, old: Sequence, items: list[Scalar], wanted: tuple[str, ...]
) -> list[Edit]:
    if not wanted:
        return [Edit(old.start.at, old.end.at, "[]")]
    if not items and _is_alone_on_line(place, old):
        assert place.key
        return [_remove_value(text, old), *_add_value(text, place, place.key, wanted)]
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
    return [_replace_item(text, item, new, item.style) for item, new in pairs if item.value != new]


def _is_alone_on_line(place: KeyLocation, brackets: Sequence) -> bool:
    """Whether `[]` is in its key's line with nothing but a comment behind, so that lines may follow."""
    assert place.section
    assert place.key
    return not place.section.flow and place.key.start.line == brackets.start.line == brackets.end.line


def _require_plain(item: Node) -> Scalar:
    scalar = require_scalar(item)
    if scalar.is_block or scalar.anchor is not None or scalar.tag is not None:
        raise bad_config_at(
            item.start,
            "this value is not plain text",
            "write it as /ip4/ADDRESS/tcp/PORT, without &, !, | or >",
        )
    return scalar


def _replace_item(text: str, item: Scalar, new: str, style: str) -> Edit:
    """Another value in those quotes. An empty entry ends at its dash: there a space is wanted."""
    start, end = item.start.at, item.end.at
    space = " " if start == end and text[start - 1 : start] == "-" else ""
    return Edit(start, end, f"{space}{style}{new}{style}")


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
    return _insert_below(text, last, [f"{lead}{last.style}{new}{last.style}" for new in more])


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
        raise _layout_error(place, setting)
    return lead


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


def _remove_value(text: str, node: Node) -> Edit:
    """Take a value away, with the spaces before it."""
    start = node.start.at
    while text[start - 1] in " \t":
        start -= 1
    return Edit(start, node.end.at, "")


def _insert_below(text: str, node: Node, lines: list[str]) -> Edit:
    """Put lines below the one in which a node ends."""
    at = find_line_end(text, node.end.at)
    line_break = detect_newline(text, at)
    return Edit(at, at, "".join(line_break + line for line in lines))


def _insert_at_end(text: str, place: KeyLocation, lines: list[str]) -> Edit:
    """Put lines behind the root's content; a last line without a line break is left without one."""
    at = len(text) if place.end is None else place.end
    line_break = detect_newline(text)
    block = line_break.join(lines)
    if at == 0 or text[at - 1] in "\r\n":
        return Edit(at, at, block + line_break)
    return Edit(at, at, line_break + block)
