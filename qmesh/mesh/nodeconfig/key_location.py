"""Where a key stands in a config, and what it holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias

import msgspec

from qmesh.mesh.nodeconfig.document import (
    Alias,
    Mapping,
    Mark,
    Node,
    Scalar,
    Sequence,
    bad_config_at,
    find_pair,
    flatten_merges,
    resolve_alias,
)

Value: TypeAlias = str | tuple[str, ...]
"""What a key is to hold: one value, or a list's entries."""


class Key(NamedTuple):
    """A key of the config. section: of the top level, "" for a key that stands there itself.

    alias: another spelling that the node takes as well; a file that has it keeps it.
    """

    section: str
    name: str
    alias: str = ""

    @property
    def path(self) -> tuple[str, ...]:
        """Its words, from the top level on."""
        return (self.section, self.name) if self.section else (self.name,)

    def __str__(self) -> str:
        return ".".join(self.path)


class KeyLocation(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """The way to a key: what is missing is None, what is there but null has only its key.

    null: what stands in place of a value: a word for nothing, or where a list belongs any word.
    end: index behind the root's content, where a section can be added; None for the text's end.
    section: the root itself for a key of the top level.
    """

    root: Mapping | None = None
    end: int | None = None
    section_key: Scalar | None = None
    section_null: Scalar | None = None
    section: Mapping | None = None
    key: Scalar | None = None
    null: Scalar | None = None
    value: Node | None = None

    @property
    def mark(self) -> Mark:
        """The place to name where something about the key is wrong."""
        key = self.key or self.section_key
        return key.start if key else Mark(0, 0, 0)


def find_key(root: Node | None, key: Key, *, is_list: bool) -> KeyLocation:
    """Where the key is. Raises BadInput where it, or what it stands in, is of the wrong kind."""
    if root is None or (isinstance(root, Scalar) and root.is_null and not root.value):
        return KeyLocation(end=root.start.at if root else None)
    top = _require_mapping(root, key, "the file's top level is not a mapping of keys to values")
    place = KeyLocation(root=top, end=root.end.at)
    if not key.section:
        return _find_value(msgspec.structs.replace(place, section=top), top, key, is_list=is_list)
    pair = find_pair(top, key.section)
    if pair is None:
        return place
    section_key, value = pair
    place = msgspec.structs.replace(place, section_key=section_key)
    if isinstance(value, Scalar) and value.is_null:
        _refuse_properties(value, key)
        return msgspec.structs.replace(place, section_null=value)
    section = _require_mapping(value, key, f"`{key.section}` is not a mapping of keys to values")
    return _find_value(msgspec.structs.replace(place, section=section), section, key, is_list=is_list)


def _find_value(place: KeyLocation, section: Mapping, key: Key, *, is_list: bool) -> KeyLocation:
    pairs = [pair for name in (key.name, key.alias) if name and (pair := find_pair(section, name))]
    if not pairs:
        return place
    if len(pairs) > 1:
        problem = f"`{key.alias}` and `{key.name}` are two spellings of one key"
        raise bad_config_at(pairs[1][0].start, problem, "keep one of the two")
    ((found, value),) = pairs
    place = msgspec.structs.replace(place, key=found)
    _refuse_properties(value, key)
    if isinstance(value, Scalar) and (value.is_null or (is_list and not value.is_block)):
        return msgspec.structs.replace(place, null=value)
    if isinstance(value, Sequence if is_list else Scalar):
        return msgspec.structs.replace(place, value=value)
    if is_list:
        problem, hint = "is not a list", "write one `- /ip4/ADDRESS/tcp/PORT` a line below it, or delete it"
    else:
        problem, hint = "is not a single value", "write one value behind it, or delete it"
    raise bad_config_at(value.start, f"`{found.value}` {problem}", hint)


def _require_mapping(node: Node, key: Key, problem: str) -> Mapping:
    _refuse_properties(node, key)
    if isinstance(node, Mapping):
        return node
    raise bad_config_at(node.start, problem, "check that this file is the node's config.yml, and its indent")


def _refuse_properties(node: Node, key: Key) -> None:
    """Refuse what may be the same value elsewhere (anchor, alias), or is not what it looks like (tag)."""
    if node.anchor is not None or node.tag is not None:
        raise bad_config_at(
            node.start,
            f"there is an anchor (&), alias (*) or tag (!) at `{key}` or around it",
            "write the value out without it",
        )


def read_value(place: KeyLocation) -> Value | None:
    """What stands there: the entries of a list, or the one value; None when there is nothing of that kind."""
    if isinstance(place.value, Sequence):
        return tuple(require_scalar(item).value for item in place.value.items)
    return place.value.value if isinstance(place.value, Scalar) else None


def read_as_node(root: Node | None, key: Key, *, is_list: bool, has_merges: bool) -> Value | None:
    """What the node reads there, however it is written; None where nothing, or something else, stands.

    Through aliases, past anchors and tags, and of what is there twice the last. has_merges: whether the node
    knows merge keys. Where the node refuses the file, this says nothing.
    """
    sections: list[Node | None] = [root]
    if key.section:
        top = walk_pairs([root], has_merges=has_merges)
        sections = [value for name, value in top if name.value == key.section]
    empty = [place for place, section in enumerate(sections) if isinstance(section, Scalar)]
    found: Node | None = None
    # An empty section that comes later takes away what the earlier ones had.
    for name, value in walk_pairs(sections[empty[-1] + 1 if empty else 0 :], has_merges=has_merges):
        if name.value in {key.name, key.alias}:
            found = value
    if isinstance(found, Sequence) and is_list:
        items = map(resolve_alias, found.items)
        return tuple(item.value if isinstance(item, Scalar) else "" for item in items)
    if isinstance(found, Scalar) and not is_list and not found.is_null:
        return found.value
    return None


def walk_pairs(sections: Iterable[Node | None], *, has_merges: bool) -> Iterator[tuple[Scalar, Node]]:
    """Keys and values of all sections that have one name, in the order in which the node takes them.

    Without aliases. has_merges: whether the node knows merge keys.
    """
    seen: set[int] = set()
    for section in sections:
        found = None if section is None else resolve_alias(section)
        for mapping in flatten_merges(found, seen, has_merges=has_merges):
            for key, value in mapping.pairs:
                yield key, resolve_alias(value)


def require_scalar(item: Node) -> Scalar:
    """An item of a list that is one value, and no alias. Raises BadInput otherwise."""
    if isinstance(item, Scalar):
        return item
    what = "an alias" if isinstance(item, Alias) else "not a single value"
    raise bad_config_at(
        item.start, f"this entry of the worker list is {what}", "write it as /ip4/ADDRESS/tcp/PORT"
    )


def content_without_key(place: KeyLocation) -> tuple[object, ...]:
    """All that the document says, except for the key; a section that holds only it counts as none."""
    section = _pairs_without_key(place.section, place.key)
    if place.section is place.root:
        return section
    return tuple(
        (_node_content(key), section if key is place.section_key else _node_content(value))
        for key, value in (place.root.pairs if place.root else ())
        if section or key is not place.section_key
    )


def _pairs_without_key(mapping: Mapping | None, left_out: Scalar | None) -> tuple[object, ...]:
    pairs: Iterator[tuple[Scalar, Node]] = iter(mapping.pairs if mapping else ())
    return tuple((_node_content(key), _node_content(value)) for key, value in pairs if key is not left_out)


def _node_content(node: Node) -> object:
    """What a node says and how, without its place."""
    properties = type(node), node.anchor, node.tag
    match node:
        case Scalar():
            return (*properties, node.style, node.value)
        case Sequence():
            return (*properties, node.flow, tuple(map(_node_content, node.items)))
        case Mapping():
            return (
                *properties,
                node.flow,
                tuple((_node_content(k), _node_content(v)) for k, v in node.pairs),
            )
    return properties
