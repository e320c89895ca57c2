"""What docs/reference.md says of exit codes and files, for pages that need it too: it is written once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_PAGE = Path(__file__).parents[2] / "docs/reference.md"


@dataclass(frozen=True)
class Reference:
    """The parts that man pages have.

    exit_codes: each with its meaning. everywhere: those that are possible with every command.
    files: paths with their meanings. sections: the text on each command, by name.
    """

    exit_codes: dict[str, str]
    everywhere: frozenset[str]
    files: dict[str, str]
    sections: dict[str, str]


def read_reference() -> Reference:
    """The page, read. Raises ValueError where a part is missing."""
    _, *parts = re.split(r"^## (.+)\n", _PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    codes = _read_table(sections["Exit codes"])
    sentence = re.search(r"Codes ([\d, and]+) are possible with every command", sections["Exit codes"])
    files = _read_table(sections["Where files live"])
    if not (codes and files and sentence):
        raise ValueError(f"{_PAGE} has no table of exit codes or of files any more")
    return Reference(
        exit_codes=codes,
        everywhere=frozenset(re.findall(r"\d+", sentence[1])),
        files=files,
        sections={
            title.removeprefix("qmesh "): text
            for title, text in sections.items()
            if title.startswith("qmesh ")
        },
    )


def read_exit_code_text(section: str) -> str:
    """The paragraph of a command's section that begins with an exit code; empty where it has none."""
    return next(
        (" ".join(each.split()) for each in section.split("\n\n") if each.startswith("Exit code")), ""
    )


def _read_table(section: str) -> dict[str, str]:
    rows = (re.fullmatch(r"\| (.+?) \| (.+?) \|", line) for line in section.splitlines())
    _, *cells = [(row[1], row[2]) for row in rows if row]
    return dict(cells)
