"""YAML events made into the tree of `document`, bounded in depth and size.

PyYAML's events are taken, never its constructed values: events name aliases instead of
expanding them, show duplicate keys, need no recursion, and carry the marks that an edit needs.
What a node's config never has (aliases before their anchor, keys that are lists) is refused here,
once, so that no other code has to handle it.

No error repeats a word of the text: it may hold secrets, and a damaged text may hold them anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import yaml

from qmesh.errors import BadInput
from qmesh.mesh.nodeconfig.characters import OddCharacter, find_odd_characters
from qmesh.mesh.nodeconfig.document import (
    LINE_BREAK,
    Alias,
    BadConfig,
    Mapping,
    Mark,
    Node,
    Scalar,
    Sequence,
    bad_config_at,
    build_repeat_error,
    mark_at,
    resolve_alias,
)

MAX_NODES: Final = 20_000
"""Keys, values, lists and aliases: an alias is one, and never what it stands for again."""
MAX_DEPTH: Final = 50

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_QUOTED = re.compile(r"'[^']{5,}'|\"[^\"]{5,}\"|(?P<short>'[^']*'|\"[^\"]*\")")
_COMMENT = re.compile(r"(?:\A|(?<=\s))#")


def _parse_events(text: str) -> Iterator[yaml.Event]:
    try:
        yield from yaml.parse(text, Loader=_LOADER)
    except yaml.YAMLError as error:
        raise _syntax_error(error, text) from None


def _depth_error(mark: Mark) -> BadInput:
    return bad_config_at(
        mark, f"nested deeper than {MAX_DEPTH} levels", "check that this file is the node's config.yml"
    )


def _syntax_error(error: yaml.YAMLError, text: str) -> BadInput:
    place = getattr(error, "problem_mark", None)
    mark = _convert_mark(place) if place else Mark(0, 0, 0)
    # What is quoted and more than a character may be a word of the text.
    said = getattr(error, "problem", None) or "the text cannot be read"
    problem = _QUOTED.sub(lambda quote: quote["short"] or "...", said)
    if "nesting depth" in said:  # PyYAML of 6.0.4 on has a bound of its own
        return _depth_error(mark)
    if text[mark.at : mark.at + 1] == "\t":
        return bad_config_at(mark, "there is a tab where YAML needs spaces", "indent with spaces")
    odd = _find_character_near(text, mark)
    if odd is not None:
        named = f"there is {odd.name}, and this is not YAML: {problem}"
        return bad_config_at(mark_at(text, odd.at), named, odd.hint)
    return bad_config_at(mark, f"this is not YAML: {problem}", "correct this line, or the one before it")


def _find_character_near(text: str, mark: Mark) -> OddCharacter | None:
    """What may be the reason in that line or the one before it, but in no comment."""
    starts = [0, *(found.end() for found in LINE_BREAK.finditer(text, 0, mark.at))][-2:]
    for start in reversed(starts):
        line_break = LINE_BREAK.search(text, start)
        end = len(text) if line_break is None else line_break.start()
        comment = _COMMENT.search(text, start, end)
        for odd in find_odd_characters(text, start, end if comment is None else comment.start()):
            return odd
    return None


def _convert_mark(mark: Any) -> Mark:  # PyYAML has two types of marks, and none in common
    return Mark(mark.index, mark.line, mark.column)


class Composer:
    """Builds the first document's tree from events, with a stack of its own and bounds on depth and size."""

    def __init__(self) -> None:
        self.root: Node | None = None
        self.oddities: list[BadConfig] = []
        self.yaml_version: tuple[int, int] | None = None
        self.has_second_document = False
        self._has_ended = False
        self._open: list[tuple[yaml.CollectionStartEvent, list[Node]]] = []
        self._anchored: dict[str | None, Node] = {}
        self._count = 0

    def read_text(self, text: str) -> None:
        """Raises BadInput for what is wrong up to the end of the first document: some nodes read no more."""
        try:
            for event in _parse_events(text):
                if self._has_ended and isinstance(event, yaml.DocumentStartEvent):
                    self._note_second_document(_convert_mark(event.start_mark))
                    return
                self._handle_event(event)
        except BadConfig as error:
            if not self._has_ended:
                raise
            self._note_second_document(error.mark)

    def _note_second_document(self, mark: Mark) -> None:
        self.has_second_document = True
        message = "a second document starts here, or what is none: some nodes read only what is before it"
        second = bad_config_at(
            mark, message, "keep only one; if this is an entry of the file, correct its indent"
        )
        second.is_rusts = True
        self.oddities.append(second)

    def _handle_event(self, event: yaml.Event) -> None:
        match event:
            case yaml.ScalarEvent():  # nearly all are
                self._add_node(_build_scalar(event))
            case yaml.DocumentStartEvent(version=version):
                self.yaml_version = version
            case yaml.DocumentEndEvent():
                self._has_ended = True
            case yaml.AliasEvent():
                self._add_node(self._build_alias(event))
            case yaml.CollectionStartEvent():
                self._open_collection(event)
            case yaml.CollectionEndEvent():
                self._close_collection(event)

    def _build_alias(self, event: yaml.AliasEvent) -> Alias:
        target = self._anchored.get(event.anchor)
        if target is None:
            raise bad_config_at(
                _convert_mark(event.start_mark),
                "this alias (*) has no anchor (&) that ends before it",
                "write the value out instead",
            )
        start, end = _convert_mark(event.start_mark), _convert_mark(event.end_mark)
        return Alias(start=start, end=end, anchor=event.anchor, target=target)

    def _open_collection(self, event: yaml.CollectionStartEvent) -> None:
        if len(self._open) == MAX_DEPTH:
            raise _depth_error(_convert_mark(event.start_mark))
        self._open.append((event, []))

    def _close_collection(self, last: yaml.CollectionEndEvent) -> None:
        first, children = self._open.pop()
        common = _node_fields(first, last)
        flow = bool(first.flow_style)
        if isinstance(first, yaml.SequenceStartEvent):
            self._add_node(Sequence(**common, flow=flow, items=tuple(children)))
            return
        keys = self._check_keys(children[::2])
        self._add_node(Mapping(**common, flow=flow, pairs=tuple(zip(keys, children[1::2], strict=True))))

    def _check_keys(self, nodes: list[Node]) -> list[Scalar]:
        first_at: dict[str, Mark] = {}
        keys = []
        for node in nodes:
            target = resolve_alias(node)
            if not isinstance(target, Scalar):
                raise _key_error(node)
            if target is not node or target.tag is not None:
                self.oddities.append(_key_error(node))
            key = (
                target if target is node else msgspec.structs.replace(target, start=node.start, end=node.end)
            )
            if key.value in first_at:
                self.oddities.append(build_repeat_error(key, first_at[key.value]))
            first_at.setdefault(key.value, key.start)
            keys.append(key)
        return keys

    def _add_node(self, node: Node) -> None:
        self._count += 1
        if self._count > MAX_NODES:
            raise bad_config_at(
                node.start, f"more than {MAX_NODES} values", "check that this file is the node's config.yml"
            )
        if node.anchor is not None and not isinstance(node, Alias):
            self._anchored[node.anchor] = node
        if self._open:
            self._open[-1][1].append(node)
        else:
            self.root = node


def _build_scalar(event: yaml.ScalarEvent) -> Scalar:
    return Scalar(
        start=_convert_mark(event.start_mark),
        end=_convert_mark(event.end_mark),
        anchor=event.anchor,
        tag=event.tag,
        value=event.value,
        style=event.style or "",
    )


def _node_fields(first: yaml.NodeEvent, last: yaml.Event) -> dict[str, Any]:
    return {
        "start": _convert_mark(first.start_mark),
        "end": _convert_mark(last.end_mark),
        "anchor": first.anchor,
        "tag": getattr(first, "tag", None),
    }


def _key_error(key: Node) -> BadConfig:
    return bad_config_at(key.start, "this key is not a plain word", "write the key out, without * or !")
