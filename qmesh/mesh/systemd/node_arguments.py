"""Further arguments of the node, which every process of it is started with: as typed, and in a unit."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Final

from qmesh.errors import BadInput
from qmesh.mesh.values import quote_text

MOST_WORDS: Final = 64
MAX_LENGTH: Final = 4096
"""Characters of all of them, as typed."""

_OWN: Final = ("config", "c", "core", "parent-process")
"""Options that the units give, or that are for workers which the control process starts itself."""
_WORD: Final = re.compile(r'"((?:[^"\\]|\\.)*)"|([^\s"]+)')
_ESCAPED: Final = re.compile(r"\\(.)|%%|\$\$")


def parse_node_arguments(text: str) -> tuple[str, ...]:
    """The words of a text, quoted as for a shell. Raises BadInput for what node or systemd would not take."""
    hint = "pass options of the node as one text, such as `--node-args '--debug'`; the units name no others"
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise BadInput(f"--node-args is not quoted as for a shell: {str(error).lower()}", hint=hint) from None
    if len(text) > MAX_LENGTH or len(words) > MOST_WORDS:
        raise BadInput(
            f"--node-args has more than {MOST_WORDS} words or {MAX_LENGTH} characters",
            hint="write what you can into the node's config.yml",
        )
    for word in words:
        if not word.isprintable():
            raise BadInput(f"--node-args has a control character in {quote_text(word)}", hint="leave it out")
        if _option_name(word) in _OWN:
            raise BadInput(
                f"--node-args has {quote_text(word)}, which the units set themselves",
                hint="leave it out; `qmesh render-config --write --config DIR` names another directory",
            )
    if words and not words[0].startswith("-"):
        raise BadInput(f"--node-args begins with {quote_text(words[0])}, which is no option", hint=hint)
    if "--" in words:
        raise BadInput("--node-args has `--`, after which the node reads no options", hint=hint)
    return words


def _option_name(word: str) -> str | None:
    """What an option is called, with one dash or two, as the node's programs take it; None for a value."""
    return word.lstrip("-").partition("=")[0] if word.startswith("-") else None


def render_node_arguments(words: Sequence[str]) -> str:
    """The words as the end of a unit's command line, each behind a space. Source: systemd.service(5)."""
    return "".join(f" {_quote_word(word)}" for word in words)


def _quote_word(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    is_plain = word and not any(character in word for character in " \\'\";")
    return escaped if is_plain else f'"{escaped}"'


def parse_unit_arguments(worker: str) -> tuple[str, ...]:
    """The further arguments in the unit of a data worker, as `qmesh units` wrote them."""
    found = re.search(r"^ExecStart=.* --core %i((?: .*)?)$", worker, re.MULTILINE)
    if found is None:
        return ()
    return tuple(_unquote_word(quoted or plain) for quoted, plain in _WORD.findall(found[1]))


def _unquote_word(word: str) -> str:
    return _ESCAPED.sub(lambda found: found[1] or found[0][0], word)
