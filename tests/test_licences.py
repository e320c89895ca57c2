"""Others' code that runs as root: what it is said to be, without known holes, its licence named."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest

from tests.support.checkout import CHECKOUT

PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]
DEPENDENCIES = PROJECT["dependencies"]
ADVISED = {
    "cryptography": (50, 0, 0),  # CVE-2026-69247; before: CVE-2026-39892, 26007, GHSA-537c-gmf6-5ccf
    "h11": (0, 16, 0),  # CVE-2025-43859
    "typer": (0, 28, 0),  # before, it took any click: CVE-2026-7246, which its makers dispute
}
"""The first versions above what is known, of what the agent's service and the commands are made of."""


LOCKED = ADVISED | {
    "pyyaml": (5, 4),  # CVE-2020-14343
    # Of typer, for what a terminal shows:
    "markdown-it-py": (2, 2, 0),  # CVE-2023-26302, 26303
    "pydantic": (2, 4, 0),  # CVE-2024-3772
    "pygments": (2, 20, 0),  # CVE-2026-4539; before: CVE-2022-40896, 2021-27291, 2021-20270
    # Of tests, Ansible and releases alone:
    "ansible-core": (2, 18, 1),  # CVE-2024-11079; before: CVE-2024-8775, 9902
    "black": (26, 3, 1),  # CVE-2026-32274; before: CVE-2024-21503
    "certifi": (2024, 7, 4),  # CVE-2024-39689
    "filelock": (3, 20, 3),  # CVE-2026-22701, 2025-68146
    "idna": (3, 7),  # CVE-2024-3651
    "jaraco-context": (6, 1, 0),  # CVE-2026-23949
    "jinja2": (3, 1, 6),  # CVE-2025-27516; before: CVE-2024-56201, 56326, 34064, 22195
    "pytest": (9, 0, 3),  # CVE-2025-71176
    "requests": (2, 33, 0),  # CVE-2026-25645; before: CVE-2024-47081, 35195
    "urllib3": (2, 6, 3),  # CVE-2026-21441; before: CVE-2025-66471, 66418, 50181, 50182
    "zipp": (3, 19, 1),  # CVE-2024-5569
}
"""The same of everything that is locked, as far as it was known when this was written."""
LOCKS = sorted((CHECKOUT / "scripts").glob("*.lock"))


def version(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text)))


@pytest.mark.parametrize("name", ["README.md", "LICENSE", "docs/decisions/0103-no-module-for-nftables.md"])
def test_the_licence_of_the_systems_library_that_it_loads_is_named(name):
    text = (CHECKOUT / name).read_text("utf-8")
    assert "GPL-2.0-only" in text
    assert "libnftables" in text


def imported_by(module: Path) -> set[str]:
    """The top-level modules that one names, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


def test_each_library_that_is_installed_is_imported_and_each_that_is_imported_is_installed():
    """`compression` is Python's own from 3.14 on, in place of `backports`."""
    imported = set[str]().union(*map(imported_by, (CHECKOUT / "qmesh").rglob("*.py")))
    others = imported - {*sys.stdlib_module_names, "compression", "qmesh"}
    names = {"backports": "backports.zstd", "yaml": "pyyaml"}
    extras = chain.from_iterable(PROJECT["optional-dependencies"].values())
    needed = {re.split("[>;= ]", each)[0] for each in (*DEPENDENCIES, *extras)}
    assert {names.get(each, each) for each in others} == needed


@pytest.mark.parametrize("name", ADVISED)
def test_no_version_with_a_known_hole_is_taken(name):
    (floor,) = (each for each in DEPENDENCIES if re.match(rf"{name}\b", each))
    assert re.fullmatch(rf"{name}>=[\d.]+", floor)
    assert version(floor.partition(">=")[2]) >= ADVISED[name]
    for lock in ("requirements.lock", "requirements-dev.lock"):
        locked = re.search(rf"^{name}==(\S+)", (CHECKOUT / "scripts" / lock).read_text("utf-8"), re.MULTILINE)
        assert locked is not None
        assert version(locked[1]) >= ADVISED[name]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_no_version_with_a_known_hole_is_locked(lock):
    locked = re.findall(r"^([a-z0-9-]+)==(\S+)", lock.read_text("utf-8"), re.MULTILINE)
    assert [(name, at) for name, at in locked if version(at) < LOCKED.get(name, ())] == []


def test_each_library_with_a_known_hole_is_one_that_is_locked():
    assert LOCKED.keys() == {
        name
        for lock in LOCKS
        for name in LOCKED
        if re.search(rf"^{name}==", lock.read_text("utf-8"), re.MULTILINE)
    }


def test_nothing_is_kept_below_a_version():
    assert [each for each in DEPENDENCIES if "<" in each.partition(";")[0]] == []


def ask_what_is_inside(*words: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-I", str(CHECKOUT / "packaging/inside"), *words]
    return subprocess.run(program, capture_output=True, text=True, check=False)


def test_what_qmesh_needs_is_under_licences_that_are_allowed():
    done = ask_what_is_inside("list")
    assert (done.returncode, done.stderr) == (0, "")
    names = {line.partition(" ")[0] for line in done.stdout.splitlines()}
    assert {"clingo", "cryptography", "pydantic-core", "qmesh", "typer"} <= names


def put_package(folder: Path, name: str, licence: str, *, sbom: str = "") -> None:
    """The metadata of a package, as pip has them in a folder."""
    metadata = folder / f"{name}-1.0.dist-info"
    (metadata / "sboms").mkdir(parents=True)
    head = f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\n"
    (metadata / "METADATA").write_text(head + licence, "utf-8")
    (metadata / "sboms/sbom.json").write_text(sbom or '{"components": []}', "utf-8")
    (metadata / "RECORD").write_text(
        f"{metadata.name}/METADATA,,\n{metadata.name}/sboms/sbom.json,,\n", "utf-8"
    )


@pytest.mark.parametrize(
    ("licence", "is_allowed"),
    [
        ("License-Expression: MIT", True),
        ("License: mit", True),
        ("Classifier: License :: OSI Approved :: MIT License", True),
        ("License-Expression: Apache-2.0 OR BSD-3-Clause", True),
        ("License-Expression: (Apache-2.0 OR MIT) AND PSF-2.0", True),
        ("License-Expression: Apache-2.0", False),  # not together with GPL-2.0-only
        ("License-Expression: MIT AND Apache-2.0", False),
        ("License-Expression: GPL-2.0-only", False),  # it would ask for that of the whole
        ("License-Expression: GPL-2.0-or-later", False),
        ("License-Expression: LGPL-2.1-or-later", False),
        ("License-Expression: MIT OR GPL-2.0-only", True),
        ("License-Expression: AGPL-3.0-only", False),
        ("License: a friendly one", False),
        ("Classifier: License :: OSI Approved :: BSD License", False),  # which of them?
        ("Summary: nothing said", False),
    ],
)
def test_another_licence_is_refused_with_the_name_of_who_has_it(tmp_path, licence, is_allowed):
    put_package(tmp_path, "frob", licence)
    done = ask_what_is_inside("list", str(tmp_path))
    assert done.returncode == (0 if is_allowed else 1)
    assert ("frob 1.0" in done.stderr) is not is_allowed


@pytest.mark.parametrize("licence", ["GPL-2.0-only", "GPL-3.0-only"])
def test_a_licence_of_what_a_wheel_has_compiled_in_counts_too(tmp_path, licence):
    part = f'{{"name": "hidden", "version": "7", "licenses": [{{"license": {{"id": "{licence}"}}}}]}}'
    sbom = f'{{"components": [{part}]}}'
    for name in ("another", "beside", "common", "different"):
        put_package(tmp_path, name, "License-Expression: MIT")
    put_package(tmp_path, "frob", "License-Expression: MIT", sbom=sbom)
    done = ask_what_is_inside("list", str(tmp_path))
    assert done.returncode == 1
    assert f"hidden 7 in frob: {licence}" in done.stderr


def test_words_after_an_expression_are_not_passed_over(monkeypatch):
    folder = CHECKOUT / "packaging/inside"
    monkeypatch.syspath_prepend(folder)
    is_allowed = runpy.run_path(str(folder / "allowed.py"))["is_allowed"]
    assert is_allowed("MIT AND (ISC OR GPL-3.0-only)")
    for text in ("MIT GPL-3.0-only", "(MIT) GPL-3.0-only", "MIT)", "(MIT", ""):
        assert not is_allowed(text)


def test_the_copyright_file_has_each_library_with_its_holder_and_its_text():
    text = ask_what_is_inside("copyright").stdout
    stanzas = [re.split(r"\n(?=\S)", stanza.strip()) for stanza in text.split("\n\n")]
    fields = [dict(field.split(":", 1) for field in stanza) for stanza in stanzas]
    assert all(
        set(each) in ({"License"}, {"Format", "Upstream-Name", "Comment"}) or each["Copyright"].strip()
        for each in fields
    )
    of = {place: each for each in fields for place in each.get("Files", "").split()}
    assert of["*"]["Copyright"] == " 2026 the qmesh authors"
    site = "usr/lib/qmesh/lib/python*/site-packages"
    assert "Permission is hereby granted" in of[f"{site}/h11/*"]["License"]
    assert "\n openssl " in of[f"{site}/cryptography/*"]["Comment"]
    # Whose wheel does not list it, and the MIT licence asks for its holder's name.
    assert re.search(r"\n clasp [\d.]+ \(MIT\) Copyright \(c\) ", of[f"{site}/clingo/*"]["Comment"])
    assert "/usr/share/common-licenses/Apache-2.0" in text
    # And what the program loads of the system's.
    assert "libnftables" in fields[0]["Comment"]
    assert "GPL-2.0-only" in fields[0]["Comment"]
    assert len(text) < 200_000
