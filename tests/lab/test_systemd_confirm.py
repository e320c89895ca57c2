"""`apply --confirm` under systemd, in a throw-away machine: sudo ./scripts/test-kernel"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.systemd import QMESH, is_loaded, run, shown, skip_unless_throwaway, until

pytestmark = [pytest.mark.lab, pytest.mark.kernel, pytest.mark.long]

STATE = Path("/var/lib/qmesh")
UNDO = "qmesh-undo.service"


def undone() -> bool:
    return bool(json.loads((STATE / "undo.json").read_text())["undone"])


def waiting() -> int:
    """The process that waits to undo."""
    return int(shown(UNDO, "MainPID")[0])


@pytest.fixture(scope="module", autouse=True)
def mesh():
    skip_unless_throwaway()
    run(QMESH, "init", "--endpoint", "192.0.2.1", "--workers", "3", "--node", "2.0")
    yield
    run(QMESH, "uninstall", "--delete-state")


@pytest.fixture(autouse=True)
def taken_down(mesh):
    subprocess.run([QMESH, "undo", "--now"], check=False, capture_output=True)
    run(QMESH, "down")
    yield
    subprocess.run([QMESH, "undo", "--now"], check=False, capture_output=True)
    run(QMESH, "apply")


def has_tunnel() -> bool:
    return Path("/sys/class/net/qmesh0").exists()


def test_the_process_that_undoes_is_in_nobodys_session_and_survives_its_death():
    # A login's scope is ended with all its processes; so is this one.
    words = ["systemd-run", "--scope", "--unit=login", "-p", "KillMode=control-group"]
    run(*words, "sh", "-c", f"{QMESH} apply --confirm 60; sleep 600 >/dev/null 2>&1 & true")
    run("systemctl", "kill", "--signal=KILL", "login.scope")
    assert shown(UNDO, "ActiveState", "UnitFileState") == ("active", "enabled")
    assert UNDO in Path(f"/proc/{waiting()}/cgroup").read_text()
    assert has_tunnel()
    killed = waiting()
    os.kill(killed, signal.SIGKILL)
    until(lambda: waiting() not in {0, killed})
    until(undone)
    assert not has_tunnel()
    assert is_loaded()
    until(lambda: shown(UNDO, "ActiveState") == ("inactive",))


def test_the_undoing_is_first_in_the_order_of_a_boot_and_changes_what_is_loaded_there():
    before = (STATE / "guard.nft").read_text()
    run(QMESH, "apply", "--confirm", "3000")
    order = set(shown(UNDO, "Before")[0].split())
    assert {"qmesh-guard.service", "qmesh-hold.service", "qmesh.service", "network-pre.target"} <= order
    assert run("systemd-analyze", "verify", "--man=no", f"/etc/systemd/system/{UNDO}") == ""
    # As after a reboot: nothing runs, nothing is loaded, and the boot is another.
    units = (UNDO, "qmesh.service", "qmesh-hold.service", "qmesh-guard.service")
    run("systemctl", "stop", *units)
    run("nft", "delete", "table", "inet", "qmesh")
    run("ip", "link", "delete", "qmesh0")
    (STATE / "guard.nft").write_text("table inet another {}\n")
    record = STATE / "undo.json"
    change = json.loads(record.read_text())
    record.write_text(json.dumps({**change, "boot": "0dd0b007-0000-4000-8000-000000000000"}))
    # systemctl asks for one after the other, a boot for all at once; both wait for the first.
    run("systemctl", "start", *units)
    assert undone()
    assert (STATE / "guard.nft").read_text() == before
    assert is_loaded()
    assert "another" not in run("nft", "list", "tables")
    assert not has_tunnel()


def test_what_is_confirmed_stays_and_the_process_ends():
    run(QMESH, "apply", "--confirm", "3000")
    assert "the change stays" in run(QMESH, "confirm")
    until(lambda: shown(UNDO, "ActiveState") == ("inactive",))
    assert has_tunnel()
