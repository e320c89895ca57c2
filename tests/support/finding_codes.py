"""The codes of findings, as the code has them."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.support.checkout import CHECKOUT

AUDIT = sorted((CHECKOUT / "qmesh/mesh/audit").rglob("*.py"))


def nodes_of_the_audit() -> Iterator[ast.AST]:
    for file in AUDIT:
        yield from ast.walk(ast.parse(file.read_text(encoding="utf-8")))


def codes_of(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """The code of each finding that is made: the first argument, or either branch of one."""
    makers = {"Finding", "error_finding", "warning_finding", "file_mode_finding", "say"}
    for call in nodes:
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or not call.args:
            continue
        if call.func.id in makers:
            constants = (node for node in ast.walk(call.args[0]) if isinstance(node, ast.Constant))
            yield from (node.value for node in constants if isinstance(node.value, str))


def findings_in_the_code() -> set[str]:
    return set(codes_of(nodes_of_the_audit()))
