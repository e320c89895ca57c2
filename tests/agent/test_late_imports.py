"""What lives as long as its machine imports nothing late: an upgrade may have replaced the file by then."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkout import CHECKOUT

LOAD = "from qmesh.agent.daemon import late_imports; late_imports.load_modules()"
PROGRAMS = {
    "agent": f"import qmesh.agent.daemon.main; {LOAD}",
    "hold": "import qmesh.host.firewall.holder",
    "undo": f"import qmesh.agent.rollback; {LOAD}",
}
"""As `qmesh.cli.entrypoints` loads them."""
COMMON = "; import qmesh.cli, qmesh.cli.entrypoints, qmesh.cli.errors, qmesh.host.log.log_file"
BEFORE = {"qmesh.cli", "qmesh.cli.entrypoints"}
"""Modules that import within functions what is loaded before any of it runs, or by another process."""


def loaded(name: str) -> dict[str, str]:
    """The modules of such a process at its start, with their files; of Python itself none."""
    script = (
        f"{PROGRAMS[name]}{COMMON}; import json, sys;"
        "print(json.dumps({name: getattr(it, '__file__', None) or '' for name, it in sys.modules.items()}))"
    )
    said = subprocess.run([sys.executable, "-I", "-c", script], check=True, capture_output=True, text=True)
    found: dict[str, str] = json.loads(said.stdout)
    return found


def late_imports(path: Path) -> set[str]:
    """Modules that functions of a file import, as far as they are ours or a library's."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    found: set[str] = set()
    for node in (inner for function in functions for inner in ast.walk(function)):
        if isinstance(node, ast.Import):
            found.update(each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{each.name}" for each in node.names]
            found.update(name if is_module(name) else node.module for name in names)
    return {name for name in found if name.partition(".")[0] not in sys.stdlib_module_names}


def is_module(name: str) -> bool:
    return (CHECKOUT / name.replace(".", "/")).with_suffix(".py").exists() or (
        CHECKOUT / name.replace(".", "/") / "__init__.py"
    ).exists()


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_process_that_lives_long_has_at_its_start_what_its_functions_import(name):
    found = loaded(name)
    ours = {each for each in found if each.partition(".")[0] == "qmesh"} - BEFORE
    assert len(ours) > 10
    missing = {
        (module, late) for module in ours for late in late_imports(Path(found[module])) if late not in found
    }
    assert missing == set()


def test_late_imports_are_seen():
    path = CHECKOUT / "qmesh/agent/control_client.py"
    assert late_imports(path) == {"qmesh.host.api.client"}
    assert importlib.util.find_spec("qmesh.host.api.client")
