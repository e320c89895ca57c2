"""Others' code that runs as root: what it is said to be, without known holes, its licence named."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import tomllib
from pathlib import Path

import nftables
import pytest

from tests.support.checkout import CHECKOUT

DEPENDENCIES = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
OFFICIAL = "ceaa498a540861c56992f2d709dc41f0e807ada913bfb403ce72c20d47049b49"
"""SHA-256 of py/nftables.py of nftables 0.9.8 to 1.0.2, from Debian's python3-nftables 0.9.8-3.1+deb11u2."""
ADVISED = {
    "cryptography": (50, 0, 0),  # CVE-2026-69247; before: CVE-2026-39892, 26007, GHSA-537c-gmf6-5ccf
    "h11": (0, 16, 0),  # CVE-2025-43859
    "typer": (0, 28, 0),  # before, it took any click: CVE-2026-7246, which its makers dispute
}
"""The first versions above what is known, of what the agent's service and the commands are made of."""


def version(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text)))


def test_the_nftables_module_is_the_official_one_octet_by_octet():
    path = Path(str(nftables.__file__))

    assert hashlib.sha256(path.read_bytes()).hexdigest() == OFFICIAL
    # Nothing else came with it that Python would run.
    files = [
        each for each in importlib.metadata.files("pip-nftables") or [] if "__pycache__" not in each.parts
    ]
    code = {str(each) for each in files if not each.parts[0].endswith(".dist-info")}
    assert code == {"nftables.py", "__init__.py"}
    assert path.with_name("__init__.py").read_text("ascii").strip() == "from .nftables import *"


def test_no_other_version_of_that_module_is_taken():
    assert [each for each in DEPENDENCIES if each.startswith("pip-nftables")] == ["pip-nftables==1.0.2.post1"]


@pytest.mark.parametrize("name", ["README.md", "LICENSE", "docs/decisions/0040-the-nftables-module.md"])
def test_the_licence_of_that_module_is_named(name):
    text = (CHECKOUT / name).read_text("utf-8")

    assert "GPL-2.0-only" in text
    assert "nftables" in text


def test_that_module_is_under_the_licence_that_is_named():
    head = Path(str(nftables.__file__)).read_text("utf-8")[:800]

    assert "version 2 of the License" in " ".join(head.replace("#", " ").split())
    assert "any later version" not in head


@pytest.mark.parametrize("name", ADVISED)
def test_no_version_with_a_known_hole_is_taken(name):
    (floor,) = (each for each in DEPENDENCIES if re.match(rf"{name}\b", each))
    assert re.fullmatch(rf"{name}>=[\d.]+", floor)
    assert version(floor.partition(">=")[2]) >= ADVISED[name]
    for lock in ("requirements.lock", "requirements-dev.lock"):
        locked = re.search(rf"^{name}==(\S+)", (CHECKOUT / "scripts" / lock).read_text("utf-8"), re.MULTILINE)
        assert locked is not None
        assert version(locked[1]) >= ADVISED[name]


def test_nothing_is_kept_below_a_version():
    assert [each for each in DEPENDENCIES if "<" in each.partition(";")[0]] == []
