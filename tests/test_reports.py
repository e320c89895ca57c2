"""Whoever sees only the end of a run learns which tests failed, and how each began to say why."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from typing import Any

import pytest

from tests.support.checkout import CHECKOUT

TESTS = r"""
import pytest

@pytest.fixture
def broken():
    raise RuntimeError("the lab is gone")

class TestWords:
    @pytest.mark.parametrize("word", ["a"])
    def test_words(self, word):
        assert word == "b\x1b[31m\u202e", f"line one \x9b\u202e\n\nline two\nline three\nline four"

def test_set_up(broken):
    pass

def test_left_out():
    pytest.skip("this machine cannot")

def test_good():
    pass

@pytest.mark.parametrize("number", range(30))
def test_many(number):
    assert not number, "x" * 500
"""


def run(*words: Any, **how: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False, **how)


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "tests/lab").mkdir(parents=True)
    (folder / "pyproject.toml").write_text("[tool.pytest.ini_options]\nmarkers = []\n", encoding="utf-8")
    (folder / "tests/lab/test_these.py").write_text(TESTS, encoding="utf-8")
    (folder / "tests/test_no_python.py").write_text("import nothing_of_that_name\n", encoding="utf-8")
    alone = ("-p", "no:randomly", "--continue-on-collection-errors", f"--junitxml={folder}/shared.xml")
    run(sys.executable, "-m", "pytest", *alone, cwd=folder)
    return run(sys.executable, "-m", "tests.support.reports", folder, "12", "mesh", cwd=CHECKOUT)


def test_the_end_says_what_failed_and_why(said):
    assert (said.returncode, said.stderr) == (0, "")
    *times, failed, counts = said.stdout.rstrip("\n").split("\n\n")
    assert counts == "2 passed, 32 failed, 1 skipped"
    assert times[-1].endswith("\nall of it took 12 s")
    lines = failed.splitlines()
    assert lines[:3] == [
        "what failed:",
        "the process mesh did not end as it should",
        "tests/lab/test_these.py::TestWords::test_words[a]",
    ]
    assert lines[3].startswith("    AssertionError: line one")
    assert lines[4:6] == ["    line two", "    line three"]
    assert lines[6].startswith("tests/lab/test_these.py::test_many[")
    assert lines[-1] == "and 7 more"


def test_what_failed_is_short_and_has_no_control_characters(said):
    assert "\x1b" not in said.stdout
    assert all(line.isprintable() and len(line) <= 150 for line in said.stdout.splitlines())
    assert len(said.stdout.splitlines()) < 150


@pytest.fixture
def ci(tmp_path):
    """.ci/run with stand-ins for all that it calls, which say what their files have."""
    for name in (".ci/run", ".ci/readme", "scripts/fresh", "scripts/package"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("#!/bin/sh\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    shutil.copy(CHECKOUT / ".ci/run", tmp_path / ".ci/run")
    root = "for w; do echo $w: so far; echo ended=$w=$([ $w != pipx ]; echo $?); done\n"
    (tmp_path / "scripts/fresh").write_text("#!/bin/sh\nshift 2\n" + root, encoding="utf-8")
    package = 'mkdir -p "$2"\nset -- $QMESH_CI_PARTS\n' + root
    (tmp_path / "scripts/package").write_text("#!/bin/sh\n" + package, encoding="utf-8")

    def run_ci(tests):
        (tmp_path / "said").write_text(tests, encoding="utf-8")
        (tmp_path / ".ci/readme").write_text("#!/bin/sh\ncat said\nexit 1\n", encoding="utf-8")
        done = run(".ci/run", cwd=tmp_path)
        assert done.returncode == 1
        return done.stdout.split("\n=== what ran ===\n")[1]

    return run_ci


def test_the_last_lines_of_ci_have_what_failed(ci, said):
    end = ci("what failed:\nof a test's own\n\n" + said.stdout)
    failed = said.stdout.split("\nwhat failed:\n")[1].split("\n\n")[0]
    lines = [f"    {line}"[:154] for line in failed.splitlines()]
    assert "\nhere: the README's test command ended with 1\n" + "\n".join(lines) + "\nin a root" in end
    assert "of a test's own" not in end


def test_the_last_lines_of_ci_say_how_far_it_came(ci):
    """Where it ended before any test, as by what ruff found."""
    end = ci("".join(f"line {number}\n" for number in range(30)) + "\nno \x1b[31mgood\n")
    assert "ended with 1\n    line 22\n" in end
    assert "\n    line 29\n    no ?[31mgood\nin a root of " in end


def test_the_last_lines_of_ci_have_what_a_root_said_last(ci):
    end = ci("")
    assert re.search(r"\nin a root of forky: pipx ended with 1\n(    .*\n)*    pipx: so far\nall of", end)
