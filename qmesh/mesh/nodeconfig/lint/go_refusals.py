"""What the loaders of the nodes in Go refuse, and what those nodes panic at."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from qmesh.mesh.nodeconfig.document import (
    BOM,
    Mapping,
    Mark,
    Node,
    ParsedConfig,
    Scalar,
    Sequence,
    flatten_merges,
    is_merge_key,
    list_merged,
    resolve_alias,
    walk_nodes,
)
from qmesh.mesh.nodeconfig.known_keys import KnownKey, known_sections
from qmesh.mesh.nodeconfig.lint.go_values import fits_go, is_go_null, resolve_go_value
from qmesh.mesh.nodeconfig.lint.problems import Problem, build_refusal
from qmesh.mesh.nodeconfig.lint.refusal_reasons import (
    WRITTEN_SECTIONS,
    build_form_refusal,
    build_root_refusal,
    build_section_refusal,
    list_written_values,
)
from qmesh.mesh.nodeconfig.lint.visits import Visits
from qmesh.mesh.values import Profile

_NEEDED: Final = ("p2p", "engine", "db")
"""The sections that a node in Go goes into without looking whether they are there."""
_PEERS: Final = ("p2p", "bootstrapPeers")
_SHORTEST_PEER: Final = 30
"""Bytes of the first bootstrap peer that a node in Go looks at."""
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


def find_go_refusals(config: ParsedConfig, profile: Profile) -> Iterator[Problem]:
    """All that a node of that profile, which is in Go, does not load the file for, or panics at."""
    if config.yaml_version not in {None, (1, 1)}:
        message = "the node reads only YAML 1.1"
        usual = "delete the line that begins with %YAML"
        yield build_refusal(Mark(0, 0, 0), "unreadable", message, usual)
    for oddity in config.oddities:
        if oddity.is_gos:
            yield build_refusal(oddity.mark, "unreadable", oddity.problem, oddity.hint)
    yield from _find_unknown_escapes(config)
    root = config.root
    if root is None or is_go_null(root):
        message = "nothing stands in the file, and the node stops at that"
        yield build_refusal(Mark(0, 0, 0), "empty", message, "restore the node's config.yml from its backup")
    elif isinstance(root, Mapping):
        yield from _GoReader(profile).read_root(root)
    else:
        yield build_root_refusal(root)


def _find_unknown_escapes(config: ParsedConfig) -> Iterator[Problem]:
    """An escaped slash in double quotes, which YAML has since 1.2, as JSON does."""
    body = config.text.lstrip(BOM)
    for node, _ in walk_nodes(config.root):
        if not isinstance(node, Scalar) or node.style != '"':
            continue
        written = body[node.start.at : node.end.at]
        if any(escape[1] == "/" for escape in _ESCAPE.finditer(written)):
            message = "the node does not know the escape \\/ in double quotes"
            yield build_refusal(node.start, "unreadable", message, "write / without the backslash")
            return


class _GoReader:
    """The file as a node in Go reads it: what its loader refuses, and what it panics at with what it read."""

    def __init__(self, profile: Profile) -> None:
        self._sections = known_sections(profile)
        self._written = list_written_values(profile)
        self._needed = _NEEDED if profile == "2.1" else _NEEDED[:2]
        self._visits = Visits()
        self._missing: dict[str, Scalar] = {}
        self._peers: Node | None = None

    def read_root(self, root: Mapping) -> Iterator[Problem]:
        yield from self._read_section("", root)
        for name, key in self._missing.items():
            message = f"there is nothing below `{name}:`, and the node panics at that"
            if name in WRITTEN_SECTIONS:
                usual = "write the worker list there, or delete the line"
                yield build_refusal(key.start, "empty", message, usual, cured=True)
            else:
                yield build_refusal(key.start, "empty", message, "restore what was there, or delete the line")
        if (first := self._find_short_peer()) is not None:
            message = f"the first entry of `{_PEERS[1]}` is shorter than {_SHORTEST_PEER} characters"
            usual = "write the peer's whole address, with /p2p/ and its name"
            yield build_refusal(first.start, "entry", f"{message}, and the node panics at that", usual)

    def _find_short_peer(self) -> Node | None:
        if not isinstance(self._peers, Sequence):
            return None
        for item in self._peers.items[:1]:
            peer = resolve_alias(item)
            if isinstance(peer, Scalar):
                value = resolve_go_value(peer)
                text = "" if value is not None and value.kind == "null" else peer.value
                return item if len(text.encode()) < _SHORTEST_PEER else None
        return None

    def _read_section(self, path: str, section: Mapping) -> Iterator[Problem]:
        known = self._sections[path]
        for mapping in flatten_merges(section, self._visits.sections[path]):
            for key, value in mapping.pairs:
                if is_merge_key(key):
                    yield from self._check_merged(value)
                elif key.value in known:
                    yield from self._read_value(path, key, known[key.value], value)

    def _check_merged(self, value: Node) -> Iterator[Problem]:
        if not all(isinstance(section, Mapping) for section in list_merged(value)):
            message = "a merge key (<<) has no section behind it"
            yield build_refusal(value.start, "form", message, "write the merged keys out")

    def _read_value(self, path: str, key: Scalar, known: KnownKey, value: Node) -> Iterator[Problem]:
        if known.form is not None:
            if not self._visits.ask(fits_go, known.form, value):
                is_written = (path, key.value) in self._written
                yield build_form_refusal(key, known.form, value, is_written=is_written)
            if (path, known.name) == _PEERS:
                self._peers = resolve_alias(value)
            return
        if not path:
            self._note_section(key, value)
        below = resolve_alias(value)
        if isinstance(below, Mapping):
            yield from self._read_section(f"{path}.{key.value}".lstrip("."), below)
        elif not fits_go("text", below) or not _is_go_nothing(below):
            yield build_section_refusal(key, value)

    def _note_section(self, key: Scalar, value: Node) -> None:
        """Of a section that is there twice the last decides: nothing there empties what was before."""
        self._missing.pop(key.value, None)
        if is_go_null(value):
            if key.value in self._needed:
                self._missing[key.value] = key
            if key.value == _PEERS[0]:
                self._peers = None


def _is_go_nothing(node: Node) -> bool:
    value = resolve_go_value(node) if isinstance(node, Scalar) else None
    return value is not None and value.kind == "null"
