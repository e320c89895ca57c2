"""What those who change qmesh are told to run is there, and hooks fetch nothing."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parents[1]
PAGE = (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8")
(REPOSITORY,) = yaml.safe_load((CHECKOUT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
HOOKS = {hook["id"]: hook for hook in REPOSITORY["hooks"]}
FILES = ("scripts", "tests", "qmesh", "docs")


def checks() -> list[str]:
    """The checks that scripts/check has, as it says itself."""
    words = [str(CHECKOUT / "scripts/check"), "no-such-check"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    return re.findall(r"\w+", done.stderr.partition("[")[2])


def test_the_page_names_no_file_that_is_not_there():
    named = re.findall(rf"\b((?:{'|'.join(FILES)})/[\w./-]*\w)", PAGE)
    assert {"scripts/check", "scripts/test-unit", "tests/test_documents.py"} <= set(named)
    assert [name for name in named if "NAME" not in name and not (CHECKOUT / name).exists()] == []


def test_the_page_names_no_name_that_the_code_lacks():
    files = [path for folder in ("qmesh", "tests") for path in (CHECKOUT / folder).rglob("*.py")]
    words = {word for path in files for word in re.findall(r"\w+", path.read_text(encoding="utf-8"))}
    spans = [span for span in re.findall(r"`([^`\n]+)`", PAGE) if "/" not in span]
    named = set(re.findall(r"\b(?:_?[a-z]+_\w+|[A-Z][a-z]+[A-Z]\w*|[A-Z_]{5,})\b", " ".join(spans)))
    assert {"AuditContext", "error_finding", "PRECONDITIONS"} <= named
    assert {name for name in named if not any(word.startswith(name) for word in words)} == set()


def test_hooks_are_scripts_of_this_checkout():
    assert REPOSITORY["repo"] == "local"
    assert {hook["language"] for hook in HOOKS.values()} == {"system"}
    for hook in HOOKS.values():
        assert os.access(CHECKOUT / hook["entry"].split()[0], os.X_OK)
        assert hook["pass_filenames"] is False


def test_hooks_run_each_check_once():
    entries = [hook["entry"].split() for hook in HOOKS.values()]
    run = [name for script, *names in entries if script == "scripts/check" for name in names]
    assert sorted(run) == sorted(checks())


@pytest.mark.parametrize(
    ("hook", "name", "fits"),
    [
        ("python", "qmesh/mesh/machine.py", True),
        ("python", "pyproject.toml", True),
        ("python", "docs/reference.md", False),
        ("shell", "scripts/check", True),
        ("shell", ".ci/run", True),
        ("shell", "scripts/kernel/guest/job", True),
        ("shell", "scripts/demo.py", False),
    ],
)
def test_a_hook_is_run_for_the_files_that_it_is_about(hook, name, fits):
    wanted, left_out = HOOKS[hook]["files"], HOOKS[hook].get("exclude", "^$")
    assert bool(re.search(wanted, name) and not re.search(left_out, name)) is fits
