"""scripts/package: what it refuses, and what versions it gives. tests/test_package_deb.py makes packages."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.checkout import CHECKOUT


def package(*words: str) -> tuple[int, str, str]:
    done = subprocess.run([CHECKOUT / "scripts/package", *words], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_it_lists_what_it_can_make():
    status, output, errors = package("--help")
    assert (status, errors) == (0, "")
    listed = set(re.findall(r"^  (\w+) +\S", output, flags=re.MULTILINE))
    assert listed == {
        each.name
        for each in (CHECKOUT / "packaging").iterdir()
        if each.is_file() and os.access(each, os.X_OK)
    }


@pytest.mark.parametrize("words", [(), ("nosuch",), ("--nosuch",), ("debian",), ("../scripts/check",)])
def test_what_it_cannot_make_is_refused_with_what_it_can(words):
    status, output, errors = package(*words)
    assert (status, output) == (2, "")
    assert errors == package("--help")[1]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("buster",), "there are no packages for 'buster'"),
        (("--arch", "i386"), "there are no packages for 'i386'"),
        (("trixie", "--output"), "--output without a value"),
        (("--nosuch",), "there is no option --nosuch"),
    ],
)
def test_packages_that_there_are_not_are_refused_before_anything_is_made(words, error):
    status, output, errors = package("deb", *words)
    assert (status, output) == (2, "")
    assert errors.splitlines()[0] == f"error: {error}"
    assert errors.splitlines()[1].startswith("hint: ")


def test_a_commit_is_newer_than_its_version_and_older_than_the_next(tmp_path):
    def git(*words: str) -> str:
        settings = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        words = ("git", "-C", str(tmp_path), *settings, *words)
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()

    def version(*words: str) -> str:
        done = subprocess.run([tmp_path / "packaging/version", *words], capture_output=True, check=True)
        return done.stdout.decode().strip()

    (tmp_path / "packaging").mkdir()
    (tmp_path / "qmesh").mkdir()
    shutil.copy(CHECKOUT / "packaging/version", tmp_path / "packaging")
    Path(tmp_path, "qmesh/__init__.py").write_text('"""x"""\n\n__version__ = "0.9.0"\n')
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "x", "--date", "2026-01-01T00:00:00Z")

    plain = version()
    assert re.fullmatch(r"0\.9\.0\+git20\d{12}\.[0-9a-f]{8}", plain)
    assert plain.endswith(git("rev-parse", "--short=8", "HEAD"))
    assert version("--release") == "0.9.0"
    git("tag", "v0.9.0")
    assert version() == "0.9.0"

    order = ["0.9.0-1~deb12", "0.9.0-1~deb13", f"{plain}-1~deb12", f"{plain}-1~deb13", "0.10.0-1~deb12"]
    for older, newer in itertools.pairwise(order):
        assert subprocess.run(["dpkg", "--compare-versions", older, "lt", newer], check=False).returncode == 0
