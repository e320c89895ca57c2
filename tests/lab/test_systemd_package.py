"""The package under systemd, in a throw-away machine: sudo ./scripts/test-kernel, with kernel WireGuard.

In a minute: python -m tests.support.lab.throwaway tests/lab/test_systemd_package.py
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.lab.packages import PROGRAM, build_package
from tests.support.systemd import agent, is_loaded, run, said, shown, skip_unless_throwaway, until

pytestmark = [pytest.mark.lab, pytest.mark.kernel, pytest.mark.long]

UNITS, STATE = Path("/etc/systemd/system"), Path("/var/lib/qmesh")
OWN = ("qmesh.service", "qmesh-guard.service", "qmesh-hold.service")


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> dict[str, Path]:
    skip_unless_throwaway()
    folder = tmp_path_factory.mktemp("packages")
    return {version: build_package(folder, version) for version in ("0.0.1", "99")}


@pytest.fixture
def control(packages) -> Iterator[None]:
    """This machine as a control node, by the older package, with a unit for the node's workers."""
    run("dpkg", "-i", str(packages["0.0.1"]))
    run(PROGRAM, "init", "--endpoint", "192.0.2.1", "--workers", "3", "--node", "1.4")
    yield
    subprocess.run(["dpkg", "--purge", "qmesh"], check=False, capture_output=True)


def holder() -> int:
    return int(shown("qmesh-hold.service", "MainPID")[0])


@pytest.fixture
def drop_ins(control) -> Iterator[Path]:
    """A folder that is the operator's: no purge takes it."""
    yield UNITS / "qmesh.service.d"
    shutil.rmtree(UNITS / "qmesh.service.d", ignore_errors=True)


def test_g3_an_upgrade_is_a_restart_of_two_units_of_which_one_is_new(drop_ins, packages):
    drop_ins.mkdir(exist_ok=True)
    (drop_ins / "mine.conf").write_text("[Service]\nNice=1\n")
    run("systemctl", "daemon-reload")
    before = agent(), holder(), run("ip", "link", "show", "qmesh0")
    rules = run("nft", "-a", "list", "table", "inet", "qmesh")
    told = run("dpkg", "-i", str(packages["99"]))
    assert "restarted the process that holds the guard and the agent, as version 99" in told
    assert agent() not in {0, before[0]}
    assert holder() not in {0, before[1]}
    assert run("ip", "link", "show", "qmesh0") == before[2]
    # Its handles are those of before: it was not even loaded again.
    assert run("nft", "-a", "list", "table", "inet", "qmesh") == rules
    assert shown("qmesh.service", "ActiveState", "NeedDaemonReload", "Nice") == ("active", "no", "1")
    assert "agent-outdated" not in said(f"{PROGRAM} check")


def test_an_agent_that_was_disabled_stays_so_and_one_that_was_stopped_is_started(control, packages):
    run("systemctl", "disable", "--now", "qmesh.service")
    assert "no agent runs on this machine" in run("dpkg", "-i", str(packages["99"]))
    assert shown("qmesh.service", "ActiveState", "UnitFileState") == ("inactive", "disabled")
    run("systemctl", "enable", "qmesh.service")
    run("dpkg", "-i", str(packages["99"]))
    assert shown("qmesh.service", "ActiveState", "UnitFileState") == ("active", "enabled")


def test_g3_what_stays_after_a_removal_closes_the_ports_and_a_purge_leaves_nothing(control, packages):
    told = run("dpkg", "--remove", "qmesh")
    assert "ports 40000-40002, the workers' among them, stay CLOSED" in told
    assert "qmesh-guard.service loads it at each boot" in told
    assert [name for name in OWN if (UNITS / name).exists()] == ["qmesh-guard.service"]
    assert is_loaded()
    assert agent() == holder() == 0
    # As a boot does, and as nftables.service does to the rules.
    run("nft", "flush", "ruleset")
    run("systemctl", "restart", "nftables.service")
    assert is_loaded()
    run("nft", "flush", "ruleset")
    run("systemctl", "restart", "qmesh-guard.service")
    assert is_loaded()
    run("systemctl", "stop", "nftables.service")

    run("dpkg", "-i", str(packages["99"]))
    until(lambda: shown("qmesh.service", "ActiveState", "UnitFileState") == ("active", "enabled"))
    assert shown("qmesh-hold.service", "ActiveState", "UnitFileState") == ("active", "enabled")

    told = run("dpkg", "--purge", "qmesh")
    assert "ports 40000-40002, the workers' among them," in told
    assert not is_loaded()
    assert said("systemctl list-units --all --plain --no-legend 'qmesh*'") == ""
    assert said("find /etc/systemd/system /run -name '*qmesh*'; ls /usr/lib/qmesh 2>/dev/null") == ""
    assert STATE.is_mount() or not STATE.exists()  # a lab machine's own
    assert said(f"find {STATE} -mindepth 1 2>/dev/null") == ""
    assert said("pgrep -a 'qmesh|wireguard-go'") == ""
    assert not Path("/sys/class/net/qmesh0").exists()
