"""qmesh under systemd, on a throw-away machine: sudo ./scripts/test-kernel

These tests change the machine they run on. So they run only on one whose kernel was told when it
was started that it will be thrown away, and on a lab machine, by tests/support/lab/throwaway.py.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmesh.agent.daemon.loop_events import LOOK_S
from qmesh.mesh.systemd.units import WATCHDOG_S
from tests.support.lab.cluster import CONFIG, NODE_CONFIG
from tests.support.rulesets import LIST_RULESET, find_held_table
from tests.support.systemd import (
    QMESH,
    agent,
    init,
    is_loaded,
    run,
    said,
    shown,
    skip_unless_throwaway,
    until,
)
from tests.support.waiting import idle, wait_until

pytestmark = [pytest.mark.lab, pytest.mark.kernel, pytest.mark.throwaway]


def rules() -> str:
    """The guard, with the handles that the kernel gave its rules: one that was made anew has others."""
    return run("nft", "-a", "list", "table", "inet", "qmesh")


def settled_rules() -> str:
    """The same, once nobody loads it any more.

    Three keep the guard: `qmesh hold`, and in the agent a part of its own and the look. What the test before
    has deleted, each may put back that has seen it gone, on a slow machine one after the other.
    """
    seen = [""]

    def is_settled() -> bool:
        seen.append(rules())
        return seen[-1] == seen[-2]

    wait_until(is_settled, 60, every_s=2.0)
    return seen[-1]


def all_of_it() -> dict[str, str]:
    """What qmesh could leave on a machine, byte for byte.

    Left out is the sysctl that the kernel's WireGuard sets when any interface of it is brought up.
    """
    asked = {
        "rules": "nft list ruleset",
        "links": "ip -o link; ip -o address; ip route; ip -6 route",
        "sysctls": "sysctl -a 2>/dev/null | grep '^net' | grep -v 'neigh\\|_count\\|all.send_redirects'",
        "files": "find /etc/systemd /var/lib/qmesh 2>&1 | sort",
        "units": "systemctl list-units --all --plain 'qmesh*'; systemctl list-unit-files 'qmesh*'",
        "drop-ins": "systemctl show nftables.service --property=DropInPaths,ExecReload",
        "processes": "pgrep -a 'qmesh|wireguard'; pgrep -af '[-]m qmesh'",
        "sockets": "ss -Hlntu | sort",
    }
    return {name: said(script) for name, script in asked.items()}


@pytest.fixture(scope="module")
def mesh(request) -> Iterator[dict[str, str]]:
    """A mesh with this machine as its control node; gives what was there before, if that is asked for."""
    skip_unless_throwaway()
    shutil.rmtree("/var/lib/qmesh", ignore_errors=True)  # the host may be in a mesh, and shows its files
    Path(CONFIG).mkdir(parents=True)
    Path(CONFIG, "config.yml").write_text(NODE_CONFIG)
    Path(CONFIG, "config.yml").chmod(0o600)
    asked = {item.name for item in request.session.items}
    before = all_of_it() if "test_uninstall_leaves_nothing_but_what_was_edited" in asked else {}
    init()
    yield before
    if request.session.items[-1].path != request.path:  # else all of the machine goes now
        subprocess.run([QMESH, "uninstall", "--delete-state"], check=False, capture_output=True)


def test_init_starts_agent_and_guard_and_enables_both(mesh):
    state = ("UnitFileState", "ActiveState", "SubState", "Result")

    assert shown("qmesh.service", *state) == ("enabled", "active", "running", "success")
    assert shown("qmesh-guard.service", *state) == ("enabled", "active", "exited", "success")
    (link,) = json.loads(run("ip", "-json", "-details", "link", "show", "qmesh0"))
    assert link["linkinfo"]["info_kind"] in {"wireguard", "tun"}  # the kernel's has test_boot.py
    assert is_loaded()
    files = [f"/etc/systemd/system/{name}" for name in ("qmesh.service", "qmesh-guard.service")]
    assert run("systemd-analyze", "verify", "--man=no", *files) == ""


def test_a1_the_agent_is_ready_when_its_service_answers_and_says_how_it_is(mesh):
    until(lambda: shown("qmesh.service", "StatusText") == ("all is as desired",))
    assert shown("qmesh.service", "Type") == ("notify",)
    assert shown("qmesh.service", "WatchdogUSec") != ("0",)  # as long as this machine's looks want
    assert f"\nWatchdogSec={WATCHDOG_S}\n" in said("systemctl cat qmesh.service")


def test_a1_an_agent_that_is_stopped_as_a_whole_is_ended_and_started_again(mesh):
    stopped = agent()
    restarts = int(shown("qmesh.service", "NRestarts")[0])
    os.kill(stopped, signal.SIGSTOP)
    until(lambda: agent() not in {0, stopped})
    until(lambda: shown("qmesh.service", "ActiveState") == ("active",))
    assert is_loaded()
    assert not Path(f"/proc/{stopped}").exists()
    assert shown("qmesh.service", "NRestarts") == (str(restarts + 1),)  # and not again and again


def test_the_boot_guard_is_before_the_network_in_the_order_of_a_boot(mesh):
    """Its place in the next boot, as systemd has understood the unit."""
    before, wanted_by = shown("qmesh-guard.service", "Before", "WantedBy")

    assert {"network-pre.target", "qmesh.service"} <= set(before.split())
    assert "sysinit.target" in wanted_by.split()


def test_g3_the_guard_stays_when_the_agent_is_stopped_and_at_boot_is_loaded_without_it(mesh):
    """After a stop, what a boot does in its order: nothing is there, and the guard's unit is started."""
    before = settled_rules()
    run("systemctl", "stop", "qmesh.service")

    assert rules() == before
    assert Path("/sys/class/net/qmesh0").exists()

    run("systemctl", "stop", "qmesh-guard.service")
    run("nft", "delete", "table", "inet", "qmesh")
    run("ip", "link", "delete", "qmesh0")
    run("systemctl", "start", "qmesh-guard.service")

    assert is_loaded()
    assert agent() == 0

    run("systemctl", "start", "qmesh.service")
    until(lambda: Path("/sys/class/net/qmesh0").exists())


# Beyond what tests/lab/test_boot.py does to it while somebody asks for a worker.
@pytest.mark.long
def test_g3_an_agent_that_is_killed_is_started_again_and_the_guard_was_never_away(mesh):
    before, killed, restarts = settled_rules(), agent(), int(shown("qmesh.service", "NRestarts")[0])
    os.kill(killed, signal.SIGKILL)
    until(lambda: agent() not in {0, killed} and shown("qmesh.service", "SubState") == ("running",))

    assert rules() == before
    assert int(shown("qmesh.service", "NRestarts")[0]) == restarts + 1


@pytest.mark.long
def test_g3_the_guard_stays_when_the_agent_is_restarted(mesh):
    before = settled_rules()
    run("systemctl", "restart", "qmesh.service")

    assert rules() == before


def test_a_guard_that_somebody_deletes_is_put_back_by_the_agent(mesh):
    run("nft", "delete", "table", "inet", "qmesh")
    until(is_loaded)


def test_a_machine_under_systemd_is_as_check_wants_it(mesh):
    run(QMESH, "render-config", "--write")

    # No worker runs on it. That a part was begun anew within the hour is of an emulated machine that is busy.
    findings = json.loads(run(QMESH, "check", "--json"))["findings"]
    assert {finding["code"] for finding in findings} - {"agent-restarted"} == {"worker-silent"}


@pytest.mark.long
def test_down_open_opens_and_says_so_until_apply(mesh):
    said = run(QMESH, "down", "--open")

    assert "worker ports 40000-40002 are OPEN" in said
    assert not is_loaded()
    assert not Path("/sys/class/net/qmesh0").exists()
    assert shown("qmesh.service", "SubState") == ("running",)
    idle(LOOK_S + 1)
    assert not is_loaded()

    run(QMESH, "apply")
    assert is_loaded()
    assert Path("/sys/class/net/qmesh0").exists()


@pytest.mark.long
def test_uninstall_leaves_nothing_but_what_was_edited(mesh):
    """Byte for byte as before `init`; what was edited by hand is stopped and named."""
    units = Path("/etc/systemd/system")
    run(QMESH, "units", "--write", str(units), "--program", "/bin/sleep")
    with (units / "qmesh-control.service").open("a") as unit:
        unit.write("# mine\n")
    run("systemctl", "daemon-reload")
    run("systemctl", "enable", "qmesh-workers.target")
    run("systemctl", "enable", "--now", "--no-block", "qmesh-control.service")

    try:
        told = run(QMESH, "uninstall", "--delete-state")
        edited = shown("qmesh-control.service", "ActiveState", "UnitFileState")
        (units / "qmesh-control.service").unlink()
        run("systemctl", "daemon-reload")
        after = all_of_it()
    finally:
        init()  # for the other tests

    kept = [line.split()[1] for line in told.splitlines() if line.startswith("kept")]
    assert kept == [str(units / "qmesh-control.service")]
    assert edited == ("inactive", "disabled")
    assert "worker ports 40000-40002 are OPEN" in told
    differs = {name: set(after[name].splitlines()) ^ set(mesh[name].splitlines()) for name in mesh}
    assert {name: lines for name, lines in differs.items() if lines} == {}
    assert after == mesh


@pytest.mark.long
def test_check_finds_a_flush_that_nothing_outlasts_and_apply_is_its_cure(mesh):
    drop_in = Path("/etc/systemd/system/nftables.service.d/qmesh.conf")
    text = drop_in.read_text()
    run("systemctl", "start", "nftables.service")
    drop_in.write_text("")
    run("systemctl", "stop", "qmesh.service", "qmesh-hold.service")

    assert "error: foreign-flush nftables.service" in run(QMESH, "check", code=1)

    run(QMESH, "apply")
    assert "foreign-flush" not in said(f"{QMESH} check")
    assert drop_in.read_text() == text
    assert str(drop_in) in shown("nftables.service", "DropInPaths")[0]
    run("systemctl", "stop", "nftables.service")
    assert is_loaded()


@pytest.mark.long  # what is found of a file and a unit, without systemd in tests/host/test_firewall_units.py
def test_rules_saved_with_the_guard_in_them_are_loaded_again_and_a_load_that_failed_is_named(mesh):
    path = Path("/etc/nftables.conf")
    before = path.read_text()
    run("nft", "add", "table", "inet", "mine")
    try:
        path.write_text(run("nft", "list", "ruleset"))
        run("systemctl", "restart", "nftables.service")
        assert "table inet mine" in run("nft", "list", "tables")
        assert is_loaded()
        assert "warning: foreign-saved /etc/nftables.conf" in said(f"{QMESH} check")

        path.write_text("nonsense\n")
        subprocess.run(["systemctl", "restart", "nftables.service"], check=False, capture_output=True)
        assert "error: foreign-failed nftables.service" in run(QMESH, "check", code=1)
    finally:
        path.write_text(before)
    run("systemctl", "restart", "nftables.service")
    assert "foreign-failed" not in said(f"{QMESH} check")
    assert is_loaded()
    run("systemctl", "stop", "nftables.service")


@pytest.mark.long  # without systemd in tests/lab/test_state_gone.py
def test_state_that_is_gone_is_taken_over_with_the_guard_held_throughout(mesh):
    """The units of the one whose state is gone are there still, and begin its agent again and again."""
    shutil.rmtree("/var/lib/qmesh")
    until(lambda: shown("qmesh.service", "ExecMainStatus") == ("2",))  # it ended, and was begun without state
    assert is_loaded()
    assert find_held_table(run(*LIST_RULESET))
    words = (QMESH, "init", "--endpoint", "192.0.2.1", "--workers", "3", "--node", "1.4", "--config", CONFIG)
    refused = subprocess.run(words, check=False, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "leftovers of an earlier qmesh" in refused.stderr
    assert "its guard, which closes ports 40000-40002" in refused.stderr
    assert is_loaded()

    run(*words, "--take-over")
    until(lambda: shown("qmesh.service", "ActiveState", "SubState") == ("active", "running"))
    assert shown("qmesh-hold.service", "ActiveState") == ("active",)
    assert run("pgrep", "-c", "qmesh-hold").strip() == "1"
    holder = Path("/proc", shown("qmesh-hold.service", "MainPID")[0], "fd")
    assert "/var/lib/qmesh/hold.lock" in [str(each.readlink()) for each in holder.iterdir()]
    assert '"steps":[]' in run(QMESH, "plan", "--json")
