"""The words that are not used in what an operator reads: the glossary's table, and how it is searched for."""

from __future__ import annotations

import re
from pathlib import Path

GLOSSARY = Path(__file__).resolve().parents[2] / "docs/glossary.md"
NOT_USED = "## Words that are not used"


def words_that_are_not_used() -> list[str]:
    """The first column of the glossary's table, without what is in brackets."""
    table = GLOSSARY.read_text(encoding="utf-8").partition(NOT_USED)[2]
    cells = re.findall(r"^\| (.+?) \| .+ \|$", table, flags=re.MULTILINE)[1:]
    bare = (re.sub(r" *\([^)]*\)|`", "", cell) for cell in cells)
    return [word.strip() for cell in bare for word in cell.split(",")]


def is_used(word: str, text: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text, flags=re.IGNORECASE) is not None
