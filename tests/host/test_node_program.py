"""The node's processes among all others, and what its program is asked: as whom, how long, and with what."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from qmesh.agent.node import node_program
from qmesh.agent.node.node_program import find_node_programs
from qmesh.errors import MachineRefused
from qmesh.host import disk_timeout
from qmesh.host.config_directory import ConfigDirectory
from qmesh.host.node_program import version_query
from qmesh.host.node_program.program_file import open_program
from qmesh.host.node_program.running_nodes import list_running_nodes, parse_users
from qmesh.host.node_program.version_query import ask_version, read_version
from qmesh.mesh.nodeconfig.program_version import MAX_ANSWER, ProgramVersion
from tests.support.waiting import comes_true, patience, wait_until

pytestmark = pytest.mark.usefixtures("own_machine")

OWNER, OTHER, NOBODY = 1000, 1001, 65534
PLACE = Path("/run/node")
RUST = "echo quil-node 2.1.0.25"


def make_program(body: str, *, name: str = "node", mode: int = 0o755, owner: int = 0) -> Path:
    path = PLACE / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    os.chown(path, owner, owner)
    path.chmod(mode)
    return path


def ask(path: Path, owner: int = 0) -> str | None:
    with open_program(path) as program:
        return ask_version(program, owner)


def find_group(user: int) -> int:
    """That of a user whom this machine knows, else nobody's."""
    try:
        return pwd.getpwuid(user).pw_gid
    except KeyError:
        return NOBODY


@pytest.mark.parametrize(("owner", "user"), [(0, NOBODY), (OWNER, OWNER)])
def test_r1_the_nodes_program_is_asked_as_the_directorys_owner_and_never_as_root(monkeypatch, owner, user):
    monkeypatch.setenv("SECRET", "5ec4e7")
    shown = "id -u; id -G; pwd; ulimit -f; ulimit -c; echo $*; env; grep -h NoNewPrivs /proc/self/status"
    told = ask(make_program(shown), owner)
    assert told is not None
    words = told.split()
    assert words[:6] == [str(user), str(find_group(user)), "/", "0", "0", "--version"]
    assert words[-2:] == ["NoNewPrivs:", "1"]
    assert "SECRET" not in told


def test_it_has_no_descriptor_of_ours_but_the_program_and_cannot_write_a_file():
    PLACE.mkdir()
    (PLACE / "open").mkdir(mode=0o777)
    (PLACE / "open").chmod(0o777)
    with (PLACE / "secret").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)
        told = ask(make_program("echo written >/run/node/open/file; ls -l /proc/$$/fd; echo end"))
    assert told is not None
    assert "secret" not in told
    assert not (PLACE / "open/file").exists() or (PLACE / "open/file").read_text() == ""


@pytest.mark.parametrize(("mode", "owner"), [(0o775, 0), (0o757, 0), (0o755, OTHER), (0o644, 0)], ids=str)
def test_r1_a_program_that_others_may_have_changed_is_not_run(mode, owner):
    path = make_program("touch /run/node/ran; echo quil-node 2.1.0.25", mode=mode, owner=owner)
    assert ask(path, OWNER) is None
    assert not (PLACE / "ran").exists()
    assert ask(PLACE, OWNER) is None


def test_r1_a_program_of_the_owners_is_run_as_the_owner_only():
    path = make_program(RUST, owner=OWNER)
    assert ask(path, OWNER) == "quil-node 2.1.0.25\n"
    assert ask(path, 0) is None


def test_r1_what_was_looked_at_is_what_runs():
    path = make_program(RUST)
    with open_program(path) as program:
        path.unlink()
        make_program("echo another", name="another").rename(path)
        assert ask_version(program, 0) == "quil-node 2.1.0.25\n"
        assert program.path == path


def test_what_hangs_is_waited_for_once(monkeypatch):
    monkeypatch.setattr(disk_timeout, "WAIT_S", 0.2)
    let_go = threading.Event()
    with pytest.raises(MachineRefused, match="does not answer"):
        disk_timeout.run_in_time(PLACE, let_go.wait)
    began = threading.active_count()
    with pytest.raises(MachineRefused, match="does not answer"):
        disk_timeout.run_in_time(PLACE, lambda: None)
    assert threading.active_count() == began
    let_go.set()
    wait_until(lambda: threading.active_count() < began, seconds=5)
    monkeypatch.setattr(disk_timeout, "WAIT_S", 60.0)
    assert disk_timeout.run_in_time(PLACE, lambda: 1) == 1


def test_an_answer_without_end_is_cut_off():
    told = ask(make_program("exec yes"))
    assert told is not None
    assert len(told) == MAX_ANSWER


def test_a_program_that_does_not_end_is_ended_with_its_children(monkeypatch):
    monkeypatch.setattr(version_query, "ANSWER_S", patience(1.0))
    told = ask(make_program("sleep 1000 & echo $! $$; wait"))
    assert told is not None
    child, process = told.split()
    wait_until(lambda: not Path(f"/proc/{process}").exists(), seconds=5)
    wait_until(lambda: not Path(f"/proc/{child}/exe").exists() or is_dead(child), seconds=5)


def test_nothing_of_a_program_that_was_asked_outlives_that(monkeypatch):
    """As children of the agent's they would be in its unit, and use up what that may have."""
    monkeypatch.setattr(version_query, "ANSWER_S", patience(1.0))
    begun = "(setsid sleep 54321 & setsid -f sleep 54321; sleep 54321) >&- 2>&- & sleep 54321 >&- & wait"
    assert ask(make_program(f"{begun}; echo said"), OWNER) == ""
    wait_until(lambda: not list_processes("54321"), seconds=5)


def list_processes(word: str) -> list[str]:
    """The numbers of those that have it on their command lines."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if word.encode() in (process / "cmdline").read_bytes():
                found.append(process.name)
    return found


def is_dead(number: str) -> bool:
    return "State:\tZ" in Path(f"/proc/{number}/status").read_text()


def test_the_name_tells_where_the_answer_does_not():
    silent = make_program("exit 1", name="node-2.1.0.22-linux-amd64")
    with open_program(silent) as program:
        assert read_version(program, 0) == ProgramVersion(("2.1",), "2.1.0.22")
    speaking = make_program(RUST, name="node-2.1.0.22-linux-amd64")
    with open_program(speaking) as program:
        assert read_version(program, 0) == ProgramVersion(("2.1-rust",), "2.1.0.25")
    link = PLACE / "quilibrium-node"
    link.symlink_to(make_program("exit 1", name="node-2.1.0.25-linux-amd64", mode=0o600))
    with open_program(link) as program:
        assert read_version(program, 0) == ProgramVersion(("2.1-rust",), "2.1.0.25")


@contextlib.contextmanager
def starting() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start programs that run until the block ends: their input ends then."""
    with contextlib.ExitStack() as running:
        yield partial(start, running)


def start(
    running: contextlib.ExitStack, *words: str | Path, user: int = 0, cwd: Path | str = "/"
) -> subprocess.Popen[bytes]:
    process = running.enter_context(
        subprocess.Popen(words, stdin=subprocess.PIPE, user=user, group=user, extra_groups=[], cwd=cwd)
    )
    assert comes_true(lambda: Path(f"/proc/{process.pid}/cmdline").read_bytes().startswith(b"/bin/sh"), 5)
    return process


def test_the_nodes_processes_are_those_of_root_and_the_owner_with_its_directory():
    program = make_program("read line")
    Path("/run").chmod(0o755)  # or no link in it is root's alone
    (PLACE / ".config").mkdir()
    (PLACE / "link").symlink_to(PLACE / ".config")
    os.chown(PLACE / ".config", OWNER, OWNER)
    directory = ConfigDirectory(PLACE / ".config", OWNER)
    with starting() as start:
        wanted = [
            (0, start(program, f"--config={PLACE}/.config")),
            (0, start(program, user=OWNER, cwd=PLACE)),
            (3, start(program, "--config", f"{PLACE}/./.config", "--core", "3", user=OWNER)),
            (4, start(program, "-config", ".config", "-core=4", cwd=PLACE)),
            (5, start(program, "-c", f"{PLACE}/link", "--core=5")),
        ]
        others = [
            start(program, "--config", f"{PLACE}/.config", "--core", "1", user=OTHER),
            start(program, "--config", f"{PLACE}/other", "--core", "1"),
            start(program, "--config", f"{PLACE}/.config", "--core", "one"),
            start(make_program("read line", name="thing"), cwd=PLACE),
        ]
        found = list_running_nodes(directory)
        assert [(each.core, each.number) for each in found] == sorted(
            (core, process.pid) for core, process in wanted
        )
        assert not {each.number for each in found} & {process.pid for process in others}
        assert [place.path for place in found[1].programs] == [Path(f"/proc/{found[1].number}/exe"), program]


def test_programs_that_do_not_answer_are_not_all_waited_for(monkeypatch):
    """Each could take seconds, and their user can start as many as he likes."""
    monkeypatch.setattr(version_query, "ANSWER_S", patience(0.3))
    monkeypatch.setattr(node_program, "_ASKING_S", patience(0.5))
    Path("/run").chmod(0o755)
    asked = PLACE / "asked"
    asked.mkdir(parents=True)
    (PLACE / ".config").mkdir()
    for path in (asked, PLACE / ".config"):
        os.chown(path, OWNER, OWNER)
    body = f"if [ $# -gt 1 ]; then read line; exit; fi; : >{asked}/$$; exec sleep 1000"
    with starting() as start:
        for number in range(4):
            start(make_program(body, name=f"node-{number}"), "--config", f"{PLACE}/.config", user=OWNER)
        assert find_node_programs(ConfigDirectory(PLACE / ".config", OWNER)) == ()
        assert len(list_running_nodes(ConfigDirectory(PLACE / ".config", OWNER))) == 4
    assert 1 <= len(list(asked.iterdir())) <= 2


def test_a_program_that_was_replaced_is_known_by_the_process_that_runs_it():
    PLACE.mkdir()
    (PLACE / ".config").mkdir()
    program = PLACE / "node-2.1.0.22-linux-amd64"
    shutil.copy("/bin/sh", program)
    words: list[str | Path] = [program, "-c", "read line", "node", f"--config={PLACE}/.config"]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
        assert comes_true(
            lambda: Path(f"/proc/{process.pid}/cmdline").read_bytes().startswith(os.fsencode(program)), 5
        )
        program.unlink()
        (found,) = list_running_nodes(ConfigDirectory(PLACE / ".config", 0))
        with open_program(found.programs[0].path) as running:
            assert running.path == program
            assert read_version(running, 0) == ProgramVersion(("2.1",), "2.1.0.22")
        process.kill()


@pytest.mark.parametrize(
    ("numbers", "users"),
    [
        ("0\t1000\t0\t0", {0, 1000}),
        ("4294967295\t1\t1\t1", {4294967295, 1}),
        (f"1\t{'9' * 5000}\t1\t1", set()),
    ],
)
def test_a_processs_users_are_those_of_its_status_and_none_where_that_is_no_status(numbers, users):
    assert parse_users(f"Name:\tnode\nUid:\t{numbers}\nGid:\t5\t5\t5\t5\n".encode()) == users
