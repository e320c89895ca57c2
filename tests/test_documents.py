"""The documents keep up with the code: links lead somewhere, and nothing is left out."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmesh.cli.app import COMMANDS

CHECKOUT = Path(__file__).resolve().parents[1]
DOCS = CHECKOUT / "docs"
DOCUMENTS = [*sorted(CHECKOUT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
AUDIT = sorted((CHECKOUT / "qmesh/mesh/audit").glob("*.py"))

ENDS_OF_TEXT_FILES = {".cfg", ".md", ".py", ".rb", ".sh", ".toml", ".txt", ".yaml", ".yml", ".lock", ""}
PRIVATE = ("/wor" + "k/", "/tmp" + "/sp")
"""Paths of one machine; spelt in two halves, or this file itself would be found."""

_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
_FINDING = re.compile(r"^\| `([a-z-]+)` \|", re.MULTILINE)


def name_of(path: Path) -> str:
    return str(path.relative_to(CHECKOUT))


def prose_of(document: Path) -> str:
    return _CODE.sub("", document.read_text(encoding="utf-8"))


def anchors_of(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in _HEADING.findall(text))
    return {heading.replace(" ", "-") for heading in kept}


def links_of(document: Path) -> list[str]:
    links = _LINK.findall(prose_of(document))
    return [link for link in links if not re.match(r"[a-z]+:", link)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_relative_links_lead_somewhere(document):
    for link in links_of(document):
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.is_relative_to(CHECKOUT), f"{link} leads out of the repository"
        assert target.exists(), f"{link} leads nowhere"
        if anchor:
            assert anchor in anchors_of(target), f"{link}: no such heading"


def test_every_document_is_linked_to():
    linked = {
        (document.parent / link.partition("#")[0]).resolve()
        for document in DOCUMENTS
        for link in links_of(document)
    }
    decisions = DOCS / "decisions"
    assert decisions in linked
    assert [name_of(each) for each in DOCS.glob("*.md") if each not in linked] == []


def nodes_of_the_audit() -> Iterator[ast.AST]:
    for file in AUDIT:
        yield from ast.walk(ast.parse(file.read_text(encoding="utf-8")))


def codes_of(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """The code of each finding that is made: the first argument, or either branch of one."""
    makers = {"Finding", "error", "warning", "wide_mode", "say"}
    for call in nodes:
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or not call.args:
            continue
        if call.func.id in makers:
            constants = (node for node in ast.walk(call.args[0]) if isinstance(node, ast.Constant))
            yield from (node.value for node in constants if isinstance(node.value, str))


def findings_in_the_code() -> set[str]:
    return set(codes_of(nodes_of_the_audit()))


def findings_in_the_document() -> list[str]:
    return _FINDING.findall((DOCS / "checks.md").read_text(encoding="utf-8"))


def test_codes_are_found_in_the_code():
    # Were a way of making findings overlooked, the next test would be content with too little.
    strings = {
        node.value
        for node in nodes_of_the_audit()
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    words = "key|guard|port|worker|tunnel|peer|config|membership|agent|foreign|route|clock|sysctl|service"
    alike = {text for text in strings if re.fullmatch(f"(?:{words})(?:-[a-z]+)+", text)}
    assert findings_in_the_code() >= alike
    assert len(findings_in_the_code()) >= 20


def test_every_finding_is_in_the_document_once():
    assert sorted(findings_in_the_document()) == sorted(findings_in_the_code())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_guide(command):
    assert re.search(rf"\bqmesh {command}\b", (DOCS / "guide.md").read_text(encoding="utf-8"))


def test_the_guide_types_no_command_that_is_not_there():
    text = (DOCS / "guide.md").read_text(encoding="utf-8")
    typed = set(re.findall(r"(?:^\S+#\s+|`|sudo )qmesh ([a-z][a-z-]*)", text, flags=re.MULTILINE))
    assert typed <= COMMANDS.keys()


def test_decisions_are_numbered_without_a_gap():
    for number, path in enumerate(sorted((DOCS / "decisions").iterdir()), start=1):
        assert re.fullmatch(rf"{number:04}-[a-z0-9-]+\.md", path.name)


def tracked_files() -> list[Path]:
    """The text files that a commit would have; all but hidden ones where this is no checkout of git."""
    listed = ["git", "-C", str(CHECKOUT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(listed, capture_output=True, text=True, check=True)
        found = [CHECKOUT / name for name in done.stdout.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        all_files = (path.relative_to(CHECKOUT) for path in CHECKOUT.rglob("*"))
        found = [
            CHECKOUT / path for path in all_files if not any(part.startswith(".") for part in path.parts)
        ]
    return [path for path in found if path.suffix in ENDS_OF_TEXT_FILES and path.is_file()]


def test_nothing_of_one_machine_is_in_the_repository():
    files = tracked_files()
    assert CHECKOUT / "README.md" in files
    assert CHECKOUT / "scripts/install" in files
    texts = {name_of(path): path.read_text(encoding="utf-8", errors="replace") for path in files}
    assert [(name, each) for name, text in texts.items() for each in PRIVATE if each in text] == []


@pytest.mark.parametrize("lock", sorted((CHECKOUT / "scripts").glob("*.lock")), ids=name_of)
def test_locks_have_no_address_in_them(lock):
    assert "://" not in lock.read_text(encoding="utf-8")


def test_every_test_that_the_promises_name_is_there():
    """Whole names, and the beginnings of several with a star."""
    written = (path.read_text(encoding="utf-8") for path in (CHECKOUT / "tests").rglob("test_*.py"))
    there = {
        name for text in written for name in re.findall(r"^ *(?:async )?def (test_\w+)\(", text, re.MULTILINE)
    }
    named = re.findall(r"`(test_\w+)(\*?)`", (DOCS / "promises.md").read_text(encoding="utf-8"))
    assert len(named) > 30
    for name, star in named:
        assert any(test.startswith(name) for test in there) if star else name in there, name
