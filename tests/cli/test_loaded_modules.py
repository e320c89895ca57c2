"""What each command loads before its own first line: a row for each command, a column for each heavy package.

It is told by the modules that are there, not by times. A command is not run: what its functions import first
is imported, and what they import in a branch, for the few runs that take it, is left out.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmesh.cli.app import COMMANDS
from qmesh.host.system import processes
from qmesh.mesh.own_command import build_holder_line
from tests.support.checkout import CHECKOUT

OF_PYTHON = {"asyncio", "multiprocessing", "sqlite3", "ssl", "unittest"}
OURS = {
    "qmesh.mesh.nodeconfig": "reads a config.yml",
    "qmesh.mesh.foreign.kernel_rules": "reads others' rules",
}
LIGHT = {"backports", "shellingham", "annotated_doc", "typing_extensions", "cython_runtime"}
"""Libraries that take less than two milliseconds, and one that typer or msgspec loads anyway."""

ALWAYS = {"typer", "msgspec"}
STATE = {*ALWAYS, "cryptography"}
"""Whoever reads the state directory has its keys."""
NODE = {*STATE, "yaml", "qmesh.mesh.nodeconfig"}
"""Whoever reads the node's config.yml."""
REGISTRY = {"sqlite3"}
"""Whoever has nothing to do without a registry; others open it where the machine has one."""

LOADS: dict[str, set[str]] = {
    "init": {*NODE, *REGISTRY},
    "invite": {*STATE, *REGISTRY},
    "join": {*STATE, "h11"},
    "admit": {*STATE, *REGISTRY},
    "import": NODE,
    "set": {*NODE, *REGISTRY},
    "pause": {*NODE, *REGISTRY},
    "resume": {*NODE, *REGISTRY},
    "remove": {*NODE, *REGISTRY},
    "status": NODE,
    "metrics": NODE,
    "page": {*STATE, "h11", "asyncio", "ssl"},
    "log": {*STATE, *REGISTRY},
    "check": {*NODE, *REGISTRY, "qmesh.mesh.foreign.kernel_rules"},
    "drill": STATE,
    "prove": {*STATE, "clingo", "qmesh.mesh.foreign.kernel_rules"},
    "plan": STATE,
    "apply": NODE,
    "confirm": STATE,
    "undo": STATE,
    "down": STATE,
    "rotate-key": STATE,
    "export": {*STATE, "yaml"},
    "restart": STATE,
    "uninstall": {*NODE, *REGISTRY},
    "render-config": NODE,
    "node-files": NODE,
    "units": STATE,
    "backup": {*STATE, *REGISTRY},
    "restore": {*NODE, *REGISTRY},
    "handover": {*NODE, *REGISTRY},
    "agent": ALWAYS,
    "hold": ALWAYS,
    "ready": {*ALWAYS, "yaml", "qmesh.mesh.nodeconfig"},
}

NEVER = {
    "qmesh.agent.daemon.main": {
        "typer",
        "rich",
        "pydantic",
        "pyroute2",
        "unittest",
    },
}
"""What the agent never loads at its start."""
HOLDER = {
    *(
        "__future__",
        "__main__",
        "abc",
        "builtins",
        "codecs",
        "encodings",
        "genericpath",
        "io",
        "marshal",
        "os",
    ),
    *(
        "posix",
        "posixpath",
        "stat",
        "sys",
        "time",
        "types",
        "zipimport",
    ),  # what a bare interpreter has, and `os`
    *("ctypes", "errno", "fcntl", "select", "struct", "zlib"),
    "qmesh",
}
"""All that the process loads which holds the guard, besides what begins with `_`."""

LOADER = """
import importlib, json, os, sys
before = set(sys.modules)
for name, modules in json.loads(sys.argv[1]).items():
    if os.fork():
        os.wait()
        continue
    for each in modules:
        importlib.import_module(each)
    print(json.dumps([name, sorted(set(sys.modules) - before)]), flush=True)
    os._exit(0)
"""


def list_imports(path: Path) -> Iterator[str]:
    """The modules that a file's functions import first of all."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for function in (each for each in tree.body if isinstance(each, ast.FunctionDef)):
        for line in function.body:
            if isinstance(line, ast.Import):
                yield from (each.name for each in line.names)
            elif isinstance(line, ast.ImportFrom):
                assert line.module is not None
                inner = [f"{line.module}.{each.name}" for each in line.names]
                yield from (name if is_module(name) else line.module for name in inner)


def is_module(name: str) -> bool:
    return (CHECKOUT / f"{name.replace('.', '/')}.py").exists()


@pytest.fixture(scope="module")  # so that of the processes that share the tests only one asks for it
def loaded_by_each() -> dict[str, set[str]]:
    wanted = {name: [name] for name in NEVER}
    for name in COMMANDS:
        module = name.replace("-", "_")
        path = CHECKOUT / f"qmesh/cli/commands/{module}.py"
        wanted[name] = ["qmesh.cli.app", f"qmesh.cli.commands.{module}", *list_imports(path)]
    said = subprocess.run(
        [sys.executable, "-I", "-c", LOADER, json.dumps(wanted)], capture_output=True, text=True, check=True
    )
    return {name: set(modules) for name, modules in map(json.loads, said.stdout.splitlines())}


def heavy_in(modules: set[str]) -> set[str]:
    libraries = {name.partition(".")[0] for name in modules} - set(sys.stdlib_module_names) - LIGHT
    named = {name for name in libraries if name[0] != "_" and "__mypyc" not in name and name != "qmesh"}
    return named | (modules & (OF_PYTHON | set(OURS)))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_loads_what_its_row_says(loaded_by_each, name):
    assert heavy_in(loaded_by_each[name]) == LOADS[name]


def test_each_command_has_its_row():
    assert set(LOADS) == set(COMMANDS)


@pytest.mark.parametrize("name", NEVER)
def test_what_lives_long_has_nothing_of_the_command_line(loaded_by_each, name):
    loaded = loaded_by_each[name]
    assert not NEVER[name] & (loaded | {each.partition(".")[0] for each in loaded})


def test_who_holds_the_guard_loads_next_to_nothing():
    """Started as it is: without the site's packages, and by the path that its program adds."""
    words = build_holder_line(sys.executable, processes.HOLDER_PROGRAM, "/nowhere")
    program = (
        "import sys; before = set(sys.modules); path = sys.argv[1];"
        "code = compile(open(path).read(), path, 'exec');"
        "exec(code, {'__name__': 'program', '__file__': path, '__package__': None});"
        "print(*set(sys.modules) - before)"
    )
    at = words.index(processes.HOLDER_PROGRAM)
    done = subprocess.run(
        [*words[:at], "-c", program, words[at]], capture_output=True, text=True, check=True, cwd="/"
    )
    loaded = done.stdout.split()
    assert "qmesh.host.lean.owned_table" in loaded
    assert {name.partition(".")[0] for name in loaded if name[0] != "_"} - HOLDER == set()


def test_a_library_that_is_new_is_seen():
    """Whatever no row and no column has is heavy, until somebody says that it is light."""
    assert heavy_in({"os", "qmesh.cli", "newlib.inner", "ssl", "typing_extensions"}) == {"newlib", "ssl"}
