"""Text for people's eyes: what others wrote moves no cursor, hides no word and begins no line of its own."""

from __future__ import annotations

import codecs

_ENCODE = codecs.lookup("unicode_escape").encode
"""Looked up now: who has given up root's rights may not read the module that does it."""


def escape_text(text: str) -> str:
    """The text with whatever is not printed as itself escaped as in Python.

    Those are the control characters but tab and line feed, DEL, the marks that turn the direction of writing,
    other invisible ones, the separators of lines, and octets that were no text.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in "\n\t" else _escape_character(each) for each in text)


def escape_line(text: str) -> str:
    """The same for one line: characters that would begin another line are escaped as well."""
    return (
        text if text.isprintable() else "".join(e if e.isprintable() else _escape_character(e) for e in text)
    )


def _escape_character(character: str) -> str:
    return _ENCODE(character)[0].decode("ascii")
