"""docs/performance.md has what scripts/bench printed, as it prints it."""

from __future__ import annotations

import ast
import importlib
import re
from typing import Any

import pytest

from tests.support.checkout import CHECKOUT

PAGE = (CHECKOUT / "docs/performance.md").read_text(encoding="utf-8")
COMMANDS = ("sudo ./scripts/bench", "sudo ./scripts/bench --kernel")


@pytest.fixture
def bench(monkeypatch) -> Any:
    monkeypatch.syspath_prepend(CHECKOUT / "scripts")
    return importlib.import_module("bench")


def printed_by(command: str) -> str:
    """What the page has of a command."""
    found: list[str] = re.findall(
        rf"<!-- printed by `{command}` -->\n(.*?)\n<!-- so far -->", PAGE, re.DOTALL
    )
    (printed,) = found
    return printed


def test_what_is_printed_takes_the_place_of_what_was(bench):
    page = "".join(
        f"{command}:\n<!-- printed by `{command}` -->\nold\n<!-- so far -->\n" for command in COMMANDS
    )
    assert bench.put_into(page, COMMANDS[0], "new") == page.replace("old", "\nnew", 1)
    assert bench.put_into(page, COMMANDS[1], "new") == page[::-1].replace("dlo", "wen\n", 1)[::-1]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_is_put_together_again_from_what_it_has(bench, command):
    assert bench.put_into(PAGE, command, printed_by(command).removeprefix("\n")) == PAGE


@pytest.mark.parametrize("command", COMMANDS)
def test_each_section_is_of_a_row_that_there_is(bench, command):
    first, *sections = printed_by(command).split("\n### ")
    assert re.fullmatch(r"\n\d{4}-\d\d-\d\d: \d+ x .+, Linux .+, Python 3\..+\n", first)
    names = [section.partition("\n")[0] for section in sections]
    rows = bench.OF_THE_KERNEL if "--kernel" in command else bench.ROWS
    assert names == [name for name in rows if name in names]
    for name, section in zip(names, sections, strict=True):
        row = (CHECKOUT / f"scripts/benchmarks/{name}.py").read_text(encoding="utf-8")
        about = ast.get_docstring(ast.parse(row))
        assert section.startswith(
            f"{name}\n\n{about}\n\n| work | size | qmesh | instead | ratio | must be | |\n"
        )


def figure(bench: Any, unit: str, *, kept: bool | None) -> Any:
    return bench.Figure("work", "9", 9, None, unit, "< 9", kept)


@pytest.mark.parametrize(
    ("unit", "kept", "judged", "as_it_must_be"),
    [
        ("ms", True, True, True),
        ("ms", None, True, True),
        ("ms", False, True, False),
        ("ms", False, False, True),
        ("", True, False, True),
        ("", False, False, False),
        ("", False, True, False),
    ],
)
def test_what_was_counted_is_judged_in_any_case_and_times_are_of_a_whole_run(
    bench, unit, kept, judged, as_it_must_be
):
    answer = bench.Answer("About.", "2 x that", [figure(bench, unit, kept=kept)])
    part = bench.section("row", [answer], ({"runs": 1},), judged=judged)
    assert part.kept is as_it_must_be
    assert ("NOT kept" in part.text) is not as_it_must_be


@pytest.mark.parametrize(
    ("ours", "judged", "as_it_must_be"), [(10, True, True), (15, True, False), (15, False, True)]
)
def test_growth_is_judged_by_how_much_larger_the_mesh_is(bench, ours, judged, as_it_must_be):
    figures = [bench.Figure("work", "", value, None, "ms", "", None, "work") for value in (1, ours)]
    answers = [bench.Answer("About.", "2 x that", [each]) for each in figures]
    part = bench.section("row", answers, ({"members": 500}, {"members": 5000}), judged=judged)
    assert part.kept is as_it_must_be
    assert f"| work | {ours}.0 x |  | <= 10 x |" in part.text
