"""The file of a node's config, from bytes to a tree, with what is odd in it.

What some nodes read and others do not (a key twice, a second document, a byte order mark inside) is in the
tree, and told as an oddity: an edit refuses it, a reader need not. A key twice is refused by who looks for
that key alone.
"""

from __future__ import annotations

import codecs
import contextlib
import re
from collections.abc import Iterator
from typing import Final

from qmesh.errors import BadInput
from qmesh.mesh.nodeconfig.characters import find_odd_characters
from qmesh.mesh.nodeconfig.composer import Composer
from qmesh.mesh.nodeconfig.document import (
    BOM,
    BREAKS,
    BadConfig,
    Mark,
    Node,
    ParsedConfig,
    bad_config_at,
    mark_at,
)

_LETTER: Final = "\ue000"
MAX_CHARACTERS: Final = 1024 * 1024
"""A list of 20,000 workers takes some 0.6 million."""
MAX_DIRECTIVES: Final = 10
"""libyaml looks for each among all before it, with Python's lock held: 40,000 take it two seconds."""
# U+FEFF is printable to YAML, but libyaml leaves a leading one out of its marks: the caller takes
# that off, and any other is odd.
_NOT_TEXT = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_DIRECTIVE = re.compile(f"(?:\\A|[{BREAKS}])%")


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


def _read_body(body: str) -> Composer:
    composer = Composer()
    composer.read_text(body)
    return composer


def _read_with_marks(body: str, mark: BadConfig) -> Composer:
    """A text with a byte order mark inside: Rust skips it where a line starts, Go takes it for a letter."""
    composers: list[Composer] = []
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
    composer = Composer()
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
    directives = _DIRECTIVE.finditer(text) if "%" in text else ()  # what is not there is found soonest so
    for number, directive in enumerate(directives, 1):
        if number > MAX_DIRECTIVES:
            mark = mark_at(text, directive.end() - 1)
            raise bad_config_at(
                mark,
                f"more than {MAX_DIRECTIVES} lines begin with %",
                "check that this file is the node's config.yml",
            )
