"""Characters that look like those of a config and are others: of web pages, chats and word processors.

To the node a no-break space, a zero width space or a curly quote is a letter like others. A byte order mark
is not among them: it has rules of its own.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Final, NamedTuple

_ODD: Final = re.compile(
    "[\u00a0\u00ab\u00ad\u00bb\u1680\u180e\u2000-\u2015\u2018-\u201f\u202a-\u202f\u2032\u2033\u2039\u203a"
    "\u205f-\u206f\u2212\u3000\ufe58\ufe63\uff01-\uff5e]"
)
_FULLWIDTH: Final = range(0xFF01, 0xFF5F)
"""Source: Unicode, block Halfwidth and Fullwidth Forms: those of ASCII, in its order."""


class OddCharacter(NamedTuple):
    """A character that looks like another one. at: its index in the text.

    name: such as `an en dash (U+2013)`.
    replacement: what to type in its place; empty where it should be deleted.
    is_visible: whether it is a sign, and no kind of space or nothing at all.
    """

    at: int
    name: str
    replacement: str
    is_visible: bool

    @property
    def hint(self) -> str:
        """What to do."""
        if not self.replacement:
            return "delete this character: it is there though no editor shows it"
        return f"type {'a space' if self.replacement == ' ' else self.replacement} in its place"


def find_odd_characters(text: str, start: int = 0, end: int | None = None) -> Iterator[OddCharacter]:
    """Those in a part of a text, in its order."""
    for found in _ODD.finditer(text, start, len(text) if end is None else end):
        yield describe_character(found[0], found.start())


def describe_character(character: str, at: int = 0) -> OddCharacter:
    """One character, as such a one."""
    name = unicodedata.name(character, "character without a name").lower()
    name = f"{'an' if name[0] in 'aeiou' else 'a'} {name} (U+{ord(character):04X})"
    replacement = _find_replacement(character)
    return OddCharacter(at, name, replacement, is_visible=bool(replacement.strip()))


def _find_replacement(character: str) -> str:
    if ord(character) in _FULLWIDTH:
        return chr(ord(character) - _FULLWIDTH.start + ord("!"))
    kind = unicodedata.category(character)
    if kind == "Zs":
        return " "
    if kind in {"Cf", "Cn"}:
        return ""
    if kind == "Pd" or character == "\u2212":
        return "-"
    name = unicodedata.name(character)
    return "'" if "SINGLE" in name or name == "PRIME" else '"'


def strip_odd_characters(text: str) -> str:
    """A text without such characters."""
    return _ODD.sub("", text)
