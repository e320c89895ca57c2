"""Other versions of qmesh that run beside this one: the released one before it, and one that is to come.

Each is a tree of source with a virtual environment in which it comes before this checkout, whose libraries it
has. They are kept in `.cache/versions`.
"""

from __future__ import annotations

import compileall
import contextlib
import hashlib
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.support.checkout import CHECKOUT
from tests.support.skips import CANNOT

BEFORE: Final = "0.1.0", "a0a08ea2c3ddffb217f0de1bc28cd8cf4db43b1f"
"""The version before this one, and its commit in the history of this repository."""
_KEPT: Final = CHECKOUT / ".cache/versions"
_GIT: Final = ("git", "-c", "safe.directory=*", "-C", str(CHECKOUT))
"""Whoever has cloned it: nothing of the repository is run."""
_KEPT_S: Final = 86400
_PROGRAM: Final = """\
#!{python} -I
import sys
from qmesh.cli import main
sys.exit(main())
"""


class NoVersion(Exception):
    """This clone does not have it; the text says why."""


def build_before() -> Path:
    """The version before: a folder with `bin/qmesh`. Raises NoVersion where this clone does not have it."""
    number, commit = BEFORE
    asked = [*_GIT, "cat-file", "-e", f"{commit}^{{commit}}"]
    if subprocess.run(asked, check=False, capture_output=True).returncode:
        raise NoVersion(f"the history of this clone has no commit {commit[:12]}, which is version {number}")

    def fill(source: Path) -> None:
        words = [*_GIT, "archive", commit, "qmesh"]
        archive = subprocess.run(words, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", source], input=archive, check=True)

    return _build(f"{number}-{commit[:12]}", fill)


def skip_without_before() -> Path:
    """The same; where there is none, the test is skipped."""
    try:
        return build_before()
    except NoVersion as why:
        pytest.skip(f"{CANNOT}{why}")


Edit = tuple[str, str, str]
"""A file of qmesh, a text in it, and what is there instead in another version."""


def build_later(*edits: Edit) -> Path:
    """This checkout's version with changes, as a later one may have them."""
    every = (path for path in (CHECKOUT / "qmesh").rglob("*") if "__pycache__" not in path.parts)
    text = b"".join(path.read_bytes() for path in sorted(every) if path.is_file()) + repr(edits).encode()

    def fill(source: Path) -> None:
        shutil.copytree(CHECKOUT / "qmesh", source / "qmesh", ignore=shutil.ignore_patterns("__pycache__"))
        for name, old, new in edits:
            path = source / "qmesh" / name
            before = path.read_text()
            assert before.count(old) == 1, f"{name} has {old!r} {before.count(old)} times"
            path.write_text(before.replace(old, new))

    for old in _KEPT.glob("later-*"):  # of how this checkout was
        if time.time() - old.stat().st_mtime > _KEPT_S:
            shutil.rmtree(old, ignore_errors=True)
    return _build(f"later-{hashlib.sha256(text).hexdigest()[:12]}", fill)


def _build(name: str, fill: Callable[[Path], None]) -> Path:
    target = _KEPT / f"{name}-python{sys.version_info[0]}.{sys.version_info[1]}"
    python = target / "venv/bin/python"
    if not (target / "bin/qmesh").exists():
        _KEPT.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_KEPT) as folder:
            making = Path(folder) / "made"
            (making / "source").mkdir(parents=True)
            fill(making / "source")
            venv.EnvBuilder(symlinks=True).create(making / "venv")
            packages = next((making / "venv/lib").glob("python*/site-packages"))
            # Where a name is in both, the first has it.
            (packages / "versions.pth").write_text(f"{target}/source\n{sysconfig.get_path('purelib')}\n")
            (making / "bin").mkdir()
            (making / "bin/qmesh").write_text(_PROGRAM.format(python=python))
            (making / "bin/qmesh").chmod(0o755)
            compileall.compile_dir(making / "source", quiet=2, stripdir=making, prependdir=target)
            with contextlib.suppress(OSError):  # another test was quicker
                making.rename(target)
    return target
