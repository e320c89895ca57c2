"""What `--help` shows, in what is wide, narrow, coloured, or without the characters of boxes."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import pytest
import typer

from qmesh.cli.app import COMMANDS, load_command
from qmesh.cli.screen.help_page import HelpBox, HelpPage, HelpRow, build_help_lines, read_help_page
from qmesh.cli.screen.spans import render_lines
from qmesh.cli.screen.terminal_traits import TerminalTraits

PAGE = HelpPage(
    usage="Usage: qmesh dig [OPTIONS] HOLE",
    paragraphs=("Dig a hole.", "It is as deep as was asked for, " + "and deeper " * 9 + "still."),
    boxes=(
        HelpBox("Arguments", (HelpRow("HOLE <str>", "Which one."),)),
        HelpBox(
            "Options",
            (HelpRow("--to <int>", "How deep."), HelpRow("--a-very-long-one / --no-very-long-one", "x")),
        ),
        HelpBox("Commands", (HelpRow("dig-deeper-than", "So."),)),
    ),
    ending=("Examples:", "  qmesh dig well", "  qmesh dig pit --to 3"),
)


def drawn(page: HelpPage, traits: TerminalTraits) -> list[str]:
    return render_lines(build_help_lines(page, traits), is_coloured=False).split("\n")


def test_a_page_as_it_is_drawn_in_forty_cells():
    assert drawn(PAGE, TerminalTraits(20)) == [
        "",
        " Usage: qmesh dig [OPTIONS] HOLE",
        "",
        " Dig a hole.",
        "",
        " It is as deep as was asked for, and",
        " deeper and deeper and deeper and",
        " deeper and deeper and deeper and",
        " deeper and deeper and deeper still.",
        "",
        "╭─ Arguments ──────────────────────────╮",
        "│ HOLE <str>       Which one.          │",
        "╰──────────────────────────────────────╯",
        "╭─ Options ────────────────────────────╮",
        "│ --to <int>          How deep.        │",
        "│ --a-very-long-one /                  │",
        "│ --no-very-long-one                   │",
        "│                     x                │",
        "╰──────────────────────────────────────╯",
        "╭─ Commands ───────────────────────────╮",
        "│ dig-deeper-than  So.                 │",
        "╰──────────────────────────────────────╯",
        "",
        " Examples:",
        "",
        "   qmesh dig well",
        "   qmesh dig pit --to 3",
    ]


def test_boxes_are_of_what_an_encoding_has():
    lines = drawn(PAGE, TerminalTraits(has_boxes=False))
    assert "+- Arguments " + "-" * 66 + "+" in lines
    assert all(line.isascii() for line in lines)


@pytest.mark.parametrize("width", [None, 1, 40, 57, 80, 100, 300])
@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_of_each_command_fits_and_says_all(name, width):
    """Examples alone may be longer: they are copied."""
    command = load_command(name)
    page = read_help_page(command, typer.Context(command, info_name=name))
    lines = drawn(page, TerminalTraits(width))
    room = max(40, min(100, width or 80))
    assert all(len(line) <= room for line in lines if not line.startswith("   ") or "qmesh" not in line)
    boxed = [line for line in lines if line[:1] in set("╭│╰")]
    assert {len(line) for line in boxed} == {room}
    said = " ".join(" ".join(line.strip("│ ") for line in lines).split())
    for row in itertools.chain.from_iterable(box.rows for box in page.boxes):
        words = f"{row.name} {row.text}".split()
        assert set(words) <= set(said.split()) or max(map(len, words)) > room / 2 - 4
    for example in page.ending[1:]:
        assert f" {example}" in lines


def test_options_that_belong_together_have_a_box_of_their_own():
    command = load_command("set")
    page = read_help_page(command, typer.Context(command, info_name="set"))
    title_of = {row.name.split()[0]: box.title for box in page.boxes for row in box.rows}
    assert title_of["NAME"] == "Arguments"
    assert title_of["--json"] == "Options"
    assert title_of["--workers"] == "Options for one machine, with NAME"
    assert title_of["--node"] == "Options for the whole mesh, without NAME"


def test_a_terminal_has_names_and_titles_bold_and_nothing_else_has():
    program = [sys.executable, "-m", "qmesh", "pause", "--help"]
    variables = {"PATH": os.environ["PATH"], "TERM": "xterm"}
    piped = subprocess.run(program, capture_output=True, text=True, check=True, env=variables).stdout
    forced = subprocess.run(
        program, capture_output=True, text=True, check=True, env=variables | {"FORCE_COLOR": "1"}
    ).stdout
    assert "\x1b" not in piped
    assert "\x1b[1m--json\x1b[0m" in forced
    assert forced.replace("\x1b[1m", "").replace("\x1b[0m", "") == piped
