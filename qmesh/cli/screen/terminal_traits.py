"""What standard output can show: colour, how many lines of how many cells, which characters.

Source: no-color.org, force-color.org, bixense.com/clicolors, and terminfo's name `dumb`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import NamedTuple


class TerminalTraits(NamedTuple):
    """width, height: in cells, and None where it is no terminal: then nothing is cut.

    has_cursor: whether what it shows can be replaced in place.
    gap: what stands for text that was left out.
    has_boxes: whether its encoding has the characters that boxes are drawn with.
    """

    width: int | None = None
    height: int | None = None
    is_coloured: bool = False
    has_cursor: bool = False
    gap: str = "..."
    has_boxes: bool = True


def read_terminal_traits() -> TerminalTraits:
    """Those of standard output, as it is at this moment."""
    is_terminal = sys.stdout.isatty()
    width, height = _read_size() if is_terminal else (None, None)
    return TerminalTraits(
        width,
        height,
        is_coloured=is_colour_wanted(os.environ, is_terminal=is_terminal),
        has_cursor=is_terminal and not _is_dumb(os.environ),
        gap="\N{HORIZONTAL ELLIPSIS}" if _can_encode("\N{HORIZONTAL ELLIPSIS}") else "...",
        has_boxes=_can_encode("\N{BOX DRAWINGS LIGHT ARC DOWN AND RIGHT}"),
    )


def is_colour_wanted(variables: Mapping[str, str], *, is_terminal: bool) -> bool:
    """Whether text is to have colour. NO_COLOR is stronger than what asks for it without a terminal."""
    if variables.get("NO_COLOR"):
        return False
    if any(variables.get(name) not in {None, "", "0"} for name in ("FORCE_COLOR", "CLICOLOR_FORCE")):
        return True
    return is_terminal and variables.get("CLICOLOR") != "0" and not _is_dumb(variables)


def _is_dumb(variables: Mapping[str, str]) -> bool:
    return variables.get("TERM") in {None, "", "dumb"}


def _read_size() -> tuple[int, int]:
    """Of the kernel, which knows when a window is made larger; a serial line has none, so 80 by 24."""
    try:
        size = os.get_terminal_size(1)
    except OSError:
        return 80, 24
    return size.columns or 80, size.lines or 24


def _can_encode(character: str) -> bool:
    try:
        character.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return False
    return True
