"""What the pages have to type, as tests type it."""

from __future__ import annotations

import re
from typing import NamedTuple

from tests.support.checkout import CHECKOUT

_BLOCK = re.compile(r"([^\n]*):\n\n```sh\n(.*?)```", re.DOTALL)


class Block(NamedTuple):
    """Lines to type, and what stands before them: `On ...`, mostly."""

    where: str
    lines: tuple[str, ...]

    @property
    def machine(self) -> str | None:
        """The one machine on which it is typed."""
        named = re.match(r"On `([^`]+)`", self.where)
        return None if named is None else named[1]


def read_section(page: str, heading: str) -> str:
    """The text of a section of docs/PAGE.md, without those below it."""
    text = (CHECKOUT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found is not None, f"docs/{page}.md has no {heading!r}"
    return found[1]


def read_blocks(page: str, heading: str) -> list[Block]:
    """The blocks of shell lines of a section, in order."""
    found = _BLOCK.findall(read_section(page, heading))
    return [Block(where, tuple(lines.splitlines())) for where, lines in found]


def read_shown(page: str) -> dict[tuple[str, str], str]:
    """What a page shows that a command prints, by machine and command: the first time of each."""
    found: dict[tuple[str, str], str] = {}
    text = (CHECKOUT / page).read_text(encoding="utf-8")
    for block in re.findall(r"^```\w*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        for machine, line, output in re.findall(
            r"^([a-z]+-\d)# (.*)\n((?:(?![a-z]+-\d# ).*\n)*)", block, re.MULTILINE
        ):
            found.setdefault((machine, " ".join(line.split()[:2])), output)
    return found
