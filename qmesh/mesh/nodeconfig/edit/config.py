"""Config + settings -> config, and what a config holds for a key."""

from __future__ import annotations

from collections.abc import Iterable

from qmesh.errors import BadInput
from qmesh.mesh.nodeconfig.document import BOM, Node, ParsedConfig, Scalar, Sequence
from qmesh.mesh.nodeconfig.edit.keys import add_key, add_section
from qmesh.mesh.nodeconfig.edit.layout import Edit, apply_edits
from qmesh.mesh.nodeconfig.edit.lists import change_list
from qmesh.mesh.nodeconfig.edit.settings import Setting, build_layout_error
from qmesh.mesh.nodeconfig.edit.values import replace_item, require_plain
from qmesh.mesh.nodeconfig.key_location import (
    Key,
    KeyLocation,
    Value,
    content_without_key,
    find_key,
    read_as_node,
    read_value,
)
from qmesh.mesh.nodeconfig.parse import parse_config, refuse_oddities, scan_config
from qmesh.mesh.values import Profile


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
    raise build_layout_error(before, setting)


def _build_edits(text: str, place: KeyLocation, setting: Setting) -> list[Edit]:
    if isinstance(place.value, Sequence):
        return change_list(text, place, place.value, setting)
    if isinstance(place.value, Scalar):
        value = require_plain(place.value)
        style = "" if setting.is_unquoted else value.style
        return [replace_item(text, value, setting.values[0], style)]
    if place.section is not None:
        return add_key(text, place, place.section, setting)
    return add_section(text, place, setting)
