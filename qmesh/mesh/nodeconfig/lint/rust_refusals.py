"""What the loader of the node in Rust refuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from qmesh.mesh.nodeconfig.document import (
    BOM,
    Mapping,
    Mark,
    Node,
    ParsedConfig,
    Scalar,
    resolve_alias,
)
from qmesh.mesh.nodeconfig.known_keys import KnownKey, known_sections
from qmesh.mesh.nodeconfig.lint.problems import Problem, build_refusal
from qmesh.mesh.nodeconfig.lint.refusal_reasons import (
    WRITTEN_SECTIONS,
    build_form_refusal,
    build_root_refusal,
    build_section_refusal,
    list_written_values,
)
from qmesh.mesh.nodeconfig.lint.rust_values import fits_rust, is_rust_empty, is_rust_null
from qmesh.mesh.nodeconfig.lint.visits import Visits
from qmesh.mesh.nodeconfig.parse import has_one_document_behind_bom

_MAY_BE_NULL: Final = frozenset({"logger", "proofWorker"})


def find_rust_refusals(config: ParsedConfig) -> Iterator[Problem]:
    """All that the node in Rust does not load the file for."""
    root = config.root
    if config.text.startswith(BOM) and not has_one_document_behind_bom(config.text):
        message = "the file begins with a byte order mark, and the node does not load it"
        is_one = not config.text.startswith(BOM * 2)
        usual = (
            "run `qmesh render-config --write`, which removes the mark" if is_one else "save it without marks"
        )
        yield build_refusal(Mark(0, 0, 0), "unreadable", message, usual, cured=is_one)
    for oddity in config.oddities:
        if oddity.is_rusts:
            yield build_refusal(oddity.mark, "unreadable", oddity.problem, oddity.hint)
    if isinstance(root, Mapping):
        yield from _RustReader().read_section("", root)
    elif root is not None and not is_rust_empty(root):
        yield build_root_refusal(root)


class _RustReader:
    """The file as a node in Rust reads it, to which two spellings are one key, and that twice is refused."""

    def __init__(self) -> None:
        self._sections = known_sections("2.1-rust")
        self._written = list_written_values("2.1-rust")
        self._visits = Visits()

    def read_section(self, path: str, section: Mapping) -> Iterator[Problem]:
        known = self._sections[path]
        if not self._visits.is_first(path, section):
            return
        first: dict[str, Scalar] = {}
        for key, value in section.pairs:
            found = known.get(key.value)
            if found is None:
                continue
            problems = list(self._read_value(path, key, found, value))
            before = first.setdefault(found.name, key)
            if before is not key:
                problems.append(_build_twice_refusal(key, before))
            for problem in problems:
                yield problem.as_warning() if found.is_newer else problem

    def _read_value(self, path: str, key: Scalar, known: KnownKey, value: Node) -> Iterator[Problem]:
        if known.form is not None:
            if not self._visits.ask(fits_rust, known.form, value):
                is_written = (path, key.value) in self._written
                yield build_form_refusal(key, known.form, value, is_written=is_written)
            return
        below = resolve_alias(value)
        if isinstance(below, Mapping):
            yield from self.read_section(f"{path}.{key.value}".lstrip("."), below)
        elif not is_rust_empty(below) and not (known.name in _MAY_BE_NULL and is_rust_null(below)):
            is_written = not path and key.value in WRITTEN_SECTIONS
            yield build_section_refusal(key, value, is_written=is_written)


def _build_twice_refusal(key: Scalar, before: Scalar) -> Problem:
    line = before.start.line + 1
    if key.value == before.value:
        message = f"`{key.value}` is already in line {line}"
    else:
        message = f"`{key.value}` and `{before.value}` in line {line} are the same key"
    return build_refusal(
        key.start, "repeated", f"{message}: the node does not load this file", "keep one of the two"
    )
