"""Boots under real systemd, with guard and units there before systemd is: sudo ./scripts/test-kernel is
the machine, and this is not run in it but starts it.

A mesh is made in a lab by the real commands. What they left on the disk is laid over / of a throw-away
machine, with what tests/support/lab/asked_machine.py says. What is done to such a machine afterwards, is in
test_disturbances.py.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkout import CHECKOUT
from tests.support.lab.asked_machine import (
    NEIGHBOUR,
    NFTABLES,
    OF_THE_TEST,
    OTHER_FILES,
    PROGRAM,
    UNITS,
    WORKER_PORT,
    assert_closed,
    count,
)
from tests.support.lab.cluster import make_control, qmesh, stop_agent
from tests.support.lab.machines import TOOLS, Lab
from tests.support.lab.programs.boot import ENOUGH, WORKERS
from tests.support.waiting import patience

pytestmark = [pytest.mark.lab, pytest.mark.machines]

ENABLED = (
    *("qmesh.service", "qmesh-guard.service", "qmesh-hold.service", "qmesh-workers.target"),
    "nftables.service",
)


@pytest.fixture(scope="module")
def disk(tmp_path_factory) -> Path:
    """What the machine's disk has that this one's has not: a mesh, made by the real commands."""
    if not NFTABLES.exists():
        pytest.skip(f"this machine cannot: it has no {NFTABLES}")
    root: Path = tmp_path_factory.mktemp("disk")
    for name, text in OTHER_FILES.items():
        write(root / name, text)
    (root / PROGRAM[1:]).chmod(0o755)
    with Lab() as lab:
        control = make_control(lab)
        qmesh(control, "render-config", "--write")
        control.run(["mkdir", "/root/units"])
        control.write(PROGRAM, OTHER_FILES[PROGRAM[1:]], 0o755)
        qmesh(control, "units", "--write", "/root/units", "--program", PROGRAM)
        stop_agent(control)
        there = Path(f"/proc/{control.pid}/root/root")
        (root / "var/lib").mkdir(parents=True)
        (root / "root").chmod(0o700)
        subprocess.run(["cp", "-a", there.with_name("var") / "lib/qmesh", root / "var/lib"], check=True)
        subprocess.run(["cp", "-a", there / "node", root / "root"], check=True)
        shutil.copytree(there / "units", root / UNITS)
    for name, text in OF_THE_TEST.items():
        write(root / UNITS / name, text)
    (root / NFTABLES.parent.relative_to("/")).mkdir(parents=True)
    shutil.copy(NFTABLES, root / NFTABLES.relative_to("/"))
    subprocess.run(["systemctl", f"--root={root}", "enable", *ENABLED], check=True, capture_output=True)
    return root


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def booted(disk: Path, what: str) -> Any:
    """What boot.py tells of a machine with that disk."""
    program = [sys.executable, TOOLS / "boot.py", what]
    machine = [
        CHECKOUT / "scripts/test-kernel",
        "--systemd",
        "--timeout",
        f"{patience(1200):.0f}",  # how busy the machine will be, nobody knows yet
        "--over",
        disk,
    ]
    words = [*map(str, machine), "--run", *map(str, program)]
    done = subprocess.run(words, check=False, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def guarded(disk) -> Any:
    """A boot as it is to be."""
    return booted(disk, "guarded")


@pytest.fixture(scope="module")
def broken(disk, tmp_path_factory) -> Any:
    """A boot with garbage for a guard, and a holder that hangs: it opens a pipe that nobody writes to."""
    root = tmp_path_factory.mktemp("broken") / "disk"
    subprocess.run(["cp", "-a", disk, root], check=True)
    write(root / "var/lib/qmesh/guard.nft", "table inet qmesh { chain asked")
    (root / "var/lib/qmesh/held.nft").unlink()
    os.mkfifo(root / "var/lib/qmesh/held.nft", 0o600)
    write(root / UNITS / "qmesh-hold.service.d/impatient.conf", "[Service]\nTimeoutStartSec=10\n")
    return booted(root, "broken")


@pytest.fixture(scope="module")
def removed(disk, tmp_path_factory) -> Any:
    """A boot after `apt remove`, which leaves the state, the boot guard's unit and the drop-in."""
    root = tmp_path_factory.mktemp("removed") / "disk"
    subprocess.run(["cp", "-a", disk, root], check=True)
    ended = ("qmesh.service", "qmesh-hold.service")
    subprocess.run(["systemctl", f"--root={root}", "disable", *ended], check=True, capture_output=True)
    for name in ended:
        (root / UNITS / name).unlink()
    return booted(root, "removed")


def test_g3_from_the_first_moment_of_the_network_nobody_reaches_a_worker(guarded):
    boot = guarded
    asked, came = boot["knocks"]["asked"], boot["knocks"]["came"]

    assert_closed({"asked": {}, "came": {}}, boot["knocks"], 4 * ENOUGH)
    assert count(boot["knocks"], "came", WORKER_PORT) == 0
    for each in ("tcp", "udp"):
        assert asked[f"{each} {WORKER_PORT}"]["first"] < came[f"{each} {NEIGHBOUR}"]["first"]
    network = min(came[f"{each} {NEIGHBOUR}"]["first"] for each in ("tcp", "udp"))
    asked_s = min(asked[f"{each} {WORKER_PORT}"]["first"] for each in ("tcp", "udp"))
    guard, times = boot["began"]["qmesh-guard.service"], count(boot["knocks"], "asked", WORKER_PORT)
    print(  # noqa: T201 - the figures, with -s
        f"\na worker was asked for {times} times, from {asked_s:.1f} s of uptime on;"
        f" the network came at {network:.1f} s, the guard at {guard:.1f} s"
    )


def test_g3_guard_and_holder_are_there_before_the_network_and_the_agent_and_the_workers_after(guarded):
    began = guarded["began"]

    assert began["qmesh-guard.service"] < began["qmesh-hold.service"] < began["network-pre.target"]
    assert began["network-pre.target"] < began["lan.service"] < began["qmesh.service"]
    # They wait for the agent only as long as a unit may take to start, which a busy emulator exceeds.
    assert all(began["qmesh-hold.service"] < began[unit] for unit in WORKERS)
    assert guarded["kept_out"] == [0]
    assert guarded["tables"] == ["inet qmesh", "inet qmesh-held"]


def test_the_tunnel_of_a_kernel_that_has_wireguard_is_its(guarded):
    assert guarded["tunnel"]["info_kind"] == "wireguard"


def test_worker_ports_are_reserved_before_the_network_and_others_stay(guarded):
    assert guarded["reserved"] == "33333,40000-40002"


@pytest.mark.long
def test_g3_nothing_opens_whatever_is_done_after_a_boot(disk):
    """As tests/lab/test_disturbances.py, with another kernel under it, and its WireGuard."""
    found = booted(disk, "disturbed")

    for each in found["disturbed"].values():
        assert_closed(each["before"], each["after"], ENOUGH)
        assert "inet qmesh" in each["tables"]
        assert each["workers_went_on"]
    assert_closed({"asked": {}, "came": {}}, found["end"], 40 * ENOUGH)
    assert found["tables"] == ["inet qmesh", "inet qmesh-held"]
    assert found["verified"] == ""


@pytest.mark.long
def test_g3_what_a_removed_package_leaves_closes_the_ports_from_the_first_moment_of_the_network(removed):
    assert removed["tables"] == ["inet qmesh"]
    assert removed["began"]["qmesh-guard.service"] < removed["began"]["network-pre.target"]
    assert_closed({"asked": {}, "came": {}}, removed["end"], 4 * ENOUGH)


@pytest.mark.long
def test_g3_no_worker_starts_where_the_guard_cannot_be_loaded_and_that_is_seen(broken):
    assert broken["boot"][0] == "failed"
    assert set(broken["boot"][1:]) <= {"inactive", "activating"}
    assert "inet qmesh" in broken["tables"]


@pytest.mark.long
def test_a_holder_that_hangs_delays_the_network_and_does_not_keep_it_away(broken):
    assert broken["began"]["network-pre.target"] <= broken["began"]["lan.service"] < 60


@pytest.mark.long
def test_g3_a_boot_without_the_guard_would_have_been_found(broken):
    """The counter-experiment: the same machine and the same asking, and nothing is loaded at boot."""
    assert count(broken["closed"], "came", WORKER_PORT) > 0


@pytest.mark.long
def test_g3_the_agent_closes_what_a_damaged_file_left_open_and_the_workers_start_by_themselves(broken):
    """boot.py waited until they ran, and started none."""
    last = max(broken["closed"]["came"][f"{each} {WORKER_PORT}"]["last"] for each in ("tcp", "udp"))
    assert last < broken["mended"]
    assert all(last < broken["began"][unit] for unit in WORKERS)
    assert_closed(broken["closed"], broken["end"], ENOUGH)
