"""A YAML text as a tree whose nodes know their place in the text; `composer` makes it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec

from qmesh.errors import BadInput
from qmesh.mesh.values import SecretStruct

BOM: Final = "\ufeff"
BREAKS: Final = "\r\n\x85\u2028\u2029"
"""The characters that end a line. Source: YAML 1.1, 4.2."""
LINE_BREAK = re.compile(f"\r\n|[{BREAKS}]")
_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_SECTIONS: Final = frozenset({"alias", "db", "engine", "key", "logger", "p2p"})
"""The node's own words, which are shown: any other key may be a secret in the wrong place."""
_BLOCK_STYLES: Final = frozenset({"|", ">"})


class BadConfig(BadInput):
    """A BadInput about one place of the text.

    problem: the message without the place. is_rusts, is_gos: of an oddity, whether that loader refuses it.
    is_repeat: of an oddity, whether it is a key that is there already.
    """

    is_rusts = is_gos = is_repeat = False

    def __init__(self, mark: Mark, problem: str, *, hint: str) -> None:
        super().__init__(f"config.yml, line {mark.line + 1}, column {mark.column + 1}: {problem}", hint=hint)
        self.mark = mark
        self.problem = problem


class Mark(NamedTuple):
    """A place in the text; all three count from 0, in characters: `at` from the text's start."""

    at: int
    line: int
    column: int


class Node(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What all nodes have. The span [start, end) holds the anchor and the tag too.

    A block collection's end is where the next thing starts, behind comments and blank lines.
    """

    start: Mark
    end: Mark
    anchor: str | None = None
    tag: str | None = None


class Scalar(Node, frozen=True, kw_only=True, eq=False):
    """One value, as text. style: `'`, `"`, `|`, `>`, or nothing for a plain one."""

    value: str
    style: str = ""

    @property
    def is_null(self) -> bool:
        """Whether nothing stands here, or a word for nothing."""
        return not self.style and self.tag is None and self.value in _NULLS

    @property
    def is_block(self) -> bool:
        """Whether it is written over the lines below a `|` or `>`."""
        return self.style in _BLOCK_STYLES


class Sequence(Node, frozen=True, kw_only=True, eq=False):
    """A list. flow: written in brackets."""

    flow: bool
    items: tuple[Node, ...]


class Mapping(Node, frozen=True, kw_only=True, eq=False):
    """Keys with their values, in the order of the text. flow: written in braces.

    A key that is there twice is an oddity of the config.
    """

    flow: bool
    pairs: tuple[tuple[Scalar, Node], ...]


class Alias(Node, frozen=True, kw_only=True, eq=False):
    """Stands for the node whose anchor it names."""

    target: Node


class ParsedConfig(SecretStruct, frozen=True, eq=False):
    """A config.yml that was parsed, to be passed on.

    text: whole; root: of its first document, None where nothing stands in it.
    oddities: what not every node reads, as errors with their places.
    yaml_version: major and minor, where a line `%YAML` gives them.
    """

    text: str
    root: Node | None
    oddities: tuple[BadConfig, ...] = ()
    yaml_version: tuple[int, int] | None = None


def bad_config_at(mark: Mark, problem: str, hint: str) -> BadConfig:
    """A BadInput that names the place, as editors count it: from 1."""
    return BadConfig(mark, problem, hint=hint)


def walk_nodes(root: Node | None) -> Iterator[tuple[Node, bool]]:
    """Every node in the order of the text, with whether it is a key. Aliases are not followed."""
    waiting: list[tuple[Node, bool]] = [] if root is None else [(root, False)]
    while waiting:
        node, is_key = waiting.pop()
        yield node, is_key
        match node:
            case Sequence(items=items):
                waiting += ((item, False) for item in reversed(items))
            case Mapping(pairs=pairs):
                for key, value in reversed(pairs):
                    waiting += ((value, False), (key, True))


def find_pair(mapping: Mapping, key: str) -> tuple[Scalar, Node] | None:
    """A mapping's key and value, None when it has no such key.

    Raises BadInput when the mapping has a merge key, behind which anything may stand, or the key twice.
    """
    found = None
    for name, value in mapping.pairs:
        if name.value == "<<":
            raise bad_config_at(name.start, "there is a merge key (<<) here", "write the merged keys out")
        if name.value == key:
            if found is not None:
                raise build_repeat_error(name, found[0].start)
            found = name, value
    return found


def resolve_alias(node: Node) -> Node:
    """What an alias stands for; any other node itself."""
    return node.target if isinstance(node, Alias) else node


def flatten_merges(section: Node | None, seen: set[int], *, has_merges: bool = True) -> list[Mapping]:
    """A section, after those that are merged into it: each once, and none of those that were `seen`.

    The set is kept for all sections of one place: thousands of them may merge the same thousands.
    has_merges: whether the node knows merge keys.
    """
    waiting: list[Node | None] = [section]
    found: list[Mapping] = []
    while waiting:
        mapping = waiting.pop()
        if not isinstance(mapping, Mapping) or id(mapping) in seen:
            continue
        seen.add(id(mapping))
        found.append(mapping)
        for key, value in mapping.pairs:
            if has_merges and is_merge_key(key):
                waiting += list_merged(value)[::-1]
    return found[::-1]


def is_merge_key(key: Scalar) -> bool:
    """Whether a node that knows such keys merges what is behind it. In quotes it is a key like others."""
    return key.value == "<<" and not key.style


def list_merged(value: Node) -> list[Node]:
    """What stands behind a merge key: one section, or a list of such."""
    merged = resolve_alias(value)
    return [resolve_alias(item) for item in merged.items] if isinstance(merged, Sequence) else [merged]


def mark_at(text: str, index: int) -> Mark:
    """The place of the character at `index`."""
    line, start = 0, 0
    for line, end in enumerate(LINE_BREAK.finditer(text, 0, index), 1):  # noqa: B007  # the last one's number
        start = end.end()
    return Mark(index, line, index - start)


def build_repeat_error(key: Scalar, first: Mark) -> BadConfig:
    """What is wrong with a key that is there already. first: where."""
    line = first.line + 1
    if key.value in _SECTIONS:
        error = bad_config_at(
            key.start,
            f"a second `{key.value}:`, the first is in line {line}",
            f"move what is below it to line {line}, and delete it: not every node loads a file with both",
        )
    else:
        error = bad_config_at(
            key.start,
            f"this key is already in line {line}",
            "keep one of the two: not every node loads a file with both",
        )
    error.is_repeat = True
    return error
