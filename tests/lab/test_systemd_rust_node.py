"""Node 2.1-rust of a user under systemd, in a throw-away machine: sudo ./scripts/test-kernel

The node is the tests' stand-in, which ends and calls as the real one does. What its agent does from within
its sandbox can only be seen here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.lab.machines import TOOLS
from tests.support.systemd import QMESH, run, said, shown, skip_unless_throwaway, until

pytestmark = [pytest.mark.lab, pytest.mark.kernel, pytest.mark.long]

OWNER = 12346
HOME = Path("/home/rust/node")
CONFIG = HOME / ".config"
UNITS = Path("/etc/systemd/system")
PROGRAM = Path("/usr/local/bin/quil-node")
TARGET, CONTROL = "qmesh-workers.target", "qmesh-control.service"
WORKERS = ("qmesh-worker@1.service", "qmesh-worker@2.service")
STARTED = "ExecMainStartTimestampMonotonic"


@pytest.fixture(scope="module", autouse=True)
def node() -> Iterator[None]:
    """A control node with two workers, whose node is a user's and run by qmesh's units; all of it runs."""
    skip_unless_throwaway()
    shutil.rmtree("/var/lib/qmesh", ignore_errors=True)
    for name, line in (("passwd", f"rust:x:{OWNER}:{OWNER}::{HOME}:/bin/sh"), ("group", f"rust:x:{OWNER}:")):
        with Path("/etc", name).open("a") as file:
            file.write(f"{line}\n")
    CONFIG.mkdir(parents=True)
    for path in (HOME.parent, HOME, CONFIG):
        os.chown(path, OWNER, OWNER)
    text = (TOOLS / "rust_node.py").read_text()
    PROGRAM.write_text(f"#!{sys.executable} -IS\n{text}")
    PROGRAM.chmod(0o755)
    make_files()
    mesh = ("--endpoint", "203.0.113.5", "--workers", "2", "--node", "2.1-rust", "--config", str(CONFIG))
    run(QMESH, "init", *mesh)
    try:
        run(QMESH, "render-config", "--write", "--config", str(CONFIG))
        run(QMESH, "units", "--write", str(UNITS), "--program", str(PROGRAM))
        run("systemctl", "daemon-reload")
        run("systemctl", "start", TARGET, CONTROL)
        yield
    finally:
        subprocess.run([QMESH, "uninstall", "--delete-state"], check=False, capture_output=True)
        shutil.rmtree(HOME.parent)


def make_files() -> None:
    """Have the control process make config.yml and keys.yml, as at its first start."""
    rights = ("setpriv", f"--reuid={OWNER}", f"--regid={OWNER}", "--clear-groups")
    words = [*rights, str(PROGRAM), "--config", str(CONFIG)]
    with subprocess.Popen(words, cwd=HOME, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any("ready" in line for line in process.stdout)
        process.terminate()
    for name in ("config.yml", "keys.yml"):
        (CONFIG / name).chmod(0o600)


def started(unit: str) -> int:
    return int(shown(unit, STARTED)[0])


def log_of(unit: str, since: float) -> str:
    return said(f"journalctl --no-pager --output=cat --since=@{since:.6f} --unit={unit}")


def status_of_workers() -> str:
    return run(QMESH, "status")


def test_the_control_process_is_started_first_and_all_earn():
    run("systemctl", "stop", CONTROL, TARGET)
    run("systemctl", "start", TARGET, CONTROL)
    assert started(CONTROL) < min(map(started, WORKERS))
    until(lambda: "2 of 2" in status_of_workers())


@contextlib.contextmanager
def patient(core: int) -> Iterator[None]:
    """Have a worker wait for the control process for longer than an emulated machine takes to start one."""
    directory = UNITS / f"qmesh-worker@{core}.service.d"
    directory.mkdir()
    ready = f"+{sys.executable} -I -m qmesh ready {core} --config {CONFIG} --timeout 900"
    text = f"[Service]\nTimeoutStartSec=1200\nExecStartPre=\nExecStartPre={ready}\n"
    (directory / "test.conf").write_text(text)
    run("systemctl", "daemon-reload")
    try:
        yield
    finally:
        shutil.rmtree(directory)
        run("systemctl", "daemon-reload")
        run("systemctl", "start", CONTROL, TARGET)


def test_a_worker_waits_for_the_control_process_and_starts_as_soon_as_that_answers():
    with patient(1):
        run("systemctl", "stop", CONTROL)
        begun = time.time()
        run("systemctl", "restart", "--no-block", WORKERS[0])
        until(lambda: "port 8340 yet: waiting" in log_of(WORKERS[0], begun))
        assert shown(WORKERS[0], "SubState") == ("start-pre",)
        run("systemctl", "start", "--no-block", CONTROL)
        until(lambda: shown(WORKERS[0], "ActiveState") == ("active",), 120)
        assert started(CONTROL) < started(WORKERS[0])


def test_an_end_by_its_signal_is_no_failure():
    run("systemctl", "stop", CONTROL, *WORKERS)
    try:
        for unit in (CONTROL, *WORKERS):
            assert shown(unit, "Result", "ExecMainStatus", "ActiveState") == ("success", "130", "inactive")
    finally:
        run("systemctl", "start", TARGET, CONTROL)


def test_n2_the_agent_sees_a_users_workers_from_within_its_sandbox():
    until(lambda: "2 of 2" in status_of_workers())
    begun = time.time()
    run("systemctl", "stop", CONTROL)
    try:
        said_of = "control cores 1-2: no connection for more than a minute"
        until(lambda: said_of in log_of("qmesh.service", begun), 150)
        assert "error: worker-cut-off" in run(QMESH, "check", code=1)
    finally:
        run("systemctl", "start", CONTROL)


def test_the_agent_asks_the_program_of_a_user_for_its_version():
    begun = time.time()
    try:
        run(QMESH, "set", "--node", "2.1")
        told = "the mesh is for node 2.1, but here core 0 runs"
        until(lambda: told in log_of("qmesh.service", begun), 90)
        left = [
            line for line in said(f"pgrep -u {OWNER} -af -- --version").splitlines() if "pgrep" not in line
        ]
        assert left == []
    finally:
        run(QMESH, "set", "--node", "2.1-rust")
        until(lambda: "/tcp/32501" in (CONFIG / "config.yml").read_text())


def test_a_change_restarts_the_control_process_first_and_leaves_nothing_outdated():
    run("systemctl", "restart", CONTROL, TARGET)
    before = {unit: started(unit) for unit in (CONTROL, *WORKERS)}
    run(QMESH, "set", "--restart")
    try:
        run(QMESH, "set", "--p2p-base-port", "25100")
        until(lambda: all(started(unit) > before[unit] for unit in before), 120)
        assert started(CONTROL) < min(map(started, WORKERS))
        until(lambda: "2 of 2" in status_of_workers())
        assert "outdated" not in said(f"{QMESH} check")
    finally:
        run(QMESH, "set", "--no-restart")
