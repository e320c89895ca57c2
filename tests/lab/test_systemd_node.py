"""The node under systemd, in a throw-away machine: sudo ./scripts/test-kernel

Its processes are stand-ins that read config.yml and listen as the node does. A file says of a core
that it shall be slow, deaf or short-lived.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qmesh.errors import MachineRefused
from qmesh.host.system import systemd
from tests.support.checkout import CHECKOUT
from tests.support.lab.cluster import CONFIG, NODE_CONFIG
from tests.support.lab.machines import TOOLS
from tests.support.systemd import QMESH, init, is_loaded, run, shown, skip_unless_throwaway, until
from tests.support.waiting import idle, within

pytestmark = [pytest.mark.lab, pytest.mark.kernel, pytest.mark.long]

UNITS = Path("/etc/systemd/system")
PROGRAM = Path("/usr/local/bin/stand-in")
MODES = Path("/run/stand-in")
OFF = Path("/run/systemd/system")
CORES = (1, 2, 3)
ADDRESS, TARGET, CONTROL = "10.77.0.1", "qmesh-workers.target", "qmesh-control.service"

STAND_IN = f"""\
#!/bin/sh
case "$*" in *--core*) ;; *) exec sleep infinity ;; esac
for core; do :; done
case "$(cat {MODES}/$core 2>/dev/null)" in
slow) sleep 4 ;;
deaf) exec sleep infinity ;;
short-lived) sleep 1; exit 3 ;;
esac
PYTHONPATH={CHECKOUT} exec {sys.executable} {TOOLS / "worker.py"} "$@"
"""


def worker(core: int) -> str:
    return f"qmesh-worker@{core}.service"


WORKERS = tuple(map(worker, CORES))


@pytest.fixture(scope="module", autouse=True)
def node() -> Iterator[None]:
    """This machine as the control node, with units of the node, all of which run."""
    skip_unless_throwaway()
    shutil.rmtree("/var/lib/qmesh", ignore_errors=True)
    Path(CONFIG).mkdir(parents=True, exist_ok=True)
    Path(CONFIG, "config.yml").write_text(NODE_CONFIG)
    MODES.mkdir(exist_ok=True)
    PROGRAM.write_text(STAND_IN)
    PROGRAM.chmod(0o755)
    init()
    try:
        run(QMESH, "render-config", "--write")
        run(QMESH, "units", "--write", str(UNITS), "--program", str(PROGRAM))
        run("systemctl", "daemon-reload")
        yield
    finally:
        subprocess.run([QMESH, "uninstall", "--delete-state"], check=False, capture_output=True)
        shutil.rmtree(MODES)
        shutil.rmtree(CONFIG)


@pytest.fixture(autouse=True)
def all_run(node) -> Iterator[None]:
    """All as it is to be when a test begins, and no drop-in, mode or surplus worker of another test left."""
    subprocess.run(["systemctl", "start", TARGET, CONTROL], check=True, capture_output=True)
    try:
        yield
    finally:
        for path in MODES.iterdir():
            path.unlink()
        changed = list(UNITS.glob("qmesh-worker@*.d"))
        for path in changed:
            shutil.rmtree(path)
        run("systemctl", "daemon-reload")
        run("systemctl", "stop", worker(4), worker(9), *(path.name.removesuffix(".d") for path in changed))


@pytest.fixture
def told(all_run) -> Callable[[str], str]:
    """What a unit's log has since the test began."""
    words = ("journalctl", "--no-pager", "--output=cat", f"--since=@{time.time():.6f}")
    return lambda unit: run(*words, f"--unit={unit}")


def processes(*units: str) -> tuple[int, ...]:
    return tuple(int(shown(unit, "MainPID")[0]) for unit in units)


def states(*units: str) -> tuple[str, ...]:
    return tuple(shown(unit, "ActiveState")[0] for unit in units)


def listens(core: int) -> bool:
    try:
        with socket.create_connection((ADDRESS, 39999 + core), timeout=5) as connection:
            return connection.makefile().readline().startswith(f"core {core} ")
    except OSError:
        return False


def drop_in(core: int, text: str, section: str = "Service") -> None:
    directory = UNITS / f"{worker(core)}.d"
    directory.mkdir()
    (directory / "test.conf").write_text(f"[{section}]\n{text}")
    run("systemctl", "daemon-reload")


def impatient(core: int, *, startable_s: int = 60, listening_s: int = 180) -> None:
    """Have a core's start give up sooner."""
    ready = f"+{sys.executable} -I -m qmesh ready {core} --config {CONFIG} --timeout"
    drop_in(
        core,
        f"ExecStartPre=\nExecStartPre={ready} {startable_s}\n"
        f"ExecStartPost=\nExecStartPost={ready} {listening_s} --listening\n",
    )


@contextlib.contextmanager
def without_agent(*, holder: bool = True) -> Iterator[None]:
    """While no agent runs, and starts by nothing; without holder neither that."""
    units = ["qmesh.service", *([] if holder else ["qmesh-hold.service"])]
    run("systemctl", "stop", *units)
    for unit in units:
        OFF.joinpath(f"{unit}.d").mkdir(parents=True)
        OFF.joinpath(f"{unit}.d", "off.conf").write_text("[Unit]\nConditionPathExists=/nowhere\n")
    run("systemctl", "daemon-reload")
    try:
        yield
    finally:
        for unit in units:
            shutil.rmtree(OFF / f"{unit}.d")
        run("systemctl", "daemon-reload")
        run("systemctl", "start", *units)


def test_systemd_has_nothing_against_the_units():
    units = [WORKERS[0], TARGET, CONTROL, "qmesh.service", "qmesh-guard.service", "qmesh-hold.service"]
    assert run("systemd-analyze", "verify", "--man=no", *units) == ""


def test_the_target_is_started_when_every_worker_listens_and_the_control_process_comes_last():
    run("systemctl", "stop", CONTROL, TARGET)
    assert states(*WORKERS) == ("inactive",) * 3
    (MODES / "2").write_text("slow")
    run("systemctl", "start", TARGET, CONTROL)

    assert all(map(listens, CORES))
    ready = [int(shown(unit, "ActiveEnterTimestampMonotonic")[0]) for unit in WORKERS]
    assert int(shown(CONTROL, "ExecMainStartTimestampMonotonic")[0]) > max(ready)


def test_each_worker_has_the_limits_and_signals_of_its_makers():
    for unit in WORKERS:
        limits = Path(f"/proc/{processes(unit)[0]}/limits").read_text()
        assert "Max open files            1048576              1048576" in limits
        assert shown(unit, "KillSignal", "TimeoutStopUSec", "FinalKillSignal") == ("2", "30s", "9")


def test_a_worker_that_is_killed_is_started_again_and_no_other():
    before, control = processes(*WORKERS), processes(CONTROL)
    os.kill(before[1], signal.SIGKILL)
    until(lambda: not listens(2))
    until(lambda: listens(2) and states(WORKERS[1]) == ("active",))

    after = processes(*WORKERS)
    assert (after[0], after[2]) == (before[0], before[2])
    assert after[1] not in {0, before[1]}
    assert processes(CONTROL) == control


def test_a_control_process_that_is_killed_is_started_again_and_the_workers_go_on():
    before, control = processes(*WORKERS), processes(CONTROL)[0]
    os.kill(control, signal.SIGKILL)
    until(lambda: processes(CONTROL)[0] not in {0, control})

    assert processes(*WORKERS) == before


def test_a_worker_is_started_again_however_often_it_ends():
    """systemd gives up after five starts in ten seconds where it is not told otherwise."""
    drop_in(1, "RestartSec=100ms\nExecStartPre=\nExecStartPost=\nExecStart=\nExecStart=/bin/false\n")
    run("systemctl", "restart", "--no-block", WORKERS[0])
    until(lambda: int(shown(WORKERS[0], "NRestarts")[0]) > 12)

    assert states(WORKERS[0])[0] != "failed"
    assert shown(WORKERS[0], "StartLimitIntervalUSec") == ("0",)


def test_a_stop_of_the_target_stops_all_workers_by_their_signal_and_a_restart_restarts_them():
    before = processes(*WORKERS)
    run("systemctl", "restart", TARGET)
    after = processes(*WORKERS)
    assert not set(before) & set(after)
    assert all(map(listens, CORES))

    with within(30):
        run("systemctl", "stop", TARGET)
        until(lambda: states(*WORKERS) == ("inactive",) * 3)
    for unit in WORKERS:
        assert shown(unit, "Result", "ExecMainCode", "ExecMainStatus") == ("success", "1", "0")


def test_g3_the_guards_unit_may_be_restarted_and_stopped_and_the_node_goes_on():
    before = processes(*WORKERS, CONTROL)
    for verb in ("restart", "stop", "start"):
        run("systemctl", verb, "qmesh-guard.service")
        assert is_loaded()
        assert processes(*WORKERS, CONTROL) == before
        assert states(*WORKERS, CONTROL) == ("active",) * 4


def test_a_worker_that_required_the_guards_unit_would_be_restarted_with_it():
    """The counter-experiment to the test before."""
    drop_in(1, "Requires=qmesh-guard.service\n", "Unit")
    before = processes(*WORKERS)
    run("systemctl", "restart", "qmesh-guard.service")
    until(lambda: processes(WORKERS[0])[0] not in {0, before[0]})

    assert processes(*WORKERS[1:]) == before[1:]


def test_the_agent_and_the_holder_may_end_and_the_node_goes_on_and_starts():
    before = processes(*WORKERS, CONTROL)
    with without_agent(holder=False):
        assert processes(*WORKERS, CONTROL) == before
        run("systemctl", "restart", *WORKERS)
        assert all(map(listens, CORES))
        assert states("qmesh.service", "qmesh-hold.service") == ("inactive", "inactive")


def test_a_worker_waits_for_the_tunnels_address_and_starts_as_soon_as_it_is_there(told):
    with without_agent():
        run("ip", "link", "delete", "qmesh0")
        run("systemctl", "restart", "--no-block", WORKERS[0])
        until(lambda: f"{ADDRESS}, where core 1 should listen, is not an address" in told(WORKERS[0]))
        idle(2)

        assert processes(WORKERS[0]) == (0,)
        assert shown(WORKERS[0], "ActiveState", "SubState") == ("activating", "start-pre")
    until(lambda: listens(1) and states(WORKERS[0]) == ("active",))


def test_a_worker_whose_address_does_not_come_fails_with_a_reason_and_tries_on_until_it_does(told):
    impatient(1, startable_s=1)
    with without_agent():
        run("ip", "link", "delete", "qmesh0")
        run("systemctl", "restart", WORKERS[0], code=1)
        assert f"error: {ADDRESS}, where core 1 should listen, is not an address of this machine" in told(
            WORKERS[0]
        )
        until(lambda: int(shown(WORKERS[0], "NRestarts")[0]) >= 2)
        assert processes(WORKERS[0]) == (0,)
    until(lambda: listens(1) and states(WORKERS[0]) == ("active",))


def test_g3_no_worker_starts_without_the_guard_and_each_does_as_soon_as_it_is_loaded(told):
    """Also where the guard's unit counts as active: it is what the kernel has that counts."""
    with without_agent(holder=False):
        run("nft", "delete", "table", "inet", "qmesh")
        assert states("qmesh-guard.service") == ("active",)
        run("systemctl", "restart", "--no-block", *WORKERS, CONTROL)
        until(lambda: all("no guard is loaded" in told(unit) for unit in (*WORKERS, CONTROL)))
        idle(2)
        assert processes(*WORKERS, CONTROL) == (0,) * 4
        assert not any(map(listens, CORES))
    until(lambda: is_loaded() and all(map(listens, CORES)))
    until(lambda: processes(CONTROL) != (0,))


def test_a_worker_that_does_not_listen_is_told_of_and_started_again(told):
    impatient(1, listening_s=3)
    (MODES / "1").write_text("deaf")
    run("systemctl", "restart", WORKERS[0], code=1)
    assert f"error: core 1 does not listen on {ADDRESS} port 40000" in told(WORKERS[0])
    until(lambda: int(shown(WORKERS[0], "NRestarts")[0]) >= 1)

    (MODES / "1").unlink()
    until(lambda: listens(1) and states(WORKERS[0]) == ("active",))


def test_a_worker_that_ends_before_it_listens_is_not_waited_for(told):
    (MODES / "1").write_text("short-lived")
    with within(60):
        run("systemctl", "restart", WORKERS[0], code=1)
    assert "port 40000: its process ended" in told(WORKERS[0])

    (MODES / "1").unlink()
    until(lambda: listens(1) and states(WORKERS[0]) == ("active",))


def test_a_worker_whose_port_another_program_has_does_not_start(told):
    run("systemctl", "stop", WORKERS[0])
    impatient(1, startable_s=1)
    with socket.create_server((ADDRESS, 40000)):
        run("systemctl", "start", WORKERS[0], code=1)
        assert f"error: {ADDRESS} port 40000, where core 1 should listen, is in use" in told(WORKERS[0])
        assert processes(WORKERS[0]) == (0,)


def test_a_core_beyond_the_list_does_not_start_and_says_why(told):
    with within(30):
        run("systemctl", "start", worker(4), code=1)

    assert "error: core 4 is not in the worker list, which ends with core 3" in told(worker(4))


def test_a_program_that_is_not_there_fails_at_once():
    drop_in(1, "ExecStart=\nExecStart=/usr/local/bin/no-such-node\n")
    with within(30):
        run("systemctl", "restart", WORKERS[0], code=1)

    assert shown(WORKERS[0], "ExecMainStatus") == ("203",)


def test_a_user_of_the_nodes_own_is_none_of_the_guards_business():
    drop_in(1, "User=nobody\n")
    for path in (Path("/root"), Path("/root/node"), Path(CONFIG)):
        path.chmod(0o755)
    Path(CONFIG, "config.yml").chmod(0o644)
    try:
        run("systemctl", "restart", WORKERS[0])
    finally:
        Path(CONFIG, "config.yml").chmod(0o600)

    assert listens(1)
    assert Path(f"/proc/{processes(WORKERS[0])[0]}").stat().st_uid == 65534


def with_workers(count: int) -> str:
    """Change how many there are, in the mesh and in this machine's config.yml; what the second says."""
    run(QMESH, "set", "control", "--workers", str(count))
    return run(QMESH, "render-config", "--write")


def test_units_writes_what_changed_keeps_what_was_edited_and_tells_of_removed_cores():
    words = (QMESH, "units", "--write", str(UNITS))
    assert run(*words) == f"nothing to do: the units in {UNITS} are up to date\n"
    target = UNITS / TARGET
    text = target.read_text()
    edited = f"{text}# mine\n"
    run("systemctl", "stop", "qmesh.service")  # or it would have the target follow by itself
    try:
        with_workers(4)
        run("systemctl", "restart", TARGET)
        assert systemd.list_running_workers() == (1, 2, 3, 4)
        removed = f"are no longer this machine's: run `systemctl stop {worker(4)}`"
        assert removed in with_workers(3)
        assert target.read_text() == text
        assert removed in run(*words)

        target.write_text(edited)
        (UNITS / "qmesh-control.service").unlink()
        answer = run(*words, code=1)
        assert f"kept {target}, which was edited" in answer
        assert f"wrote {CONTROL}; run `systemctl daemon-reload`" in answer
        assert target.read_text() == edited
    finally:
        with_workers(3)
        target.unlink(missing_ok=True)
        said = run(*words)
        run("systemctl", "start", "qmesh.service")
    assert said.startswith(f"wrote {TARGET}; run")
    assert target.read_text() == text


def test_the_workers_units_are_installed_where_systemd_has_them():
    assert systemd.has_worker_units()
    shutil.move(UNITS / "qmesh-worker@.service", "/run/away")
    run("systemctl", "stop", *WORKERS)
    run("systemctl", "daemon-reload")
    try:
        assert not systemd.has_worker_units()
    finally:
        shutil.move("/run/away", UNITS / "qmesh-worker@.service")
        run("systemctl", "daemon-reload")


def test_workers_are_restarted_stopped_and_started_by_their_cores():
    before, control = processes(*WORKERS), processes(CONTROL)
    systemd.run_systemctl("restart", *WORKERS[:2])
    after = processes(*WORKERS)
    assert after[2] == before[2]
    assert not {*after[:2]} & {0, *before}
    assert all(map(listens, CORES))

    systemd.run_systemctl("stop", *WORKERS[1:])
    systemd.run_systemctl("stop", *WORKERS[1:])
    assert states(*WORKERS) == ("active", "inactive", "inactive")
    assert [listens(core) for core in CORES] == [True, False, False]
    assert systemd.list_running_workers() == (1,)

    systemd.run_systemctl("start", *WORKERS)
    assert processes(WORKERS[0]) == after[:1]
    assert all(map(listens, CORES))

    assert processes(CONTROL) == control
    systemd.run_systemctl("restart", CONTROL)
    assert processes(CONTROL)[0] not in {0, *control}


def test_what_systemd_says_of_a_worker_that_does_not_start_is_told(told):
    with pytest.raises(MachineRefused, match=r"Job for qmesh-worker@9\.service failed") as caught:
        systemd.run_systemctl("start", WORKERS[0], "qmesh-worker@9.service")

    assert "systemctl status qmesh-worker@9.service" in caught.value.hint
    assert listens(1)


def test_a_change_restarts_just_what_it_is_about_and_nothing_that_its_owner_stopped():
    run(QMESH, "set", "--restart")
    before, control = processes(*WORKERS), processes(CONTROL)
    try:
        run(QMESH, "set", "control", "--workers", "4")
        until(lambda: listens(4))
        until(lambda: processes(CONTROL) not in {control, (0,)})
        assert processes(*WORKERS) == before
        assert worker(4) in (UNITS / TARGET).read_text()
        run("systemctl", "stop", CONTROL)
        run(QMESH, "set", "control", "--workers", "3")
        until(lambda: states(worker(4)) == ("inactive",))
        assert processes(*WORKERS) == before
        until(lambda: not Path("/var/lib/qmesh/due.json").exists())
        assert states(CONTROL) == ("inactive",)
    finally:
        run(QMESH, "set", "control", "--workers", "3")
        run(QMESH, "set", "--no-restart")
