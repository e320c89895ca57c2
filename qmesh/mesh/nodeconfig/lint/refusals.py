"""What makes the node of a profile refuse the whole file: each loader's rules, over the one table of keys.

The loaders differ in more than their values. Of a key that is there twice Go takes the last, and Rust
refuses it; Go reads merge keys and one document of several; Rust takes a byte order mark for a character.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from qmesh.mesh.nodeconfig.composer import has_one_document_behind_bom
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
from qmesh.mesh.nodeconfig.known_keys import Form, KnownKey, known_sections
from qmesh.mesh.nodeconfig.lint.go_values import fits_go, is_go_null, resolve_go_value
from qmesh.mesh.nodeconfig.lint.problems import Problem, build_refusal, build_warning, summarize_by_kind
from qmesh.mesh.nodeconfig.lint.rust_values import fits_rust, is_rust_empty, is_rust_null
from qmesh.mesh.nodeconfig.profiles import profile_facts
from qmesh.mesh.values import Profile

_WANTED: Final[dict[Form, tuple[str, str]]] = {
    "text": ("one text", "write one value behind it"),
    "texts": ("a list of texts", "write one `- VALUE` a line below it, or `[]`"),
    "texts by name": ("names with a text each", "write one `NAME: VALUE` a line below it, or delete it"),
    "flag": ("true or false", "write true or false, without quotes"),
    "float": ("a number", "write a number such as 0.25, without quotes"),
    "duration": ("a time", "write a number with a unit, such as 4s or 1m30s"),
    "manager": ("file or inMemory", "write file"),
    "int": ("a whole number", "write a number, without quotes"),
    "long": ("a whole number", "write a number, without quotes"),
    "u8": ("a whole number from 0 to 255", "write a number, without quotes"),
    "u16": ("a whole number from 0 to 65535", "write a number, without quotes"),
    "u32": ("a whole number from 0 on", "write a number, without quotes"),
    "u64": ("a whole number from 0 on", "write a number, without quotes"),
}
_NEEDED: Final = ("p2p", "engine", "db")
"""The sections that a node in Go goes into without looking whether they are there."""
_PEERS: Final = ("p2p", "bootstrapPeers")
_SHORTEST_PEER: Final = 30
"""Bytes of the first bootstrap peer that a node in Go looks at."""
_MAY_BE_NULL: Final = frozenset({"logger", "proofWorker"})
_WRITTEN_SECTIONS: Final = frozenset({"engine"})
_MOST_TOLD: Final = 20
"""Of what one file is refused for."""
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_RENDER: Final = "run `qmesh render-config --write`, which writes the mesh's value"
_CHECK_FILE: Final = "check that this file is the node's config.yml"


def find_refusals(config: ParsedConfig, profile: Profile) -> Iterator[Problem]:
    """What the node does not load the file for, and warnings of what it reads in its own way."""
    is_rust = profile == "2.1-rust"
    refusals = list(_find_rust_refusals(config) if is_rust else _find_go_refusals(config, profile))
    refusals, more = refusals[:_MOST_TOLD], len(refusals) - _MOST_TOLD
    if more > 0:
        last = refusals.pop()
        refusals.append(msgspec.structs.replace(last, message=f"{last.message}; and {more} more errors"))
    told = {(each.line, each.column) for each in refusals}
    yield from refusals
    yield from summarize_by_kind(
        build_warning(oddity.mark, "unreadable", oddity.problem, oddity.hint)
        for oddity in config.oddities
        if (oddity.mark.line + 1, oddity.mark.column + 1) not in told
    )


def _find_go_refusals(config: ParsedConfig, profile: Profile) -> Iterator[Problem]:
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
        yield _build_root_refusal(root)


def _find_rust_refusals(config: ParsedConfig) -> Iterator[Problem]:
    root = config.root
    if config.text.startswith(BOM) and not has_one_document_behind_bom(config.text):
        message = "the file begins with a byte order mark, and the node does not load it"
        is_one = not config.text.startswith(BOM * 2)
        usual = (
            "run `qmesh render-config --write`, which removes the mark" if is_one else "save it without marks"
        )
        yield build_refusal(Mark(0, 0, 0), "unreadable", message, usual, cured=is_one)
    for oddity in config.oddities:
        if oddity.is_rusts:
            yield build_refusal(oddity.mark, "unreadable", oddity.problem, oddity.hint)
    if isinstance(root, Mapping):
        yield from _RustReader().read_section("", root)
    elif root is not None and not is_rust_empty(root):
        yield _build_root_refusal(root)


def _build_root_refusal(root: Node) -> Problem:
    message = "the file's top level is not a mapping of keys to values"
    return build_refusal(root.start, "unreadable", message, _CHECK_FILE)


def _build_form_refusal(key: Scalar, form: Form, value: Node, *, is_written: bool) -> Problem:
    """is_written: whether qmesh writes that key, and so its right value, where one can be exchanged."""
    wanted, usual = _WANTED[form]
    message = f"`{key.value}` has to be {wanted}: the node does not load this file"
    is_plain = isinstance(value, Scalar) and not value.is_block and value.anchor is None and value.tag is None
    if is_written and is_plain:
        return build_refusal(value.start, "form", message, f"{_RENDER}; or {usual}", cured=True)
    return build_refusal(value.start, "form", message, usual)


def _list_written_values(profile: Profile) -> frozenset[tuple[str, str]]:
    """Section and name of each value or list that qmesh writes, in every spelling."""
    known = profile_facts(profile)
    keys = (*known.single_keys, *known.lists)
    return frozenset((key.section, name) for key in keys for name in (key.name, key.alias) if name)


def _build_section_refusal(key: Scalar, value: Node, *, is_written: bool = False) -> Problem:
    """is_written: whether qmesh writes into that section, and so makes one where nothing stands."""
    message = f"`{key.value}` is not a mapping of keys to values: the node does not load this file"
    if is_written and isinstance(value, Scalar) and value.is_null and value.anchor is None:
        usual = "or write the worker list there, or delete the line"
        return build_refusal(value.start, "form", message, f"{_RENDER}; {usual}", cured=True)
    return build_refusal(value.start, "form", message, "check the indent of the lines below it")


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


class _Visits:
    """What was looked at: each section and value once, though thousands of aliases may stand for it."""

    def __init__(self) -> None:
        self.sections: defaultdict[str, set[int]] = defaultdict(set)
        self._answers: dict[tuple[Form, int], bool] = {}

    def is_first(self, path: str, section: Mapping) -> bool:
        """Whether the section was not yet read as the one of that path."""
        if id(section) in self.sections[path]:
            return False
        self.sections[path].add(id(section))
        return True

    def ask(self, fits: Callable[[Form, Node], bool], form: Form, value: Node) -> bool:
        """Whether the value fits the form."""
        question = form, id(resolve_alias(value))
        if question not in self._answers:
            self._answers[question] = fits(form, value)
        return self._answers[question]


class _GoReader:
    """The file as a node in Go reads it: what its loader refuses, and what it panics at with what it read."""

    def __init__(self, profile: Profile) -> None:
        self._sections = known_sections(profile)
        self._written = _list_written_values(profile)
        self._needed = _NEEDED if profile == "2.1" else _NEEDED[:2]
        self._visits = _Visits()
        self._missing: dict[str, Scalar] = {}
        self._peers: Node | None = None

    def read_root(self, root: Mapping) -> Iterator[Problem]:
        yield from self._read_section("", root)
        for name, key in self._missing.items():
            message = f"there is nothing below `{name}:`, and the node panics at that"
            if name in _WRITTEN_SECTIONS:
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
                yield _build_form_refusal(key, known.form, value, is_written=is_written)
            if (path, known.name) == _PEERS:
                self._peers = resolve_alias(value)
            return
        if not path:
            self._note_section(key, value)
        below = resolve_alias(value)
        if isinstance(below, Mapping):
            yield from self._read_section(f"{path}.{key.value}".lstrip("."), below)
        elif not fits_go("text", below) or not _is_go_nothing(below):
            yield _build_section_refusal(key, value)

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


class _RustReader:
    """The file as a node in Rust reads it, to which two spellings are one key, and that twice is refused."""

    def __init__(self) -> None:
        self._sections = known_sections("2.1-rust")
        self._written = _list_written_values("2.1-rust")
        self._visits = _Visits()

    def read_section(self, path: str, section: Mapping) -> Iterator[Problem]:
        known = self._sections[path]
        if not self._visits.is_first(path, section):
            return
        first: dict[str, Scalar] = {}
        for key, value in section.pairs:
            found = known.get(key.value)
            if found is None:
                continue
            problems = list(self._read_value(path, key, found, value))
            before = first.setdefault(found.name, key)
            if before is not key:
                problems.append(_build_twice_refusal(key, before))
            for problem in problems:
                yield problem.as_warning() if found.is_newer else problem

    def _read_value(self, path: str, key: Scalar, known: KnownKey, value: Node) -> Iterator[Problem]:
        if known.form is not None:
            if not self._visits.ask(fits_rust, known.form, value):
                is_written = (path, key.value) in self._written
                yield _build_form_refusal(key, known.form, value, is_written=is_written)
            return
        below = resolve_alias(value)
        if isinstance(below, Mapping):
            yield from self.read_section(f"{path}.{key.value}".lstrip("."), below)
        elif not is_rust_empty(below) and not (known.name in _MAY_BE_NULL and is_rust_null(below)):
            is_written = not path and key.value in _WRITTEN_SECTIONS
            yield _build_section_refusal(key, value, is_written=is_written)


def _build_twice_refusal(key: Scalar, before: Scalar) -> Problem:
    line = before.start.line + 1
    if key.value == before.value:
        message = f"`{key.value}` is already in line {line}"
    else:
        message = f"`{key.value}` and `{before.value}` in line {line} are the same key"
    return build_refusal(
        key.start, "repeated", f"{message}: the node does not load this file", "keep one of the two"
    )
