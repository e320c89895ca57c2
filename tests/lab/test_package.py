"""The package on a machine, by dpkg itself: installed, upgraded, removed, purged, cut off in the middle."""

from __future__ import annotations

import contextlib
import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmesh.host.registry.schema import VERSION
from tests.support.lab.cluster import (
    AGENT,
    CONFIG,
    HOLDER,
    NODE_CONFIG,
    STATE,
    TUNNEL,
    UNDOING,
    find_only,
    rules_of,
    what_is_there,
)
from tests.support.lab.machines import Lab, Machine
from tests.support.lab.packages import (
    NAMES,
    PROGRAM,
    bring,
    build_package,
    dpkg,
    install,
    leave_room,
    prepare_packages,
)
from tests.support.lab.upgrade import UpgradeCluster, flush_rules
from tests.support.versions import skip_without_before
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.lab, pytest.mark.long]

OLD, NEW = "0.0.1", "99"
CLOSED = ("nft", "list", "table", "inet", "qmesh")


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("packages")
    return {version: build_package(folder, version) for version in (OLD, NEW)}


@pytest.fixture
def machine(packages) -> Iterator[Machine]:
    """One in no mesh, with the older package."""
    with Lab() as lab:
        machine = lab.machine("machine-a", "192.168.0.200", "fd00:1a::200")
        prepare_packages(machine)
        install(machine, packages[OLD])
        yield machine


@pytest.fixture
def control(machine: Machine) -> Machine:
    """The same as a control node."""
    init(machine)
    return machine


def init(machine: Machine) -> None:
    machine.write(f"{CONFIG}/config.yml", NODE_CONFIG, 0o600)
    words = ("--workers", "3", "--node", "1.4", "--config", CONFIG, "--endpoint", "192.168.0.200")
    machine.run([PROGRAM, "init", *words])


def processes(machine: Machine) -> dict[str, int]:
    return {name: find_only(machine, name) for name in (AGENT, HOLDER, TUNNEL)}


def findings(machine: Machine) -> set[str]:
    report = json.loads(machine.run([PROGRAM, "check", "--json"], check=False).stdout)
    return {each["code"] for each in report["findings"]} - {"config-stale", "worker-silent"}


def what_is_left(machine: Machine) -> dict[str, str]:
    """What a machine has of qmesh, but for the files of dpkg and of the package, which are dpkg's affair."""
    found = what_is_there(machine)
    ours = (line for line in found["files"].splitlines() if not line.startswith(("/root/", "/tmp/")))
    return {**found, "files": "\n".join(ours)}


def list_advice(said: str) -> list[str]:
    """What the scripts say; dpkg's own warnings are of folders that a Debian has besides."""
    lines = (line for line in said.splitlines() if not line.startswith("dpkg: "))
    return [line for line in lines if re.search("qmesh: |error|warning|agent", line)]


def is_closed(machine: Machine) -> bool:
    return machine.run(CLOSED, check=False).returncode == 0


def test_an_upgrade_replaces_what_runs_and_leaves_guard_tunnel_and_state(control, packages):
    before, rules = processes(control), rules_of(control)
    said = install(control, packages[NEW])
    assert f"restarted the process that holds the guard and the agent, as version {NEW}\n" in said
    after = processes(control)
    assert {name for name in after if after[name] != before[name]} == {AGENT, HOLDER}
    assert rules_of(control) == rules
    assert findings(control) == set()


@pytest.mark.parametrize("before", [False, True], ids=["of this version", "of the version before"])
def test_g3_nothing_comes_through_and_nothing_is_lost_while_both_are_upgraded(before, packages, tmp_path):
    """Rules of the version before are others: they are replaced."""
    old = packages[OLD]
    if before:
        old = build_package(tmp_path, OLD, source=skip_without_before() / "source")
    with Lab() as lab:
        cluster = UpgradeCluster(lab, old)
        for machine in (cluster.member, cluster.control):
            with flush_rules(machine):
                report = cluster.upgrade(machine, packages[NEW])
            assert report.is_good, report


def test_an_upgrade_that_could_not_be_ended_is_a_finding_that_restart_fixes(control, packages):
    before = processes(control)
    control.run(["chown", "1000", STATE])  # root does nothing in another user's
    said = install(control, packages[NEW])
    assert "belongs to user 1000" in said
    assert "warning: qmesh is installed, but what ran before may be the older version" in said
    control.run(["chown", "root", STATE])
    assert processes(control) == before
    assert findings(control) == {"agent-outdated"}
    control.run([PROGRAM, "restart"])
    assert findings(control) == set()


def is_told_to_end(machine: Machine, process: int) -> bool:
    """Whether SIGTERM waits for a process that is stopped. Source: proc(5), ShdPnd."""
    pending = re.search("^ShdPnd:\t(.*)$", machine.read(f"/proc/{process}/status"), re.MULTILINE)
    return pending is not None and bool(int(pending[1], 16) & 1 << signal.SIGTERM - 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP], ids=["Ctrl-C", "a lost connection"])
def test_a_restart_that_is_cut_off_leaves_an_agent(control, number):
    """Without systemd nobody else would start one."""
    before = find_only(control, AGENT)
    control.freeze(AGENT)
    restarting = control.start([PROGRAM, "restart"])
    wait_until(lambda: is_told_to_end(control, before))
    restarting.send_signal(number)
    control.thaw(AGENT)
    assert restarting.wait(60) != 0
    assert find_only(control, AGENT) != before
    assert findings(control) == set()


def test_in_no_mesh_nothing_is_started_and_nothing_is_left(packages):
    with Lab() as lab:
        machine = lab.machine("machine-a", "192.168.0.200", "fd00:1a::200")
        prepare_packages(machine)
        before = what_is_left(machine)
        install(machine, packages[OLD])
        said = install(machine, packages[NEW])
        assert list_advice(said) == []
        assert machine.run([PROGRAM, "restart"]).stdout == "nothing to do: this machine is in no mesh\n"
        said = dpkg(machine, "--purge", "qmesh")
        assert list_advice(said) == []
        assert what_is_left(machine) == before
        assert machine.run(["find", "/usr/lib/qmesh", PROGRAM], check=False).stdout == ""


def test_a_removal_keeps_ports_and_state_and_says_so_and_a_new_installation_goes_on(control, packages):
    state = control.read(f"{STATE}/machine.json")
    said = dpkg(control, "--remove", "qmesh")
    assert "ports 40000-40002, the workers' among them, stay CLOSED" in said
    assert "from the next boot on they are OPEN: no unit loads the guard" in said  # without systemd
    assert not control.processes(f"{AGENT}|{HOLDER}")
    assert is_closed(control)
    assert control.processes(TUNNEL)
    assert control.read(f"{STATE}/machine.json") == state
    install(control, packages[NEW])
    control.run([PROGRAM, "apply"])
    assert findings(control) == set()


def test_a_purge_leaves_nothing_and_says_which_ports_are_open(packages):
    with Lab() as lab:
        machine = lab.machine("machine-a", "192.168.0.200", "fd00:1a::200")
        prepare_packages(machine)
        reserved = "/proc/sys/net/ipv4/ip_local_reserved_ports"
        machine.run(["sh", "-c", f"echo 22,39990-40000,50000-50002 >{reserved}"])
        install(machine, packages[OLD])
        machine.write(f"{CONFIG}/config.yml", NODE_CONFIG, 0o600)
        before = what_is_left(machine)
        init(machine)
        assert machine.read(reserved) == "22,39990-40002,50000-50002\n"
        said = dpkg(machine, "--purge", "qmesh")
        assert "ports 40000-40002, the workers' among them," in said
        assert what_is_left(machine) == before
        assert list(machine.path(STATE).iterdir()) == []


def test_a_purge_leaves_what_another_installation_uses(control):
    dpkg(control, "--remove", "qmesh")
    control.run(["qmesh", "apply"])  # of the checkout, as pipx would have it
    assert "another installation of qmesh uses them" in dpkg(control, "--purge", "qmesh")
    assert control.processes(AGENT)
    assert is_closed(control)
    assert control.path(f"{STATE}/machine.json").exists()


def test_a_change_that_waits_waits_on_after_an_upgrade_and_keeps_the_package_there(control, packages):
    control.kill(AGENT)
    control.run(["ip", "link", "set", "qmesh0", "mtu", "1300"])
    control.run([PROGRAM, "apply", "--confirm", "600"])
    undoing = find_only(control, UNDOING)
    said = dpkg(control, "--remove", "qmesh", code=1)
    assert "waits to be confirmed; nothing was removed" in said
    install(control, packages[NEW])
    assert find_only(control, UNDOING) == undoing
    assert control.run([PROGRAM, "confirm"]).returncode == 0
    wait_until(lambda: not control.processes(UNDOING))
    assert findings(control) == set()


def test_a_package_that_cannot_read_the_state_is_refused_before_anything_is_unpacked(
    machine, packages, tmp_path
):
    newer = build_package(tmp_path, "100", schema=VERSION + 1)
    install(machine, newer)
    install(machine, packages[NEW])  # in no mesh there is nothing to read
    init(machine)
    install(machine, newer)
    before = processes(machine)
    said = install(machine, packages[NEW], code=1)
    assert "was written by a newer version of qmesh" in said
    assert processes(machine) == before
    assert machine.run([PROGRAM, "--version"]).stdout == "qmesh 100\n"
    assert dpkg(machine, "--audit") == ""
    dpkg(machine, "--remove", "qmesh")
    assert "was written by a newer version of qmesh" in install(machine, packages[NEW], code=1)
    assert is_closed(machine)


@pytest.mark.parametrize("half", [False, True], ids=["unpacked", "half installed"])
@pytest.mark.parametrize("how", ["--remove", "--purge"])
def test_after_an_upgrade_that_was_cut_off_a_removal_ends_what_runs(control, packages, how, half):
    """dpkg calls prerm only for a package that is configured."""
    if half:
        cut_off_unpacking(control, packages[NEW])
    else:
        dpkg(control, "--unpack", bring(control, packages[NEW]))
    said = dpkg(control, "--force-remove-reinstreq", how, "qmesh")
    assert "ports 40000-40002, the workers' among them, stay CLOSED" in said
    assert not control.processes(f"{AGENT}|{HOLDER}")
    assert is_closed(control) == (how == "--remove")
    assert ("another installation" in said, "are OPEN to any machine" in said) == (False, how == "--purge")
    assert control.path(f"{STATE}/machine.json").exists() == (how == "--remove")


def test_after_an_upgrade_that_was_cut_off_a_removal_leaves_what_rolls_a_change_back(control, packages):
    control.kill(AGENT)
    control.run(["ip", "link", "set", "qmesh0", "mtu", "1300"])
    control.run([PROGRAM, "apply", "--confirm", "600"])
    undoing = find_only(control, UNDOING)
    dpkg(control, "--unpack", bring(control, packages[NEW]))
    dpkg(control, "--remove", "qmesh")
    assert not control.processes(f"{AGENT}|{HOLDER}")
    assert find_only(control, UNDOING) == undoing
    dpkg(control, "--purge", "qmesh")
    wait_until(lambda: not control.processes(UNDOING))


def cut_off_unpacking(machine: Machine, package: Path) -> None:
    """Kill dpkg while it unpacks."""
    words = ["dpkg", "--admindir=/root/dpkg", "--log=/dev/null", "--unpack", bring(machine, package)]
    unpacking = machine.start(words)
    there = machine.path("/usr/lib/qmesh")
    wait_until(lambda: any(there.rglob("*.dpkg-new")) or unpacking.poll() is not None, every_s=0.0)
    machine.kill("dpkg", signal.SIGKILL)


@pytest.mark.parametrize("moment", ["--unpack", "--configure"])
def test_g3_dpkg_can_be_killed_and_begun_again(control, packages, moment):
    """Killed while it unpacks, or between that and the configuration; the old agent and the guard go on."""
    before = processes(control)
    if moment == "--configure":
        dpkg(control, "--unpack", bring(control, packages[NEW]))
    else:
        cut_off_unpacking(control, packages[NEW])
    assert is_closed(control)
    assert processes(control) == before
    if moment == "--unpack":
        with contextlib.suppress(AssertionError):
            dpkg(control, "--configure", "--pending")
        install(control, packages[NEW])
    else:
        dpkg(control, "--configure", "--pending")
    assert {name for name, number in processes(control).items() if number != before[name]} == {AGENT, HOLDER}
    assert findings(control) == set()


def test_g3_a_disk_that_is_full_stops_the_upgrade_and_nothing_else(packages):
    with Lab() as lab:
        machine = lab.machine("machine-a", "192.168.0.200", "fd00:1a::200")
        prepare_packages(machine)
        install(machine, packages[OLD])
        init(machine)
        leave_room(machine, packages[NEW].stat().st_size // 2048)
        before = processes(machine)
        assert "No space left on device" in install(machine, packages[NEW], code=1)
        assert processes(machine) == before
        assert is_closed(machine)
        assert findings(machine) == set()
        assert machine.run([PROGRAM, "--version"]).stdout == f"qmesh {OLD}\n"


NOTHING_TO_DO = (
    "preinst abort-upgrade 2",
    "postinst abort-upgrade 2",
    "postinst abort-deconfigure in-favour other 1 removing another 2",
    "prerm upgrade 2",
    "prerm failed-upgrade 1 2",
    "prerm deconfigure in-favour other 1 removing another 2",
    "postrm remove",
    "postrm upgrade 2",
    "postrm failed-upgrade 1 2",
    "postrm abort-install",
    "postrm abort-upgrade 1 2",
    "postrm disappear other 1",
)
"""Calls of scripts as deb-postinst(5) and its like have them, in which nothing is to be done."""


def test_calls_in_which_there_is_nothing_to_do_do_nothing_and_others_are_refused(control):
    before = what_is_left(control), processes(control)
    for call in NOTHING_TO_DO:
        name, _, words = call.partition(" ")
        done = control.run([f"/root/dpkg/info/qmesh.{name}", *words.split()])
        assert (call, done.stdout + done.stderr) == (call, "")
    for name in NAMES:
        assert control.run([f"/root/dpkg/info/qmesh.{name}", "else"], check=False).returncode == 1
    assert (what_is_left(control), processes(control)) == before


def test_a_removal_that_is_given_up_begins_again_what_it_ended(control):
    scripts = "/root/dpkg/info/qmesh"
    control.run([f"{scripts}.prerm", "remove"])
    assert not control.processes(AGENT)
    control.run([f"{scripts}.prerm", "remove"])
    control.run([f"{scripts}.postinst", "abort-remove"])
    assert is_closed(control)
