"""What qmesh prints keeps to the words of the glossary: no error, hint, log line or `--help` has another."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import qmesh
from tests.support.words import is_used, words_that_are_not_used

PACKAGE = Path(qmesh.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
COMMANDS = PACKAGE / "cli/commands"
WORDS = words_that_are_not_used()


def texts_of(source: str, *, with_docstrings: bool) -> Iterator[str]:
    """The text of each constant that has a space, that of an f-string whole, `{}` for what it puts in.

    with_docstrings: also those, which `--help` prints.
    """
    skipped = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and not with_docstrings:
            skipped.add(node.value)
        if isinstance(node, ast.JoinedStr):
            skipped.update(part for part in node.values if isinstance(part, ast.Constant))
            parts = (part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in skipped:
            yield node.value


def shown(text: str) -> str:
    """A text as words are searched for in it: on one line, each option `--x`.

    Without the label of a fix, and systemd's key that is one of the words.
    """
    bare = re.sub(r"^Wants=", "", text.replace("cure: ", ""), flags=re.MULTILINE)
    return " ".join(re.sub(r"`?--[a-z][a-z-]*[^`\s]*`?", "--x", bare).split())


def unwanted_words_of(source: str, *, with_docstrings: bool = False) -> list[tuple[str, str]]:
    texts = map(shown, texts_of(source, with_docstrings=with_docstrings))
    return [(word, text) for text in texts if " " in text for word in WORDS if is_used(word, text)]


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE.parent))


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_what_is_shown_has_only_words_that_are_used(module):
    source = module.read_text(encoding="utf-8")
    assert unwanted_words_of(source, with_docstrings=module.parent == COMMANDS) == []


@pytest.mark.parametrize(
    "source",
    [
        'log.info("make it anew")',
        'log.info("make"\n    " it anew")',
        'log.info(f"make {it} anew")',
        'raise BadInput("it failed", hint="say `--workers 3`")',
        'raise BadInput("it failed", hint=f"or say --workers {count}")',
        'help = "by way of the\\n    control process"',
    ],
)
def test_a_word_that_is_not_used_is_found(source):
    assert len(unwanted_words_of(source)) == 1


def test_what_is_not_shown_may_have_any_word():
    assert unwanted_words_of('"""Make it anew."""\nname = "anew"\nkey["cured"] = 1  # anew') == []
    assert len(unwanted_words_of('"""Make it anew."""', with_docstrings=True)) == 1
    assert unwanted_words_of('print(f"  cure:   {each.cure}")') == []
