from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmesh.errors import MachineRefused
from qmesh.host.lean import service_notice
from qmesh.host.state.directory import State
from qmesh.host.system import background, processes, single_agent, systemd
from qmesh.mesh.systemd.units import (
    AFTER_FLUSH,
    AGENT,
    BOOT_GUARD,
    CONTROL_PROCESS,
    HOLDER,
    WORKER,
    add_mark,
    render_unit_files,
)
from tests.support.waiting import patience, within

AGENT_OF_SORTS = """
import sys, time
from pathlib import Path
from qmesh.host.system.processes import acquire_process_lock
from qmesh.host.state.directory import State
with acquire_process_lock(State(Path(sys.argv[1])).agent_lock_file) as alone:
    print(alone, flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def an_agent(state: State) -> Iterator[tuple[subprocess.Popen[str], bool]]:
    """A process that would be the agent until its standard input ends, and whether it is."""
    with subprocess.Popen(
        [sys.executable, "-c", AGENT_OF_SORTS, state.directory],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process, {"True\n": True, "False\n": False}[process.stdout.readline()]
        finally:
            process.kill()


@pytest.fixture(autouse=True)
def run_directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A place for sockets that any user may use."""
    with tempfile.TemporaryDirectory() as directory:
        monkeypatch.setattr(single_agent, "PLACE", Path(directory))
        yield


def test_where_none_was_ever_started_no_agent_runs_and_nothing_is_made(state):
    assert not background.is_agent_running(state)
    assert list(state.directory.iterdir()) == []


def test_there_is_one_agent(state):
    with an_agent(state) as (_, first), an_agent(state) as (_, second):
        assert (first, second) == (True, False)
        assert background.is_agent_running(state)
        with processes.acquire_process_lock(state.agent_lock_file) as third:
            assert not third
        assert background.is_agent_running(state)
    assert not background.is_agent_running(state)


def test_another_agent_may_be_once_the_first_has_ended(state):
    with an_agent(state) as (process, _):
        process.communicate("")
        with an_agent(state) as (_, second):
            assert second


def test_an_agent_that_is_killed_runs_no_more(state):
    with an_agent(state) as (process, _):
        assert background.is_agent_running(state)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()

        assert not background.is_agent_running(state)
        with processes.acquire_process_lock(state.agent_lock_file) as alone:
            assert alone


def test_an_agent_that_fails_runs_no_more(state):
    def fail() -> None:
        with processes.acquire_process_lock(state.agent_lock_file) as alone:
            assert alone
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()

    assert not background.is_agent_running(state)


def test_agents_of_two_states_are_in_nobodys_way(tmp_path):
    states = [State(tmp_path / name) for name in "ab"]
    for each in states:
        each.create_directory()
    with (
        processes.acquire_process_lock(states[0].agent_lock_file) as first,
        processes.acquire_process_lock(states[1].agent_lock_file) as second,
    ):
        assert (first, second) == (True, True)


def test_looking_for_an_agent_keeps_none_from_starting(state):
    looking = (
        "import sys; from pathlib import Path; from qmesh.host.system.background import is_agent_running;"
        "from qmesh.host.state.directory import State; state = State(Path(sys.argv[1])); print(flush=True)\n"
        "while True: is_agent_running(state)"
    )
    state.create_directory()
    command = [sys.executable, "-c", looking, state.directory]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with processes.acquire_process_lock(state.agent_lock_file):  # makes the file
            pass
        try:
            for _ in range(100):
                with processes.acquire_process_lock(state.agent_lock_file) as alone:
                    assert alone
        finally:
            process.kill()


def test_programs_that_the_agent_starts_do_not_stand_for_it(state):
    with processes.acquire_process_lock(state.agent_lock_file) as alone:
        assert alone
        child = subprocess.Popen(["sleep", "1000"], close_fds=False)
    try:
        assert not background.is_agent_running(state)
    finally:
        child.kill()
        child.wait()


def test_the_agents_lock_is_0600_in_a_directory_that_is_0700(state):
    with processes.acquire_process_lock(state.agent_lock_file):
        assert state.agent_lock_file.stat().st_mode & 0o777 == 0o600
        assert state.directory.stat().st_mode & 0o777 == 0o700


def test_a_lock_in_a_directory_that_there_is_not_is_refused(tmp_path):
    """`qmesh hold --state /nowhere` once said that qmesh itself had failed."""
    lock_file = tmp_path / "nowhere/lock"
    with (
        pytest.raises(MachineRefused, match=f"{lock_file} cannot be opened: No such file or directory"),
        processes.acquire_process_lock(lock_file),
    ):
        pass


@pytest.fixture(params=["path", "abstract"])
def listener(request, tmp_path, monkeypatch):
    """A socket on which whoever started a service hears of it."""
    abstract = f"qmesh-test-{os.getpid()}-{time.monotonic_ns()}"
    name = {"path": str(tmp_path / "notify"), "abstract": f"@{abstract}"}[request.param]
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as found:
        found.bind("notify" if request.param == "path" else f"\0{abstract}")
        found.settimeout(patience(5))
        if request.param == "path" and len(name) > 100:
            pytest.fail("the path of the temporary directory is too long for a socket")
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield found


def test_who_started_the_service_is_told(listener):
    service_notice.notify("READY=1")
    service_notice.notify("STOPPING=1")

    assert [listener.recv(100), listener.recv(100)] == [b"READY=1", b"STOPPING=1"]


@pytest.mark.parametrize("address", [None, "", "relative", "vsock:2:1", "/nowhere/at/all", "@nobody-listens"])
def test_where_nobody_listens_nothing_happens(monkeypatch, address):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)

    service_notice.notify("READY=1")


def test_what_waits_for_the_agent_hears_it(monkeypatch):
    with background._open_ready_socket() as (ready, address):
        directory = Path(address).parent
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        service_notice.notify("STATUS=starting")
        service_notice.notify("STATUS=here\nREADY=1")
        with subprocess.Popen(["sleep", "1000"]) as agent:
            try:
                assert background._wait_for_ready(ready, agent, patience(5))
            finally:
                agent.kill()
        assert select.select([ready], [], [], 0)[0] == []
    assert not directory.exists()


@pytest.mark.parametrize("command", ["false", "sleep 1000"])
def test_an_agent_that_does_not_get_ready_is_not_waited_for_longer_than_was_said(command):
    with within(5), background._open_ready_socket() as (ready, _), subprocess.Popen(command.split()) as agent:
        try:
            assert background._wait_for_ready(ready, agent, 0.5) == (False, "")
        finally:
            agent.kill()


def test_an_agent_that_does_not_start_is_told_with_where_to_read_on(state, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    state.create_directory()

    with pytest.raises(MachineRefused, match="`qmesh agent` did not start") as refused:
        background.start_background_process(state, "agent", wait_s=10)

    assert str(state.log_file) in refused.value.hint
    assert state.log_file.stat().st_mode & 0o777 == 0o600


UNITS = {AGENT: "[Unit]\nDescription=agent\n", BOOT_GUARD: "[Unit]\nDescription=\u2603\n"}


def test_units_are_written_0644_and_replaced(tmp_path):
    before = os.umask(0o077)
    try:
        systemd.write_units(dict.fromkeys(UNITS, "old"), tmp_path)
        systemd.write_units(UNITS, tmp_path)
    finally:
        os.umask(before)

    assert {path.name: path.read_text("utf-8") for path in tmp_path.iterdir()} == UNITS
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o644}


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_r1_nobody_else_can_add_to_a_unit_whatever_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        systemd.write_units({AFTER_FLUSH: "[Service]\n"}, tmp_path)
    finally:
        os.umask(before)

    assert (tmp_path / AFTER_FLUSH).parent.stat().st_mode & 0o777 == 0o755


def test_a_unit_that_was_linked_away_is_replaced_and_not_followed(tmp_path):
    (tmp_path / AGENT).symlink_to("/dev/null")  # as `systemctl mask` leaves it
    systemd.write_units(UNITS, tmp_path)

    assert not (tmp_path / AGENT).is_symlink()


def test_without_the_directory_units_are_refused(tmp_path):
    with pytest.raises(MachineRefused, match="could not be written"):
        systemd.write_units(UNITS, tmp_path / "no")


MADE = {name: add_mark(text) for name, text in UNITS.items()}


def test_only_units_that_changed_are_written(tmp_path):
    assert systemd.update_units(MADE, tmp_path) == systemd.UpdatedUnits((AGENT, BOOT_GUARD), ())
    before = {path: path.stat().st_ino for path in tmp_path.iterdir()}
    assert systemd.update_units(MADE, tmp_path) == systemd.UpdatedUnits((), ())
    assert {path: path.stat().st_ino for path in tmp_path.iterdir()} == before

    changed = {**MADE, AGENT: add_mark("[Unit]\nDescription=another version's\n")}
    assert systemd.update_units(changed, tmp_path) == systemd.UpdatedUnits((AGENT,), ())
    assert (tmp_path / AGENT).read_text() == changed[AGENT]


@pytest.mark.parametrize("edit", ["append", "replace", "mask"])
def test_a_unit_that_somebody_edited_is_kept_and_the_others_are_written(tmp_path, edit):
    systemd.update_units(MADE, tmp_path)
    path = tmp_path / AGENT
    (tmp_path / BOOT_GUARD).unlink()
    if edit == "mask":
        path.unlink()
        path.symlink_to("/dev/null")
    else:
        path.write_text({"append": MADE[AGENT] + "# mine\n", "replace": "[Unit]\n"}[edit])
    before = path.read_text()

    assert systemd.update_units(MADE, tmp_path) == systemd.UpdatedUnits((BOOT_GUARD,), (AGENT,))
    assert path.read_text() == before
    assert path.is_symlink() == (edit == "mask")


@pytest.mark.parametrize("mark", [add_mark, lambda text: text + "# mine\n"], ids=["as made", "edited"])
def test_r1_a_unit_of_an_earlier_version_is_found_edited_or_not(tmp_path, mark):
    where = systemd.build_unit_paths(State(tmp_path), config_directory="/root/.config", program="/bin/true")
    units = render_unit_files(where, is_control=True, cores=range(1, 2))
    systemd.write_units(units, tmp_path)
    assert systemd.list_outdated_units(tmp_path) == ()

    earlier = units[WORKER].replace(" -I -m qmesh ", " -m qmesh ").partition("\n")[2]
    assert earlier.count(" -m qmesh ready %i ") == 2
    systemd.write_units({WORKER: mark(earlier)}, tmp_path)
    assert systemd.list_outdated_units(tmp_path) == (WORKER,)
    assert systemd.list_outdated_units(tmp_path / "no") == ()


def test_a_unit_that_somebody_wrote_just_so_is_neither_written_nor_told_of(tmp_path):
    (tmp_path / AGENT).write_text(UNITS[AGENT])
    assert systemd.update_units({AGENT: UNITS[AGENT]}, tmp_path) == systemd.UpdatedUnits((), ())


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
def test_without_systemd_no_units_of_workers_are_installed_and_none_run():
    assert not systemd.has_worker_units()
    assert systemd.list_running_workers() == ()


def test_paths_are_absolute_whatever_the_directory_was_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = systemd.build_unit_paths(
        State(Path("state")), config_directory="/root/.config", program="/usr/bin/node"
    )

    assert paths.state == str(tmp_path / "state")
    assert paths.guard_file == str(tmp_path / "state" / "guard.nft")
    assert Path(paths.python).is_absolute()
    assert Path(paths.nft).is_absolute()
    assert (paths.config_directory, paths.program) == ("/root/.config", "/usr/bin/node")


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
@pytest.mark.parametrize("runs", [False, True])
def test_systemd_is_found_by_its_directory(runs):
    if runs:
        Path("/run/systemd/system").mkdir(parents=True)

    assert systemd.is_systemd_running() == runs


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
def test_what_systemctl_says_no_to_is_told(monkeypatch):
    # The test's machine has a /run of its own: no systemd is reached, were there one.
    if shutil.which("systemctl") is None:
        Path("/run/bin").mkdir()
        Path("/run/bin/systemctl").write_text("#!/bin/sh\necho 'Failed to connect to bus' >&2\nexit 1\n")
        Path("/run/bin/systemctl").chmod(0o755)
        monkeypatch.setenv("PATH", "/run/bin", prepend=os.pathsep)
    Path("/run/units").mkdir()
    monkeypatch.setattr(systemd, "UNIT_DIRECTORY", Path("/run/units"))

    with pytest.raises(MachineRefused, match="systemctl daemon-reload failed: ") as refused:
        systemd.install_agent(UNITS)

    assert "\n" not in refused.value.message
    assert AGENT in refused.value.hint
    assert {path.name for path in Path("/run/units").iterdir()} == set(UNITS)


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
def test_the_agent_is_enabled_and_started_after_its_units_are_read(monkeypatch):
    Path("/run/bin").mkdir()
    Path("/run/bin/systemctl").write_text('#!/bin/sh\necho "$@" >> /run/said\n')
    Path("/run/bin/systemctl").chmod(0o755)
    Path("/run/units").mkdir()
    monkeypatch.setenv("PATH", "/run/bin", prepend=os.pathsep)
    monkeypatch.setattr(systemd, "UNIT_DIRECTORY", Path("/run/units"))
    systemd.install_agent(UNITS)

    assert Path("/run/said").read_text().splitlines() == [
        "daemon-reload",
        f"enable {BOOT_GUARD} {HOLDER} {AGENT}",
        f"start {BOOT_GUARD} {HOLDER}",
        f"restart {AGENT}",
    ]


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
def test_systemd_runs_the_node_where_it_is_the_init_and_has_the_units(monkeypatch):
    assert not systemd.has_node_units()
    Path("/run/units").mkdir()
    Path("/run/units", WORKER).touch()
    monkeypatch.setattr(systemd, "_UNIT_DIRECTORIES", (Path("/run/none"), Path("/run/units")))
    assert not systemd.has_node_units()
    Path("/run/systemd/system").mkdir(parents=True)
    assert systemd.has_node_units()
    Path("/run/units", WORKER).unlink()
    assert not systemd.has_node_units()

    monkeypatch.setattr(systemd, "UNIT_DIRECTORY", Path("/run/units"))
    assert systemd.has_control_first() is None
    for after, is_first in (("network.target", True), ("a.service qmesh-workers.target", False)):
        Path("/run/units", CONTROL_PROCESS).write_text(f"[Unit]\nAfter={after}\n")
        assert systemd.has_control_first() is is_first


@pytest.mark.parametrize(
    ("group", "unit"),
    [
        ("0::/system.slice/qnode.service", "qnode.service"),
        (r"0::/system.slice/system-q\x2dnode.slice/q-node@4.service", "q-node@4.service"),
        ("12:cpu:/x.service\n1:name=systemd:/system.slice/a@b:c.service", "a@b:c.service"),
        (
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/qmesh-worker@4.service",
            "qmesh-worker@4.service of user@1000.service",
        ),
        ("0::/user.slice/user-1000.slice/session-3.scope", ""),  # in screen, or in a loop of a shell
        ("0::/user.slice/user-1000.slice/user@1000.service/tmux-spawn-5f.scope", ""),
        ("0::/system.slice/docker-5f5f.scope", ""),
        ("0::/docker/5f5f", ""),
        ("0::/", ""),
        ("", ""),
    ],
)
def test_a_process_is_of_the_unit_that_its_control_group_names(group, unit):
    """A unit of a user's own manager is none that `systemctl restart NAME` knows, whatever it is called."""
    assert processes.parse_unit(f"{group}\n") == unit
