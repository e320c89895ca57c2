"""Where the worker list stands in a config, and what it holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from qmesh.mesh.model import Profile
from qmesh.mesh.nodeconfig.document import (
    Alias,
    Mapping,
    Mark,
    Node,
    Scalar,
    Sequence,
    load,
    value_of,
    wrong,
)
from qmesh.mesh.nodeconfig.profiles import Facts, facts

_LIST_NAMES: Final = frozenset(
    {
        "dataworkermultiaddrs",
        "dataworkersmultiaddrs",
        "dataworkermultiaddr",
        "dataworkersmultiaddr",
        "dataworkerstreammultiaddrs",
        "dataworkerp2pmultiaddrs",
        "dataworkerannouncestreammultiaddrs",
        "dataworkerannouncep2pmultiaddrs",
    }
)
"""In lower case, what worker lists are called in all profiles, and in the wild."""


class WorkerList(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """The way to the list: what is missing is None, what is there but null has only its key.

    end: index behind the root's content, where a section can be added; None for the text's end.
    """

    root: Mapping | None = None
    end: int | None = None
    section_key: Scalar | None = None
    section_null: Scalar | None = None
    section: Mapping | None = None
    list_key: Scalar | None = None
    list_null: Scalar | None = None
    sequence: Sequence | None = None

    @property
    def mark(self) -> Mark:
        """The place to name where something about the list is wrong."""
        key = self.list_key or self.section_key
        return key.start if key else Mark(0, 0, 0)


class Misplaced(msgspec.Struct, frozen=True):
    """A worker list that the node of this profile ignores silently.

    key: its own name, as it is written, without the section. line, column: counted from 1.
    """

    key: str
    line: int
    column: int


def workers_in(text: str, profile: Profile) -> tuple[str, ...] | None:
    """The entries of a config's worker list as they stand there; None when it is absent or null.

    Raises BadInput when the text does not load, when the list or the section around it is
    something else or reached through an alias, tag, anchor or merge key, and for 2.1 profiles.
    """
    return entries(find(load(text), facts(profile)))


def misplaced(text: str, profile: Profile) -> tuple[Misplaced, ...]:
    """The keys that look like a worker list's but are not this profile's, in the order of the text.

    Misspelt, in the wrong letter case, at the wrong level, or another profile's. Raises BadInput
    when the text does not load, and for 2.1 profiles.
    """
    known = facts(profile)
    root = load(text)
    right = _list_key(root, known)
    return tuple(
        Misplaced(key.value, key.start.line + 1, key.start.column + 1)
        for key in _all_keys(root)
        if key.value.casefold() in _LIST_NAMES and key is not right
    )


def _list_key(root: Node | None, known: Facts) -> Scalar | None:
    """The worker list's key at its right place, whatever its value is."""
    pairs: tuple[tuple[Scalar, Node], ...] = root.pairs if isinstance(root, Mapping) else ()
    sections = (value for key, value in pairs if key.value == known.section and isinstance(value, Mapping))
    keys = (key for section in sections for key, _ in section.pairs if key.value == known.list_name)
    return next(keys, None)


def _all_keys(node: Node | None) -> Iterator[Scalar]:
    match node:
        case Sequence(items=items):
            for item in items:
                yield from _all_keys(item)
        case Mapping(pairs=pairs):
            for key, value in pairs:
                yield key
                yield from _all_keys(value)


def find(root: Node | None, known: Facts) -> WorkerList:
    """Where the list is. Raises BadInput where it, or what it stands in, is of the wrong kind."""
    if root is None or (isinstance(root, Scalar) and root.is_null and not root.value):
        return WorkerList(end=root.start.at if root else None)
    top = _mapping(root, "the file's top level is not a mapping of keys to values")
    place = WorkerList(root=top, end=root.end.at)
    pair = value_of(top, known.section)
    if pair is None:
        return place
    key, value = pair
    place = msgspec.structs.replace(place, section_key=key)
    if isinstance(value, Scalar) and value.is_null:
        _refuse_properties(value)
        return msgspec.structs.replace(place, section_null=value)
    section = _mapping(value, f"`{known.section}` is not a mapping of keys to values")
    return _find_list(msgspec.structs.replace(place, section=section), section, known)


def _find_list(place: WorkerList, section: Mapping, known: Facts) -> WorkerList:
    pair = value_of(section, known.list_name)
    if pair is None:
        return place
    key, value = pair
    place = msgspec.structs.replace(place, list_key=key)
    _refuse_properties(value)
    match value:
        case Scalar(is_null=True):
            return msgspec.structs.replace(place, list_null=value)
        case Sequence():
            return msgspec.structs.replace(place, sequence=value)
    raise wrong(
        value.start,
        f"`{known.list_name}` is not a list",
        "write one `- /ip4/ADDRESS/tcp/PORT` a line below it, or take it out",
    )


def _mapping(node: Node, problem: str) -> Mapping:
    _refuse_properties(node)
    if isinstance(node, Mapping):
        return node
    raise wrong(node.start, problem, "is it the node's config.yml, and indented as it was?")


def _refuse_properties(node: Node) -> None:
    """Refuse what may be the same value elsewhere (anchor, alias), or is not what it looks like (tag)."""
    if node.anchor is not None or node.tag is not None:
        raise wrong(
            node.start,
            "an anchor (&), alias (*) or tag (!) stands at the worker list or around it",
            "write the value out without it",
        )


def entries(place: WorkerList) -> tuple[str, ...] | None:
    """The entries as they stand there, None when there is no list."""
    if place.sequence is None:
        return None
    return tuple(entry(item).value for item in place.sequence.items)


def entry(item: Node) -> Scalar:
    """An item of the list that is one value, and no alias. Raises BadInput otherwise."""
    if isinstance(item, Scalar):
        return item
    what = "an alias" if isinstance(item, Alias) else "not a single value"
    raise wrong(item.start, f"this entry of the worker list is {what}", "write it as /ip4/ADDRESS/tcp/PORT")


def rest(place: WorkerList) -> tuple[object, ...]:
    """All that the document says, except for the list; a section that holds only it counts as none."""
    section = tuple(
        (_content(key), _content(value))
        for key, value in (place.section.pairs if place.section else ())
        if key is not place.list_key
    )
    return tuple(
        (_content(key), section if key is place.section_key else _content(value))
        for key, value in (place.root.pairs if place.root else ())
        if section or key is not place.section_key
    )


def _content(node: Node) -> object:
    """What a node says and how, without its place."""
    properties = type(node), node.anchor, node.tag
    match node:
        case Scalar():
            return (*properties, node.style, node.value)
        case Sequence():
            return (*properties, node.flow, tuple(map(_content, node.items)))
        case Mapping():
            return (*properties, node.flow, tuple((_content(k), _content(v)) for k, v in node.pairs))
    return properties
