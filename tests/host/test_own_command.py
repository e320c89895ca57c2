"""How qmesh starts itself and others: in whichever directory that is, none of the code there runs."""

from __future__ import annotations

import ast
import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import qmesh
from qmesh.errors import MachineRefused
from qmesh.host.firewall import foreign_rulesets
from qmesh.host.state.directory import State
from qmesh.host.system import background, processes, programs, systemd
from qmesh.host.wireguard import userspace
from qmesh.mesh.systemd.units import render_undo_unit, render_unit_files
from tests.support import trap
from tests.support.units import paths, words
from tests.support.waiting import patience

CODE = Path(qmesh.__file__).parent
QMESH = str(Path(sys.executable).with_name("qmesh"))
RUNNING = ("ExecStartPre", "ExecStart", "ExecStartPost", "ExecReload", "ExecStop", "ExecStopPost")
STATE, CONFIG, NODE = "/run/state", "/run/trap/.config", "/usr/local/bin/quilibrium-node"
TRAP = Path("/run/trap")


def commands() -> dict[str, list[str]]:
    """Every command line of every unit but the node's own, as systemd reads it, by unit and setting."""
    where = paths(
        python=sys.executable,
        holder=processes.HOLDER_PROGRAM,
        state=STATE,
        guard_file=f"{STATE}/guard.nft",
        held_file=f"{STATE}/held.nft",
        nft=programs.find_program("nft") or "/usr/sbin/nft",
        program=NODE,
        config_directory=CONFIG,
    )
    units = {
        **render_unit_files(where, is_control=True, cores=range(1, 3)),
        "qmesh-undo.service": render_undo_unit(where),
    }
    found = {}
    for name, text in units.items():
        for line in text.splitlines():
            setting, _, command = line.partition("=")
            if setting in RUNNING and not command.startswith(NODE):
                argv = words(command.lstrip("-+@!:"))
                found[f"{name} {setting}"] = [each.replace("%i", "1") for each in argv]
    return found


COMMANDS = commands()
OF_PYTHON = [name for name, argv in COMMANDS.items() if argv[0] == sys.executable]


def in_the_trap() -> None:
    """Set the trap up on this test's machine, and go there."""
    Path(STATE).mkdir(mode=0o700)
    TRAP.mkdir()
    trap.set_up(TRAP)
    os.chdir(TRAP)
    os.environ.update(trap.environment(TRAP, os.environ["PATH"]))
    subprocess.run(
        [COMMANDS["qmesh-guard.service ExecStart"][0], "add table inet qmesh"], check=True, cwd="/"
    )


def ended(argv: list[str]) -> str:
    """Run it there; what it said. With an empty state directory none of them has anything to do."""
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=patience(60))
    return done.stdout + done.stderr


def test_all_units_that_start_python_are_among_them():
    assert len(OF_PYTHON) == 6  # agent, hold, undo; ready of the control process, and twice of a worker
    ours = {argv[4] for argv in map(COMMANDS.get, OF_PYTHON) if argv and argv[2:4] == ["-m", "qmesh"]}
    assert ours == {"agent", "undo", "ready"}
    assert sum(processes.HOLDER_PROGRAM in argv for argv in COMMANDS.values()) == 1


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
@pytest.mark.parametrize("name", COMMANDS)
def test_r1_no_unit_runs_what_is_in_the_directory_that_it_is_started_in(name):
    in_the_trap()
    said = ended(COMMANDS[name])

    assert trap.caught(TRAP) == [], said
    assert "No module named" not in said


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
@pytest.mark.parametrize("name", OF_PYTHON)
def test_the_trap_catches_whoever_is_not_isolated(name):
    in_the_trap()
    ended([each for each in COMMANDS[name] if each != "-I"])

    assert trap.caught(TRAP) != []


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
@pytest.mark.parametrize("command", ["agent", "hold", "undo"])
def test_r1_nothing_that_is_started_in_the_background_runs_what_is_there(command):
    in_the_trap()
    nothing_to_do = pytest.raises(MachineRefused, match=f"`qmesh {command}` did not start")
    with contextlib.nullcontext() if command == "undo" else nothing_to_do:
        background.start_background_process(State(Path(STATE)), command, wait_s=patience(60))

    assert trap.caught(TRAP) == []
    assert ("error: " in Path(STATE, "agent.log").read_text()) == (command != "undo")
    assert "No module named" not in Path(STATE, "agent.log").read_text()


TELLS = "#!/bin/sh\nenv > /run/told\n"
OF_A_USER = {
    "LD_PRELOAD_": "/run/trap/x.so",  # the others of these would be heeded by this test's own programs
    "OPENSSL_CONF": "/run/trap/openssl.cnf",
    "SUDO_UID": "1000",
    "TMPDIR": "/run/trap",
    "TOKEN": "of root's",
}
OF_ROOT = {"LC_TIME": "C", "TZ": "UTC", "QMESH_TRACEBACK": ""}


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
@pytest.mark.parametrize("command", ["agent", "hold", "undo"])
def test_r1_what_runs_in_the_background_has_no_environment_but_what_systemd_would_give_it(
    command, monkeypatch
):
    Path(STATE).mkdir(mode=0o700)
    TRAP.mkdir()
    os.chown(TRAP, 1000, 1000)
    Path("/run/tells").write_text(TELLS)
    Path("/run/tells").chmod(0o755)
    monkeypatch.setattr(sys, "executable", "/run/tells")
    for name, value in {**OF_A_USER, **OF_ROOT}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(MachineRefused, match="did not start"):
        background.start_background_process(State(Path(STATE)), command, wait_s=patience(60))

    told = dict(line.split("=", 1) for line in Path("/run/told").read_text().splitlines())
    assert told.items() >= OF_ROOT.items()
    assert {name for name in told if not name.startswith(("LC_", "QMESH_"))} <= {
        *("LANG", "LANGUAGE", "NOTIFY_SOCKET", "PATH", "TZ"),
        *("PWD", "SHLVL", "_", "OLDPWD"),  # the shell's own
    }
    place = Path(told["NOTIFY_SOCKET"]).parent.parent
    assert (place.stat().st_uid, place.stat().st_mode & 0o777, list(TRAP.iterdir())) == (0, 0o700, [])


BEGINS_ANEW = {
    "a command that is typed": """
from qmesh.cli.entrypoints import exec_resident
exec_resident("hold", Path("/run/state"))""",
    "an agent whose thread hangs": """
from qmesh.agent.daemon import supervisor
from qmesh.host.pulse import Pulse
supervisor.restart_agent_process("part", Pulse(), supervisor.Troubles(lambda _: None), Path("/run/state"))""",
}


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
@pytest.mark.parametrize("how", BEGINS_ANEW)
def test_r1_what_becomes_another_process_of_qmesh_runs_nothing_of_what_is_there(how):
    in_the_trap()
    said = ended([sys.executable, "-I", "-c", f"from pathlib import Path{BEGINS_ANEW[how]}"])

    assert trap.caught(TRAP) == [], said
    assert "error: " in said


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
@pytest.mark.parametrize(
    "program", ["nft", "systemctl", "wireguard-go", "iptables-nft-save", "iptables-legacy-save"]
)
def test_r1_no_program_of_the_directory_is_taken_for_the_systems(program):
    in_the_trap()
    found = programs.find_program(program)

    assert found is None or Path(found).parent != TRAP
    assert found is None or Path(found).is_absolute()


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
def test_r1_programs_are_run_from_where_they_are_and_elsewhere():
    in_the_trap()
    systemd.run_systemctl("--version")
    userspace.find_program()
    foreign_rulesets.read_rulesets()
    where = systemd.build_unit_paths(State(Path(STATE)), config_directory=CONFIG, program=NODE)

    assert trap.caught(TRAP) == []
    assert Path(where.nft).is_absolute()
    assert Path(where.nft).parent != TRAP


FOLDERS = {
    "a user's": "chown 1000 folder",
    "of a group": "chgrp 1000 folder; chmod g+w folder",
    "of everybody": "chmod 1777 folder",
    "below a user's": "mkdir home roots; mv folder home; chown 1000 home; ln -s ../home/folder roots",
}


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
@pytest.mark.parametrize("whose", FOLDERS)
def test_r1_no_program_is_taken_from_a_folder_that_a_user_can_change(whose, monkeypatch):
    """By `su` a user's PATH becomes root's, and units remember where nft is."""
    nft = programs.find_program("nft")
    assert nft is not None
    TRAP.mkdir()
    Path("/run").chmod(0o1777)  # where others may add something, and not replace it
    for folder in (TRAP / "folder", TRAP / "roots"):
        monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    (TRAP / "folder").mkdir()
    (TRAP / "folder/nft").symlink_to(nft)
    (TRAP / "folder/only-here").symlink_to("/bin/pwd")
    assert programs.find_program("nft") == str(TRAP / "folder/nft")

    subprocess.run(["sh", "-ec", FOLDERS[whose]], cwd=TRAP, check=True)
    monkeypatch.setenv("PATH", f"{TRAP}/roots/folder:{TRAP}/home/folder", prepend=os.pathsep)
    assert programs.find_program("nft") == nft
    assert systemd._read_output(["only-here"], time.monotonic() + patience(10)) == ""
    where = systemd.build_unit_paths(State(Path(STATE)), config_directory=CONFIG, program=NODE)
    assert where.nft == nft


def calls(module: str) -> list[tuple[str, str, ast.Call]]:
    """Every call in qmesh of something of a module: where that is, of what, and the call."""
    return [
        (f"{path.relative_to(CODE)}:{node.lineno}", node.func.attr, node)
        for path in sorted(CODE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == module
    ]


def test_r1_every_program_is_run_in_a_directory_that_is_roots():
    runs = {
        where: {ast.unparse(each.value) for each in call.keywords if each.arg == "cwd"}
        for where, name, call in calls("subprocess")
        if name in {"run", "Popen", "call", "check_call", "check_output"}
    }

    assert len(runs) >= 4
    assert runs == {where: {"programs.DIRECTORY"} for where in runs}


def test_r1_every_process_of_qmesh_is_begun_in_the_same_words():
    replaced = [
        ast.unparse(call) for _, name, call in calls("os") if name.startswith(("exec", "posix_spawn"))
    ]
    texts = {path.name: path.read_text(encoding="utf-8") for path in CODE.rglob("*.py")}
    starting = {name for name, text in texts.items() if '"-m",' in text or "-m qmesh" in text}

    # One of the three keeps its own words, in another mode of the interpreter; another program is the node's.
    assert sorted(replaced) == ["os.execv(program[0], program)", *["os.execv(words[0], words)"] * 3]
    # The second says what it is for, the third looks for units of earlier versions.
    assert starting == {"own_command.py", "__main__.py", "systemd.py"}
    assert not [where for where, name, _ in calls("os") if name in {"system", "popen"}]
