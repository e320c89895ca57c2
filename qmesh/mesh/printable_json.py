"""JSON for people's eyes, of ASCII alone."""

from __future__ import annotations

import msgspec


def render_json(facts: object) -> str:
    """Anything that msgspec encodes, as JSON of ASCII alone, which a stream of any encoding takes.

    What is not printed as itself is escaped as JSON has it: a parser reads the same as without that.
    Bytes that were no text are question marks.
    """
    try:
        text = msgspec.json.encode(facts).decode()
    except UnicodeEncodeError:
        text = msgspec.json.encode(replace_surrogates(msgspec.to_builtins(facts))).decode()
    return (
        text
        if text.isascii() and text.isprintable()
        else "".join(e if e.isascii() and e.isprintable() else _escape_json_character(e) for e in text)
    )


def _escape_json_character(character: str) -> str:
    """A character by its UTF-16, as RFC 8259 has it."""
    octets = character.encode("utf-16-be")
    return "".join(f"\\u{octets[at : at + 2].hex()}" for at in range(0, len(octets), 2))


def replace_surrogates(found: object) -> object:
    """The same values with question marks in the place of bytes that were no text."""
    match found:
        case str():
            return found.encode("utf-8", "replace").decode()
        case dict():
            return {replace_surrogates(key): replace_surrogates(value) for key, value in found.items()}
        case list() | tuple():
            return [replace_surrogates(each) for each in found]
    return found
