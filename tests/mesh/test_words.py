"""What users read of `mesh` and `host`, findings, hints and fixes among it, has no word that is not used.

The words are those of the glossary's table; `tests/test_documents.py` holds the pages to it.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
MODULES = [path for room in ("mesh", "host") for path in sorted((CHECKOUT / "qmesh" / room).rglob("*.py"))]


def unused_words() -> re.Pattern[str]:
    """Any word or phrase of the table's first column; `Wants=` is systemd's."""
    table = (CHECKOUT / "docs/glossary.md").read_text("utf-8").partition("## Words that are not used")[2]
    cells = re.findall(r"^\| (.+?) \| .+ \|$", table, flags=re.MULTILINE)[1:]
    words = ",".join(re.sub(r" *\([^)]*\)|`", "", cell) for cell in cells).split(",")
    return re.compile(
        rf"(?<![\w-])(?:{'|'.join(re.escape(word.strip()) for word in words)})(?![\w=-])", re.IGNORECASE
    )


def texts_of(source: str) -> Iterator[str]:
    """The sentences in a module's text: all strings with a space in them but docstrings; `{}` for values."""
    tree = ast.parse(source)
    left_out = {id(each.value) for each in ast.walk(tree) if isinstance(each, ast.Expr)}
    for each in ast.walk(tree):
        if isinstance(each, ast.JoinedStr):
            left_out.update(map(id, each.values))
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in each.values)
        elif isinstance(each, ast.Constant) and isinstance(each.value, str) and id(each) not in left_out:
            yield each.value if " " in each.value else ""


def find_unused_words(source: str) -> list[tuple[str, str]]:
    """Each text of a module that has one, after it; an option is `--x`."""
    unused = unused_words()
    plain = (re.sub(r"`?--[a-z][a-z-]*`?", "--x", text) for text in texts_of(source))
    return [(found[0], text) for text in plain if (found := unused.search(text))]


def test_a_word_that_is_not_used_is_found():
    source = '''"""Anew, and docstrings are for others."""
hint = f"mend {file} by " "hand"
unit = "Wants=qmesh.service and so on"
say = ["pass `--replace`", "say `--replace`"]
'''
    assert sorted(find_unused_words(source)) == [("mend", "mend {} by hand"), ("say --x", "say --x")]


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_no_text_has_a_word_that_is_not_used(module):
    assert find_unused_words(module.read_text(encoding="utf-8")) == []
