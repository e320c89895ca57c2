"""What a terminal is given: colour where it is wanted and nowhere else, lines as wide as it is."""

from __future__ import annotations

import pytest

from qmesh.cli.screen.cells import clip_line, cut_middle, measure_width, pad_text, wrap_line
from qmesh.cli.screen.spans import SGR, Span, render_lines, style_labels
from qmesh.cli.screen.terminal_traits import is_colour_wanted

XTERM = {"TERM": "xterm-256color"}


@pytest.mark.parametrize(
    ("variables", "on_terminal", "elsewhere"),
    [
        (XTERM, True, False),
        ({}, False, False),
        ({"TERM": ""}, False, False),
        ({"TERM": "dumb"}, False, False),
        ({"TERM": "linux", "NO_COLOR": ""}, True, False),
        ({"TERM": "linux", "NO_COLOR": "0"}, False, False),
        ({"TERM": "linux", "CLICOLOR": "0"}, False, False),
        ({"TERM": "linux", "CLICOLOR": "1"}, True, False),
        ({"TERM": "linux", "CLICOLOR_FORCE": "0", "FORCE_COLOR": ""}, True, False),
        ({"TERM": "dumb", "CLICOLOR_FORCE": "1"}, True, True),
        ({"FORCE_COLOR": "1", "CLICOLOR": "0"}, True, True),
        ({"FORCE_COLOR": "3", "CLICOLOR_FORCE": "1", "NO_COLOR": "1"}, False, False),
    ],
)
def test_colour_is_where_a_terminal_is_or_where_it_is_asked_for(variables, on_terminal, elsewhere):
    assert is_colour_wanted(variables, is_terminal=True) == on_terminal
    assert is_colour_wanted(variables, is_terminal=False) == elsewhere


def luminance(red: int, green: int, blue: int) -> float:
    """Relative, as WCAG 2 defines it."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (red / 255, green / 255, blue / 255)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: tuple[int, int, int], other: tuple[int, int, int]) -> float:
    dark, light = sorted((luminance(*one), luminance(*other)))
    return (light + 0.05) / (dark + 0.05)


XTERM_COLOURS = {
    30: (0, 0, 0),
    31: (205, 0, 0),
    32: (0, 205, 0),
    33: (205, 205, 0),
    34: (0, 0, 238),
    35: (205, 0, 205),
    36: (0, 205, 205),
    37: (229, 229, 229),
}


def test_colours_are_basic_ones_and_readable_on_black_and_on_white():
    for style, code in SGR.items():
        bold, *colour = map(int, code.split(";"))
        assert bold == 1, style  # large enough for a contrast of 3, by WCAG 2
        for each in colour:
            assert min(contrast(XTERM_COLOURS[each], ground) for ground in ((0, 0, 0), (255, 255, 255))) > 3
    assert contrast(XTERM_COLOURS[33], (255, 255, 255)) < 3  # what others take for a warning


def test_what_others_wrote_has_no_colour_of_its_own():
    line = (Span("\x1b[32mfine\x1b[0m\n\u202e", "error"), Span("\x9b1m"))
    assert render_lines([line], is_coloured=False) == "\\x1b[32mfine\\x1b[0m\\n\\u202e\\x9b1m"
    coloured = render_lines([line], is_coloured=True)
    assert coloured == "\x1b[1;31m\\x1b[32mfine\\x1b[0m\\n\\u202e\x1b[0m\\x9b1m"


def test_the_word_before_a_colon_has_a_style_and_what_stands_behind_it_has_none():
    lines = list(style_labels("error: a b\n  seen:   error: no\nplain\nA: b", {"error": "error"}))
    assert lines == [
        (Span(""), Span("error", "error"), Span(": a b")),
        (Span("  "), Span("seen"), Span(":   error: no")),
        (Span("plain"),),
        (Span("A: b"),),
    ]


@pytest.mark.parametrize(
    ("text", "cells"),
    [("abc", 3), ("", 0), ("\u96ea\u5c71", 4), ("e\u0301", 1), ("\uff21b", 3), ("\U0001f525", 2)],
)
def test_text_takes_as_many_cells_as_a_terminal_gives_it(text, cells):
    assert measure_width(text) == cells
    assert measure_width(pad_text(text, 6)) == 6


@pytest.mark.parametrize(
    ("text", "width", "cut"),
    [
        ("fra-1", 5, "fra-1"),
        ("abcdefghij", 7, "ab...ij"),
        ("abcdefghij", 4, "abcd"),
        ("\u96ea\u96ea\u96ea\u96ea\u96ea", 8, "\u96ea...\u96ea"),
    ],
)
def test_a_text_that_is_cut_keeps_its_beginning_and_its_end(text, width, cut):
    assert cut_middle(text, width, gap="...") == cut
    assert measure_width(cut) <= width


@pytest.mark.parametrize("width", [1, 2, 3, 7, 20, 200])
@pytest.mark.parametrize(
    "line",
    [
        (
            Span("silent", "error"),
            Span(": cores 4-7 of hel-2 (refused); on hel-2: systemctl restart qmesh-worker@4"),
        ),
        (Span("\u96ea" * 30), Span(" "), Span("x" * 40, "warning"), Span("")),
        (Span(""),),
        (Span("\x1b[2J" * 5),),
    ],
)
def test_a_line_is_wrapped_without_losing_a_word(line, width):
    def bare(spans) -> str:
        return render_lines([spans], is_coloured=False).replace(" ", "")

    lines = list(wrap_line(line, width))
    assert "".join(map(bare, lines)) == bare(line)
    assert max(measure_width(render_lines([each], is_coloured=False)) for each in lines) <= max(2, width)
    assert measure_width(render_lines([clip_line(line, width)], is_coloured=False)) <= width
