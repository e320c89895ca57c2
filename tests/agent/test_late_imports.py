"""What lives as long as its machine imports nothing late: an upgrade may have replaced the file by then."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from qmesh.agent.daemon import late_imports as late
from qmesh.host.state.directory import State
from qmesh.host.state.documents import Settings
from qmesh.mesh.notifications.targets import NotifySettings
from qmesh.mesh.values import Endpoint
from tests.support.checkout import CHECKOUT

LOAD = "from qmesh.agent.daemon import late_imports; late_imports.load_modules()"
COMMON = "; import qmesh.cli, qmesh.cli.entrypoints, qmesh.cli.errors, qmesh.host.log.log_handlers"
MEMBER = "import qmesh.agent.daemon.main; from qmesh.agent.daemon import late_imports as late;"
PROGRAMS = {
    "agent": f"import qmesh.agent.daemon.main; {LOAD}{COMMON}",
    "member": f"{MEMBER} late._import_modules(late._OF_ALL){COMMON}",
    "hold": "import qmesh.host.lean.hold",
    "undo": f"import qmesh.agent.rollback; {LOAD}{COMMON}",
}
"""As `qmesh.cli.entrypoints` loads them; who holds the guard is a program of its own."""
BEFORE = {"qmesh.cli", "qmesh.cli.entrypoints"}
"""Modules that import within functions what is loaded before any of it runs, or by another process."""


@pytest.fixture(scope="module")  # so that of the processes that share the tests only one asks for it
def loaded() -> dict[str, dict[str, str]]:
    """By program the modules of such a process at its start, with their files; of Python itself none."""
    return {name: ask_program(name) for name in PROGRAMS}


def ask_program(name: str) -> dict[str, str]:
    script = (
        f"{PROGRAMS[name]}; import json, sys;"
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
def test_a_process_that_lives_long_has_at_its_start_what_its_functions_import(loaded, name):
    found = loaded[name]
    ours = {each for each in found if each.partition(".")[0] == "qmesh"} - BEFORE
    assert len(ours) > 10
    # A member's agent begins anew, with all of it, where it comes to need more.
    later = loaded["agent"] if name == "member" else {}
    missing = {
        (module, name)
        for module in ours
        for name in late_imports(Path(found[module]))
        if name not in found and name not in later
    }
    assert missing == set()


def test_the_agent_of_a_worker_machine_has_no_registry_and_serves_nobody(loaded):
    found = set(loaded["member"])
    heavy = {"asyncio", "sqlite3", "ssl", "http.client", "multiprocessing", "typer"}
    served = {"qmesh.host.registry", "qmesh.host.api.server", "qmesh.agent.daemon.membership.api"}
    served |= {"qmesh.agent.commands", "qmesh.mesh.imports", "qmesh.agent.notifications.notifier"}
    assert not found & (heavy | served)
    assert (served - {"qmesh.agent.commands", "qmesh.mesh.imports"}) < set(loaded["agent"])


def change_settings(state: State, **changes: object) -> None:
    state.save_settings(msgspec.structs.replace(state.settings(), **changes))


@pytest.fixture
def member(tmp_path) -> State:
    state = State(tmp_path)
    settings = Settings(
        mesh="mesh",
        name="hel-2",
        control=False,
        interface="qmesh0",
        listen_port=51820,
        verification_key=bytes(32),
    )
    state.save_settings(settings)
    return state


NEEDS: dict[str, tuple[Callable[[State], object], tuple[str, ...]]] = {
    "a worker machine": (lambda _: None, ()),
    "one that Prometheus asks": (
        lambda state: change_settings(state, metrics=Endpoint("127.0.0.1", 9586)),
        late._OF_METRICS,
    ),
    "one that notifies somebody": (
        lambda state: state.notify_settings.write(NotifySettings()),
        late._OF_NOTIFICATIONS,
    ),
    "the control node": (
        lambda state: change_settings(state, control=True),
        (*late._OF_METRICS, *late._OF_NOTIFICATIONS, *late._OF_CONTROL),
    ),
    "one whose settings cannot be read": (
        lambda state: (state.directory / "machine.json").write_text("{"),
        (*late._OF_METRICS, *late._OF_NOTIFICATIONS, *late._OF_CONTROL),
    ),
}


@pytest.mark.parametrize("machine", NEEDS)
def test_an_agent_loads_what_its_machine_needs(member, machine):
    make, more = NEEDS[machine]
    make(member)
    assert late._list_needed(member) == (*late._OF_ALL, *more)


LATE = f"""
import os, sys
from pathlib import Path
{MEMBER}
from qmesh.host.state.directory import State
was = os.environ.get(late._LACKED)

def begin_anew():
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])

late.load_needed_modules(State(Path(sys.argv[1])), begin_anew=begin_anew)
import wave  # of Python, which is for others to replace
before = "qmesh.host.registry" in sys.modules
import qmesh.host.registry
print(was, before, late._LACKED in os.environ)
"""


def test_an_agent_that_lacks_something_begins_anew_and_has_all_of_it(member):
    """What it imported late could be of a newer version: it executes itself before it does."""
    words = [sys.executable, "-I", "-c", LATE, str(member.directory)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.split() == ["qmesh.host.registry", "True", "False"], done.stderr


def test_one_that_lacks_what_no_list_has_does_not_begin_anew_for_ever(member):
    environment = {**os.environ, late._LACKED: "qmesh.nowhere"}
    words = [sys.executable, "-I", "-c", LATE, str(member.directory)]
    script = "qmesh.mesh.imports.lines"  # that no agent has
    words[3] = LATE.replace("qmesh.host.registry", script)
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60, env=environment)
    assert done.stdout.split() == ["qmesh.nowhere", "False", "False"], done.stderr


USES = """
import base64, contextlib, sys
from qmesh.host.machine_facts import core_speed
from qmesh.mesh.protocol import aead, enrolment
from qmesh.mesh.values import Secret
before = set(sys.modules)
key = Secret(base64.b64encode(bytes(32)).decode())
enrolment.derive_public_key(key)
enrolment.derive_invitation_keys(bytes(32))
aead.decrypt_message(aead.encrypt_message(b"text", key, about=b"x", nonce=bytes(12)), key, about=b"x")
core_speed.measure_core_speed(0.0)
print({name.partition(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)
"""


def test_a_library_imports_nothing_when_a_key_is_used_first():
    script = f"{PROGRAMS['member']}\n{USES}"
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "set()", done.stderr


def test_late_imports_are_seen():
    path = CHECKOUT / "qmesh/agent/control_client.py"
    assert late_imports(path) == {"qmesh.host.api.client"}
    assert importlib.util.find_spec("qmesh.host.api.client")
