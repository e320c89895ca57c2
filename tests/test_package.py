"""scripts/package: what it refuses, what versions it gives, and what it writes for dpkg.

tests/test_package_deb.py makes whole packages.
"""

from __future__ import annotations

import gzip
import importlib.util
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


@pytest.fixture
def build_package():
    path = CHECKOUT / "packaging/debian/build_package.py"
    spec = importlib.util.spec_from_file_location("build_package", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_package_has_what_qmesh_needs_and_not_what_it_is_built_with(build_package):
    lock = (CHECKOUT / "scripts/requirements.lock").read_text("utf-8")
    locked = set(re.findall(r"^([\w-]+)==", lock, flags=re.MULTILINE))
    for machine in build_package.MACHINES.values():
        needed = build_package.list_needed(machine)
        assert {"cffi", "clingo", "cryptography", "msgspec", "typer"} < needed < locked
        assert not needed & {"hatchling", "editables", "packaging", "pip"}


def test_dpkg_is_told_what_is_in_it_whatever_the_umask(build_package, tmp_path):
    root = tmp_path / "root"
    previous = os.umask(0o077)
    try:
        build_package.write(root / "usr/bin/qmesh", "x" * 1025, mode=0o755)
        build_package.write(root / "usr/lib/qmesh/a/module.so", "", mode=0o755)
        (root / "usr/lib/qmesh/link").symlink_to("nowhere")
        (root / "usr/lib/qmesh/program").symlink_to("../../bin/qmesh")
        build_package.control(root, "0.9.0-1~deb12", "arm64")
        build_package.settle(root, 1_000_000_000)
    finally:
        os.umask(previous)

    fields = dict(
        re.findall(r"^([\w-]+): (.*)$", (root / "DEBIAN/control").read_text("utf-8"), flags=re.MULTILINE)
    )
    assert (fields["Version"], fields["Architecture"]) == ("0.9.0-1~deb12", "arm64")
    # 2 KiB of one file and none of the other, 5 folders and 2 links.
    assert fields["Installed-Size"] == "9"
    assert "$" not in "".join(fields.values())
    assert (root / "DEBIAN/md5sums").read_text("utf-8").splitlines() == [
        "41b2b8ce59ecc0c64c9c7ecaae3002c3  usr/bin/qmesh",
        "d41d8cd98f00b204e9800998ecf8427e  usr/lib/qmesh/a/module.so",
    ]
    scripts = {each.name for each in (root / "DEBIAN").iterdir()} - {"control", "md5sums"}
    assert scripts == {each.suffix[1:] for each in (CHECKOUT / "packaging/debian").glob("qmesh.p*")}
    modes = {str(each.relative_to(root)): each.lstat().st_mode & 0o777 for each in root.rglob("*")}
    assert {name for name, mode in modes.items() if mode == 0o644} == {
        *("DEBIAN/control", "DEBIAN/md5sums", "usr/lib/qmesh/a/module.so")
    }
    assert set(modes.values()) == {0o644, 0o755, 0o777}
    assert {each.lstat().st_mtime for each in root.rglob("*")} == {1_000_000_000}


def test_what_is_beside_the_environment_is_all_there_and_can_be_read(build_package, monkeypatch, tmp_path):
    """But for the texts of commands, of which tests/test_command_texts.py tells."""
    ran: list[tuple[object, ...]] = []

    def make_page(*words: object) -> None:
        ran.append(words)
        build_package.write(tmp_path / "usr/share/man/man8/qmesh.8", "page")

    monkeypatch.setattr(build_package, "run", make_page)
    build_package.place_files(tmp_path, "trixie", "0.9.0-1~deb13", 1_000_000_000)
    assert [words[-2:] for words in ran] == [(CHECKOUT / "packaging/command_texts", tmp_path / "usr/share")]
    program = tmp_path / "usr/bin/qmesh"
    assert program.stat().st_mode & 0o777 == 0o755
    assert program.read_text("utf-8").startswith("#!/usr/lib/qmesh/bin/python -I\n")
    documents = tmp_path / "usr/share/doc/qmesh"
    assert {each.name for each in documents.iterdir()} == {
        *("README.md", "SECURITY.md", "docs", "changelog.gz", "changelog.Debian.gz")
    }
    said = gzip.decompress((documents / "changelog.Debian.gz").read_bytes()).decode()
    assert said.startswith("qmesh (0.9.0-1~deb13) trixie; urgency=medium\n")
    assert said.endswith("  Sun, 09 Sep 2001 01:46:40 +0000\n")
    assert (
        gzip.decompress((documents / "changelog.gz").read_bytes()) == (CHECKOUT / "CHANGELOG.md").read_bytes()
    )
    assert [each.name for each in (tmp_path / "usr/share/man/man8").iterdir()] == ["qmesh.8.gz"]
    assert (tmp_path / "usr/share/lintian/overrides/qmesh").exists()
