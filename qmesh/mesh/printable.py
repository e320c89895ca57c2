"""Text for people's eyes: what others wrote moves no cursor, hides no word and begins no line of its own."""

from __future__ import annotations


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


def render_json(facts: object) -> str:
    """Anything that msgspec encodes, as JSON of ASCII alone, which a stream of any encoding takes.

    What is not printed as itself is escaped as JSON has it: a parser reads the same as without that.
    Bytes that were no text are question marks.
    """
    import msgspec  # noqa: PLC0415 - a hall that only prints help has no use for it

    try:
        text = msgspec.json.encode(facts).decode()
    except UnicodeEncodeError:
        text = msgspec.json.encode(_replace_surrogates(msgspec.to_builtins(facts))).decode()
    return (
        text
        if text.isascii() and text.isprintable()
        else "".join(e if e.isascii() and e.isprintable() else _escape_json_character(e) for e in text)
    )


def _escape_character(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _escape_json_character(character: str) -> str:
    """A character by its UTF-16, as RFC 8259 has it."""
    octets = character.encode("utf-16-be")
    return "".join(f"\\u{octets[at : at + 2].hex()}" for at in range(0, len(octets), 2))


def _replace_surrogates(found: object) -> object:
    match found:
        case str():
            return found.encode("utf-8", "replace").decode()
        case dict():
            return {_replace_surrogates(key): _replace_surrogates(value) for key, value in found.items()}
        case list() | tuple():
            return [_replace_surrogates(each) for each in found]
    return found
