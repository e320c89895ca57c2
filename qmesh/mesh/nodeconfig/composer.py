"""A YAML text made into the tree of `document`, bounded in depth and size.

PyYAML's events are taken, never its constructed values: events name aliases instead of
expanding them, show duplicate keys, need no recursion, and carry the marks that an edit needs.
What a node's config never has (aliases before their anchor, keys that are lists) is refused here,
once, so that no other code has to handle it. What some nodes read and others do not (a key twice, a
second document) is in the tree, and told as an oddity: an edit refuses it, a reader need not. A key twice is
refused by who looks for that key alone.

No error repeats a word of the text: it may hold secrets, and a damaged text may hold them anywhere.
"""

from __future__ import annotations

import codecs
import contextlib
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import yaml

from qmesh.errors import BadInput
from qmesh.mesh.nodeconfig.characters import OddCharacter, find_odd_characters
from qmesh.mesh.nodeconfig.document import (
    BOM,
    BREAKS,
    LINE_BREAK,
    Alias,
    BadConfig,
    Mapping,
    Mark,
    Node,
    ParsedConfig,
    Scalar,
    Sequence,
    bad_config_at,
    build_repeat_error,
    mark_at,
    resolve_alias,
)

_LETTER: Final = "\ue000"
MAX_CHARACTERS: Final = 1024 * 1024
"""A list of 20,000 workers takes some 0.6 million."""
MAX_NODES: Final = 20_000
"""Keys, values, lists and aliases: an alias is one, and never what it stands for again."""
MAX_DEPTH: Final = 50
MAX_DIRECTIVES: Final = 10
"""libyaml looks for each among all before it, with Python's lock held: 40,000 take it two seconds."""

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# U+FEFF is printable to YAML, but libyaml leaves a leading one out of its marks: the caller takes
# that off, and any other is odd.
_NOT_TEXT = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_QUOTED = re.compile(r"'[^']{5,}'|\"[^\"]{5,}\"|(?P<short>'[^']*'|\"[^\"]*\")")
_DIRECTIVE = re.compile(f"(?:\\A|[{BREAKS}])%")
_COMMENT = re.compile(r"(?:\A|(?<=\s))#")


def parse_config(config: str | ParsedConfig) -> ParsedConfig:
    """A text parsed, and one that was parsed already as it is. Raises BadInput as `parse_document`."""
    if isinstance(config, ParsedConfig):
        return config
    parsed = scan_config(config)
    refuse_oddities(parsed)
    return parsed


def decode_config(octets: bytes) -> tuple[str, bool]:
    """The text of a file, and whether it was UTF-16, known by its byte order mark, rather than UTF-8.

    Raises BadInput, with line and column, where it is neither.
    """
    is_utf16 = octets.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "utf-16" if is_utf16 else "utf-8"
    try:
        return octets.decode(encoding), is_utf16
    except UnicodeDecodeError as error:
        before = octets[: error.start].decode(encoding, "replace")
        raise bad_config_at(
            mark_at(before, len(before)),
            f"this is not {encoding.upper()}",
            f"{_describe_octet(octets[error.start])}, and save the file as UTF-8",
        ) from None


def _describe_octet(octet: int) -> str:
    """What to do with an octet that is no UTF-8: mostly it is of a text of Windows."""
    for odd in find_odd_characters(bytes([octet]).decode("cp1252", "replace")):
        return f"{odd.hint}: in the encoding of Windows this is {odd.name}"
    return "correct this character"


def scan_config(config: str | ParsedConfig, *, is_utf16: bool = False) -> ParsedConfig:
    """As `parse_config`, with its oddities. Raises BadInput where the text is YAML to no node."""
    if isinstance(config, ParsedConfig):
        return config
    body = config.lstrip(BOM)
    _refuse_damage(body)
    marks = tuple(_find_marks_inside(config, body))
    composer = _read_with_marks(body, marks[0]) if BOM in body else _read_body(body)
    oddities = (*((_build_utf16_error(),) if is_utf16 else ()), *marks, *composer.oddities)
    return ParsedConfig(config, composer.root, oddities, composer.yaml_version)


def _read_body(body: str) -> _Composer:
    composer = _Composer()
    composer.read_text(body)
    return composer


def _read_with_marks(body: str, mark: BadConfig) -> _Composer:
    """A text with a byte order mark inside: Rust skips it where a line starts, Go takes it for a letter."""
    composers: list[_Composer] = []
    for each in (body, body.replace(BOM, _LETTER)):
        with contextlib.suppress(BadConfig):
            composers.append(_read_body(each))
        if each == body:
            mark.is_rusts = not composers
    if not composers:
        raise mark
    mark.is_gos = not mark.is_rusts and len(composers) == 1
    return composers[0]


def refuse_oddities(config: ParsedConfig) -> None:
    """Raise BadInput for the first oddity: what is written over it, one node reads so and another not.

    A key that is there twice is none where nobody looks for it: `find_pair` refuses it.
    """
    for oddity in config.oddities:
        if not oddity.is_repeat:
            raise oddity


def parse_document(text: str) -> Node | None:
    """The root of the one document in `text`, None for an empty text. A leading BOM is not counted.

    Raises BadInput, with line and column, when the text is not YAML, or is YAML of a kind that no
    node's config is, or has a key twice.
    """
    parsed = scan_config(text)
    if parsed.oddities:
        raise parsed.oddities[0]
    return parsed.root


def has_one_document_behind_bom(text: str) -> bool:
    """Whether a parser that takes the BOM in front of `text` for a character of its first line reads it all.

    To it, what begins at the margin of a later line is less indented than the first key.
    """
    composer = _Composer()
    try:
        composer.read_text(BOM + text)  # libyaml takes the first one off
    except BadInput:
        return False
    return not composer.has_second_document


def _find_marks_inside(text: str, body: str) -> Iterator[BadConfig]:
    """Byte order marks but the one in front."""
    at = body.find(BOM)
    if len(text) - len(body) > 1 or at >= 0:
        mark = mark_at(body, at) if len(text) - len(body) < 2 else Mark(0, 0, 0)
        yield _character_error(mark, BOM)


def _build_utf16_error() -> BadConfig:
    error = bad_config_at(
        Mark(0, 0, 0),
        "the file is UTF-16, which not every node reads, and qmesh does not change",
        "save it as UTF-8: `iconv -f UTF-16 -t UTF-8`",
    )
    error.is_rusts = True
    return error


def _character_error(mark: Mark, character: str) -> BadConfig:
    return bad_config_at(
        mark,
        f"the character U+{ord(character):04X} is not allowed in YAML",
        "delete it; if there are many, the file is damaged",
    )


def _refuse_damage(text: str) -> None:
    if len(text) > MAX_CHARACTERS:
        raise BadInput(
            f"config.yml is longer than {MAX_CHARACTERS} characters",
            hint="check that this file is the node's config.yml",
        )
    if damage := _NOT_TEXT.search(text):
        raise _character_error(mark_at(text, damage.start()), damage.group())
    for number, directive in enumerate(_DIRECTIVE.finditer(text), 1):
        if number > MAX_DIRECTIVES:
            mark = mark_at(text, directive.end() - 1)
            raise bad_config_at(
                mark,
                f"more than {MAX_DIRECTIVES} lines begin with %",
                "check that this file is the node's config.yml",
            )


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


class _Composer:
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
            case yaml.DocumentStartEvent(version=version):
                self.yaml_version = version
            case yaml.DocumentEndEvent():
                self._has_ended = True
            case yaml.AliasEvent():
                self._add_node(self._build_alias(event))
            case yaml.ScalarEvent():
                self._add_node(
                    Scalar(**_node_fields(event, event), value=event.value, style=event.style or "")
                )
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


def _node_fields(first: yaml.NodeEvent, last: yaml.Event) -> dict[str, Any]:
    return {
        "start": _convert_mark(first.start_mark),
        "end": _convert_mark(last.end_mark),
        "anchor": first.anchor,
        "tag": getattr(first, "tag", None),
    }


def _key_error(key: Node) -> BadConfig:
    return bad_config_at(key.start, "this key is not a plain word", "write the key out, without * or !")
