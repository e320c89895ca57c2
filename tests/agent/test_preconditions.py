"""Every command is in the table of preconditions, and goes by it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from qmesh.agent import preconditions
from qmesh.agent.audit.own_fixes import check_and_fix
from qmesh.agent.commands.status import list_port_status
from qmesh.agent.machine_facts.bench import measure_machines
from qmesh.agent.preconditions import PRECONDITIONS, check_user, find_differences, lock_checked
from qmesh.cli.app import COMMANDS
from qmesh.errors import BadInput, NeedsRoot, StateUnreadable
from qmesh.host.state.directory import State
from qmesh.host.state.documents import RestoreProgress

AGENT = Path(preconditions.__file__).parent
RUNNERS = {"check_user", "check_state", "check_local", "load_checked", "lock_checked", "lock_member"}
HELPERS = {"find_differences", "refuse_occupied"}
HOLD = "hold"  # a process of its own, which loads nothing of the agent's


def trees() -> list[ast.Module]:
    return [ast.parse(path.read_text()) for path in AGENT.rglob("*.py")]


def commands_checked() -> set[str]:
    """What the runners are called with, and `change_mesh`, which passes it on."""
    calls = [node for tree in trees() for node in ast.walk(tree) if isinstance(node, ast.Call)]
    words = [
        word
        for call in calls
        if isinstance(call.func, ast.Name)
        for word in (
            call.args
            if call.func.id in RUNNERS
            else [each.value for each in call.keywords if each.arg == "command"]
        )
    ]
    either = [
        part
        for word in words
        for part in ([word.body, word.orelse] if isinstance(word, ast.IfExp) else [word])
    ]
    return {str(word.value) for word in either if isinstance(word, ast.Constant)}


def test_a_command_cannot_be_left_out_of_the_table():
    assert {key.split()[0] for key in PRECONDITIONS} == set(COMMANDS) - {HOLD}


def test_what_changes_the_mesh_is_for_its_control_node_alone():
    on_control = {
        key for key, wanted in PRECONDITIONS.items() if preconditions._require_control in wanted.local
    }
    changes = {"set", "pause", "resume", "remove", "admit", "handover", "handover --cancel"}
    assert changes | {"invite", "invite --list", "invite --withdraw"} <= on_control


def test_what_the_table_asks_for_is_asked_by_the_command():
    rooted = {command for command, wanted in PRECONDITIONS.items() if wanted.root}
    assert rooted - {key for key in rooted if key.startswith("export ")} <= commands_checked()


def test_no_command_has_preconditions_by_the_way():
    commands = [ast.parse(path.read_text()) for path in (AGENT / "commands").rglob("*.py")]
    taken = {
        name.name
        for tree in commands
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == preconditions.__name__
        for name in node.names
    }
    assert taken <= RUNNERS | HELPERS


def test_who_is_not_root_is_refused_by_all_but_who_only_looks(monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    for command in PRECONDITIONS:
        if command in {"import", "page", "ready"}:
            check_user(command)
        else:
            with pytest.raises(NeedsRoot, match=f"`qmesh {command}` needs root"):
                check_user(command)


@pytest.mark.parametrize(
    ("command", "run"),
    [
        ("status --ports", list_port_status),
        ("status --bench", measure_machines),
        ("check --fix", check_and_fix),
    ],
)
def test_what_readers_may_not_is_named_with_its_option(monkeypatch, tmp_path, command, run):
    """They may use the command without it."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(NeedsRoot, match=f"`qmesh {command}` needs root"):
        run(State(tmp_path))


@pytest.mark.usefixtures("own_machine")
def test_what_is_in_the_way_is_refused_in_the_tables_order(tmp_path):
    state = State(tmp_path / "state")
    state.create_directory()
    state.restore_progress.write(RestoreProgress("0" * 64))
    state.sent_request.path.write_bytes(b"")
    for command, error, words in (
        ("init", StateUnreadable, "a `qmesh restore` was interrupted"),
        ("join", StateUnreadable, "a `qmesh restore` was interrupted"),
        ("restore", BadInput, "waits for the answer to its request"),
    ):
        with pytest.raises(error, match=words), lock_checked(state, command):
            pytest.fail("nothing was refused")


def test_the_options_that_are_not_so_are_named():
    assert find_differences(("--name", None, "a"), ("--node", "2.0", "2.0")) == ""
    assert find_differences(("--name", "b", "a"), ("--node", "2.1", "2.0")) == "--name and --node"
