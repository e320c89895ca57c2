"""Where there is no systemd, no text tells an operator to type one of its commands."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.checkout import CHECKOUT

PACKAGE = CHECKOUT / "qmesh"
PROGRAMS = re.compile(r"\b(?:systemctl|journalctl)\b")
ALLOWED = {
    "mesh/systemd/instructions.py": "the one place that words it",
    "host/system/systemd.py": "runs it, and is only asked where systemd runs",
}


def texts_of(module: Path) -> Iterator[tuple[int, str]]:
    """What a module may say, by line: its strings, but for docstrings and the examples of `--help`."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    silent: set[ast.AST] = set()
    for node in ast.walk(tree):
        examples = isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "EXAMPLES" for target in node.targets
        )
        if examples or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            silent.update(ast.walk(node))
    for node in ast.walk(tree):
        if node not in silent and isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def test_one_module_names_the_programs_of_systemd_in_what_is_said():
    saying = {
        f"{name}:{line}"
        for module in sorted(PACKAGE.rglob("*.py"))
        if (name := str(module.relative_to(PACKAGE))) not in ALLOWED
        for line, text in texts_of(module)
        if PROGRAMS.search(text)
    }
    assert not saying, "ask qmesh/mesh/systemd/instructions.py for the words"
