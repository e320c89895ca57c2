"""The code is found by its names: a command's modules bear its name, and a name means one thing."""

from __future__ import annotations

import ast
import functools
import re
from collections import defaultdict
from pathlib import Path

import pytest

from qmesh.cli.app import COMMANDS
from tests.support.checkout import CHECKOUT

PACKAGE = CHECKOUT / "qmesh"
TESTS = CHECKOUT / "tests"
MODULES = sorted(PACKAGE.rglob("*.py"))

PROCESSES = {"agent": "agent/daemon/main.py", "hold": "host/firewall/holder.py"}
"""Commands that systemd runs: each is a process of its own, and not a command's work."""
MOST_MODULES = 19

PARTICIPLES = re.compile(
    r"_*(?:[a-z]+ed|[a-z]+ing|said|told|held|known|gone|kept|made|seen|given|taken|left|found|heard|met|sent|written|shown"
    r"|chosen|bound|born|built|lost|meant|paid|stood|thought|risen|drawn|done|begun|undone|brought|led|taught)"
)


@functools.cache  # and not at once: each process that collects tests imports this
def parse(module: Path) -> ast.Module:
    return ast.parse(module.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    return str(path.relative_to(CHECKOUT))


def module_of(command: str) -> str:
    """`import` can be no module's name in Python."""
    return {"import": "import_cluster"}.get(command, command.replace("-", "_"))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_found_by_its_name_in_the_command_line_and_in_its_work(command):
    assert (PACKAGE / "cli/commands" / f"{command.replace('-', '_')}.py").is_file()
    if command in PROCESSES:
        assert (PACKAGE / PROCESSES[command]).is_file()
        return
    work = PACKAGE / "agent/commands" / module_of(command)
    assert work.with_suffix(".py").is_file() or (work / "__init__.py").is_file()


def test_nothing_but_commands_is_among_the_commands():
    work = {path.stem for path in (PACKAGE / "agent/commands").iterdir()} - {"__init__", "__pycache__"}
    assert work == {module_of(command) for command in COMMANDS if command not in PROCESSES}
    typed = {path.stem for path in (PACKAGE / "cli/commands").glob("*.py")} - {"__init__"}
    assert typed == {command.replace("-", "_") for command in COMMANDS}


def commands_typed_in(path: Path) -> set[str]:
    """The commands that a lab's test types: the first words of calls such as `machine.qmesh("init", ...)`."""
    calls = (
        node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)
    )
    return {
        argument.value
        for call in calls
        for argument in call.args[:2]
        if isinstance(argument, ast.Constant) and argument.value in COMMANDS
    }


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in PROCESSES])
def test_every_command_is_run_by_a_test_on_lab_machines(command):
    typing = [path for folder in ("lab", "support/lab") for path in sorted((TESTS / folder).glob("*.py"))]
    assert any(command in commands_typed_in(path) for path in typing)


def test_a_class_has_one_name_and_a_name_one_class():
    homes = defaultdict(list)
    for module in MODULES:
        for node in ast.walk(parse(module)):
            if isinstance(node, ast.ClassDef):
                homes[node.name].append(name_of(module))
    assert {name: places for name, places in homes.items() if len(places) > 1} == {}


def test_no_module_is_named_after_a_gesture():
    assert [name_of(module) for module in MODULES if module.stem.split("_")[-1].endswith("ing")] == []


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_no_function_is_a_bare_participle(module):
    functions = (
        node for node in ast.walk(parse(module)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    bare = [
        node.name
        for node in functions
        if PARTICIPLES.fullmatch(node.name) and "_" not in node.name.strip("_")
    ]
    assert bare == []


def test_a_folder_can_be_taken_in_at_a_glance():
    folders = {module.parent for module in MODULES} - {PACKAGE / "agent/commands", PACKAGE / "cli/commands"}
    counts = {name_of(folder): len(list(folder.glob("[!_]*.py"))) for folder in folders}
    assert {folder: count for folder, count in counts.items() if count > MOST_MODULES} == {}


PROGRAMS = sorted(
    [
        *TESTS.rglob("*.py"),
        *(CHECKOUT / "scripts").rglob("*.py"),
        *(CHECKOUT / "packaging").rglob("*.py"),
    ]
)


def imported_from_tests(text: str) -> set[str]:
    """Modules and names of tests that a program imports, or a program that it has as a string."""
    found = re.findall(r"from (tests[.\w]*) import (\([^)]*\)|[\w, ]+)", text)
    return {f"{module}.{name}" for module, names in found for name in re.findall(r"\w+", names)}


def test_no_module_imports_a_test_module():
    """What several need is in tests/support."""
    text = "from tests import test_b\nfrom tests.lab.test_a import (\n    x,\n    y,\n)\n"
    assert imported_from_tests(text) == {"tests.test_b", "tests.lab.test_a.x", "tests.lab.test_a.y"}
    importing = {
        name_of(program)
        for program in PROGRAMS
        for name in imported_from_tests(program.read_text(encoding="utf-8"))
        if re.search(r"\.(test_\w+|conftest)\b", name) and program != Path(__file__)
    }
    assert importing == set()


def test_every_module_of_tests_that_a_program_imports_is_there():
    """In programs that are strings no type checker sees it."""
    names = {
        name for program in PROGRAMS for name in imported_from_tests(program.read_text(encoding="utf-8"))
    }
    modules = {name.rpartition(".")[0].replace(".", "/") for name in names if ".test_" not in name}
    missing = {
        module
        for module in modules
        if not (CHECKOUT / f"{module}.py").is_file() and not (CHECKOUT / module).is_dir()
    }
    assert missing == set()


def test_what_a_program_imports_of_the_package_is_there():
    """Also in programs that are strings: what was moved is found here, and not on a busy lab machine."""
    missing = set()
    for program in PROGRAMS:
        text = program.read_text(encoding="utf-8")
        for module, names in re.findall(r"from (qmesh[.\w]*) import (\([^)]*\)|[\w, ]+)", text):
            path = CHECKOUT / module.replace(".", "/")
            source = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
            words = set(re.findall(r"\w+", source.read_text(encoding="utf-8"))) if source.is_file() else set()
            words |= {each.stem for each in path.glob("*")}
            imported = {name.split(" as ")[0].strip() for name in re.sub(r"#.*|[()]", "", names).split(",")}
            missing |= {f"{module}.{name}" for name in imported - words - {"", "__file__"}}
    assert missing == set()


def test_all_modules_of_tests_that_are_no_tests_are_in_one_folder():
    modules = {path for path in TESTS.rglob("*.py") if not re.match(r"test_|conftest\.py", path.name)}
    elsewhere = {name_of(path) for path in modules if TESTS / "support" not in path.parents}
    assert elsewhere == {"tests/__init__.py"}
