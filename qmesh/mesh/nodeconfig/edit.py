"""The surgical edit of a config's keys: every byte that is not a wanted key's stays.

Three rules keep it safe. An edit only exchanges spans that the parser marked. What is written
in a way that has no such span is refused. And the result is parsed again: it has to hold the
wanted value and, outside of it, the same nodes in the same order, or nothing is returned.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from collections.abc import Sequence as AnySequence

import msgspec

from qmesh.errors import BadInput
from qmesh.mesh.model import Profile
from qmesh.mesh.nodeconfig.document import BOM, Mapping, Node, Scalar, Sequence, parse, wrong
from qmesh.mesh.nodeconfig.key_location import Key, Place, Value, entry, find, held, rest
from qmesh.mesh.nodeconfig.layout import (
    STEP,
    Edit,
    block_lines,
    edited,
    flow_value,
    indented,
    line_end,
    newline,
)
from qmesh.mesh.nodeconfig.multiaddr import listen_address
from qmesh.mesh.nodeconfig.profiles import facts

_DASH = re.compile(r" *-[ \t]*")
_COLON = re.compile(r"[ \t]*:")
_PLAIN = re.compile(r"[A-Za-z0-9/.:]*[A-Za-z0-9]")
"""What YAML takes as it is, wherever it stands: addresses, multiaddrs, numbers, `true`."""


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
    def is_list(self) -> bool:
        """Whether it is a list."""
        return not isinstance(self.value, str)


def with_workers(text: str, multiaddrs: AnySequence[str], profile: Profile) -> str:
    """The config with this list of what the control process dials, in the order of the cores.

    multiaddrs: `/ip4/ADDRESS/tcp/PORT` or `/ip6/...`. Raises BadInput as `with_settings`, and for a
    bad multiaddr.
    """
    for multiaddr in multiaddrs:
        listen_address(multiaddr)
    return with_settings(text, (Setting(facts(profile).list_key, tuple(multiaddrs)),))


def with_settings(text: str, settings: Iterable[Setting]) -> str:
    """The config with these settings; all else byte for byte as it was.

    A list changes entry by entry: those that are right stay as they are written, others change in
    their quotes, and new ones follow the last one's looks. A comment line stays, also inside a block
    list; the comment behind an entry goes with the entry. An empty list is written as `[]`.

    Raises BadInput, with line and column, when the text does not load, or when a value cannot be
    exchanged without touching more.
    """
    body = text.removeprefix(BOM)
    mark = text[: len(text) - len(body)]
    root = parse(body)
    for setting in settings:
        place = find(root, setting.key, is_list=setting.is_list)
        if held(place) != setting.value:
            body = edited(body, _edits(body, place, setting))
            root = _checked(body, place, setting)
    return mark + body


def settings_in(text: str, keys: Iterable[tuple[Key, bool]]) -> tuple[Value | None, ...]:
    """What a config holds for each key, with whether it is a list's; None where nothing stands.

    Raises BadInput when the text does not load, or when something else stands there.
    """
    root = parse(text.removeprefix(BOM))
    return tuple(held(find(root, key, is_list=is_list)) for key, is_list in keys)


def _checked(new: str, before: Place, setting: Setting) -> Node | None:
    """The new text's root, when it holds the setting and all else as before."""
    try:
        root = parse(new)
        after = find(root, setting.key, is_list=setting.is_list)
        if held(after) == setting.value and rest(after) == rest(before):
            return root
    except BadInput:
        pass
    raise _unusual(before, setting)


def _unusual(place: Place, setting: Setting) -> BadInput:
    name = setting.key.name
    below = "with one `- /ip4/ADDRESS/tcp/PORT` a line below it"
    return wrong(
        place.mark,
        f"`{name}` cannot be changed here without touching more than it",
        f"write `{name}:` {below if setting.is_list else 'with its value behind it'}",
    )


def _edits(text: str, place: Place, setting: Setting) -> list[Edit]:
    if isinstance(place.value, Sequence):
        return _change_list(text, place, place.value, setting)
    if isinstance(place.value, Scalar):
        return [_exchange(text, _changeable(place.value), setting.values[0])]
    if place.section is not None:
        return _add_key(text, place, place.section, setting)
    return _add_section(text, place, setting)


def _add_section(text: str, place: Place, setting: Setting) -> list[Edit]:
    path, value = setting.key.path, setting.value
    if place.root is not None and place.root.flow:
        return [_add_in_flow(text, place.root, place.section_key, place.section_null, path, value)]
    if place.section_key and place.section_null:
        step = _step(place)
        lines = indented(block_lines(path[1:], value, step), place.section_key.start.column + step)
        return [_without(text, place.section_null), _below(text, place.section_key, lines)]
    lines = block_lines(path, value, _step(place))
    return [_at_end(text, place, indented(lines, place.root.start.column if place.root else 0))]


def _add_key(text: str, place: Place, section: Mapping, setting: Setting) -> list[Edit]:
    names, value = (setting.key.name,), setting.value
    if section.flow:
        return [_add_in_flow(text, section, place.key, place.null, names, value)]
    if place.key and place.null:
        return [_without(text, place.null), *_value_below(text, place, place.key, value)]
    lines = indented(block_lines(names, value, _step(place)), section.start.column)
    return [_below(text, place.section_key, lines) if place.section_key else _at_end(text, place, lines)]


def _value_below(text: str, place: Place, key: Scalar, value: Value) -> list[Edit]:
    if isinstance(value, str) or not value:
        return [_behind_key(text, key, value if isinstance(value, str) else "[]")]
    return [_below(text, key, indented(block_lines((), value), key.start.column + _step(place)))]


def _behind_key(text: str, key: Scalar, value: str) -> Edit:
    at = _behind_colon(text, key)
    return Edit(at, at, f" {value}")


def _behind_colon(text: str, key: Scalar) -> int:
    """Where a key's missing value belongs. PyYAML's two parsers do not agree on that."""
    colon = _COLON.match(text, key.end.at)
    return colon.end() if colon else key.end.at


def _add_in_flow(
    text: str, parent: Mapping, key: Scalar | None, null: Scalar | None, names: tuple[str, ...], value: Value
) -> Edit:
    """Give a key of `{...}` a value in the place of null, or add the key in front of the others."""
    if key is None or null is None:
        at = parent.start.at + 1
        pair = flow_value(names, value)[1:-1]
        return Edit(at, at, f"{pair}, " if parent.pairs else pair)
    shown = flow_value(names[1:], value)
    return Edit(null.start.at, null.end.at, shown) if null.value else _behind_key(text, key, shown)


def _change_list(text: str, place: Place, old: Sequence, setting: Setting) -> list[Edit]:
    items, wanted = [_changeable(item) for item in old.items], setting.values
    if old.flow:
        return _change_flow(text, place, old, items, wanted)
    if wanted:
        return _change_lines(text, place, items, setting)
    assert place.key
    return [_behind_key(text, place.key, "[]"), *_without_lines(text, place, items, setting)]


def _change_flow(
    text: str, place: Place, old: Sequence, items: list[Scalar], wanted: tuple[str, ...]
) -> list[Edit]:
    if not wanted:
        return [Edit(old.start.at, old.end.at, "[]")]
    if not items and _stands_alone(place, old):
        assert place.key
        return [_without(text, old), *_value_below(text, place, place.key, wanted)]
    if not items:
        return [Edit(old.start.at + 1, old.start.at + 1, ", ".join(wanted))]
    edits = _exchanges(text, items, wanted)
    if len(wanted) < len(items):
        return [*edits, Edit(items[len(wanted) - 1].end.at, items[-1].end.at, "")]
    return [*edits, _more_in_flow(text, old, items, wanted[len(items) :])]


def _change_lines(text: str, place: Place, items: list[Scalar], setting: Setting) -> list[Edit]:
    wanted = setting.values
    edits = _exchanges(text, items, wanted)
    if len(wanted) > len(items):
        return [*edits, _more_lines(text, place, items[-1], wanted[len(items) :], setting)]
    return edits + _without_lines(text, place, items[len(wanted) :], setting)


def _exchanges(text: str, items: list[Scalar], wanted: tuple[str, ...]) -> list[Edit]:
    pairs = zip(items, wanted, strict=False)
    return [_exchange(text, item, new) for item, new in pairs if item.value != new]


def _stands_alone(place: Place, brackets: Sequence) -> bool:
    """Whether `[]` is in its key's line with nothing but a comment behind, so that lines may follow."""
    assert place.section
    assert place.key
    return not place.section.flow and place.key.start.line == brackets.start.line == brackets.end.line


def _changeable(item: Node) -> Scalar:
    scalar = entry(item)
    if scalar.is_block or scalar.anchor is not None or scalar.tag is not None:
        raise wrong(
            item.start,
            "this value is not plain text",
            "write it as /ip4/ADDRESS/tcp/PORT, without &, !, | or >",
        )
    return scalar


def _exchange(text: str, item: Scalar, new: str) -> Edit:
    """Another value in the same quotes. An empty entry ends at its dash: there a space is wanted."""
    start, end = item.start.at, item.end.at
    space = " " if start == end and text[start - 1 : start] == "-" else ""
    return Edit(start, end, f"{space}{item.style}{new}{item.style}")


def _more_in_flow(text: str, old: Sequence, items: list[Scalar], more: tuple[str, ...]) -> Edit:
    """Further entries behind the last one, a line each where the last one has a line of its own."""
    last = items[-1]
    before = items[-2].start if len(items) > 1 else old.start
    margin = text[last.start.at - last.start.column : last.start.at]
    own_line = before.line < last.start.line and not margin.strip(" \t")
    separator = f",{newline(text, before.at)}{margin}" if own_line else ", "
    at = last.end.at
    return Edit(at, at, "".join(f"{separator}{last.style}{new}{last.style}" for new in more))


def _more_lines(text: str, place: Place, last: Scalar, more: tuple[str, ...], setting: Setting) -> Edit:
    """Further entries in lines of their own, which start as the last one's line does."""
    dash = _dash(text, place, last, setting)
    lead = dash if dash.endswith((" ", "\t")) else f"{dash} "
    return _below(text, last, [f"{lead}{last.style}{new}{last.style}" for new in more])


def _without_lines(text: str, place: Place, items: list[Scalar], setting: Setting) -> list[Edit]:
    return [_without_line(text, place, item, setting) for item in items]


def _without_line(text: str, place: Place, item: Scalar, setting: Setting) -> Edit:
    """Take an entry's line away, with the line break before it: the last line may have none behind."""
    _dash(text, place, item, setting)
    start = item.start.at - item.start.column
    line_break = 2 if text[start - 2 : start] == "\r\n" else 1
    return Edit(start - line_break, line_end(text, item.end.at), "")


def _dash(text: str, place: Place, item: Scalar, setting: Setting) -> str:
    """What stands before an entry in its line: indentation, dash, spaces."""
    lead = text[item.start.at - item.start.column : item.start.at]
    if not _DASH.fullmatch(lead):
        raise _unusual(place, setting)
    return lead


def _step(place: Place) -> int:
    """Columns by which the file indents a level."""
    root = place.root.pairs if place.root else ()
    pairs = [(place.section_key, place.section), *root]
    steps = (
        value.start.column - key.start.column
        for key, value in pairs
        if key and isinstance(value, Mapping) and not value.flow
    )
    return next(steps, STEP)


def _without(text: str, node: Node) -> Edit:
    """Take a value away, with the spaces before it."""
    start = node.start.at
    while text[start - 1] in " \t":
        start -= 1
    return Edit(start, node.end.at, "")


def _below(text: str, node: Node, lines: list[str]) -> Edit:
    """Put lines below the one in which a node ends."""
    at = line_end(text, node.end.at)
    line_break = newline(text, at)
    return Edit(at, at, "".join(line_break + line for line in lines))


def _at_end(text: str, place: Place, lines: list[str]) -> Edit:
    """Put lines behind the root's content; a last line without a line break is left without one."""
    at = len(text) if place.end is None else place.end
    line_break = newline(text)
    block = line_break.join(lines)
    if at == 0 or text[at - 1] in "\r\n":
        return Edit(at, at, block + line_break)
    return Edit(at, at, line_break + block)
