"""No worker runs and earns nothing while `check` says nothing: whatever is wrong, it says so in seconds."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable

import pytest

from tests.support.lab.cluster import invite, newcomer, qmesh
from tests.support.lab.machines import Lab, Machine, Running
from tests.support.lab.programs.rust_node import new_key
from tests.support.lab.rust_node import CONFIG, PROGRAM, earning_cores, install_node, start_core
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.lab, pytest.mark.long]

SOON_S = 10
FILES = ("config.yml", "keys.yml")


class Cluster:
    """A control node with core 1, a member with cores 2 and 3, and their files as they have to be."""

    def __init__(self, control: Machine, member: Machine) -> None:
        self.control, self.member = control, member
        self.good = {
            machine: {name: machine.read(f"{CONFIG}/{name}") for name in FILES}
            for machine in (control, member)
        }

    def start(self) -> None:
        """Start all processes; those that refuse their files are not waited for."""
        for machine, cores in ((self.control, (0, 1)), (self.member, (2, 3))):
            for core in cores:
                process = start_core(machine, core, ready=False)
                wait_until(functools.partial(_is_up_or_refuses, process))

    def stop(self) -> None:
        for machine in (self.control, self.member):
            machine.kill(re.escape(PROGRAM))

    def restore(self) -> None:
        for machine, files in self.good.items():
            for name, text in files.items():
                machine.write(f"{CONFIG}/{name}", text, 0o600)

    def edit(self, machine: Machine, pattern: str, replacement: str) -> None:
        """Change config.yml by hand, as somebody does who knows better."""
        text, count = re.subn(pattern, replacement, machine.read(f"{CONFIG}/config.yml"), count=1)
        assert count == 1, f"{pattern} is not in {text}"
        machine.write(f"{CONFIG}/config.yml", text, 0o600)

    def is_told(self) -> bool:
        """Whether all earn, or `check` has found something that is wrong."""
        return earning_cores(self.control) == [1, 2, 3] or bool(self.findings())

    def findings(self) -> list[str]:
        """What `check` says on both machines."""
        found = []
        for machine in (self.control, self.member):
            said = json.loads(machine.run(["qmesh", "check", "--json"], check=False).stdout)
            found += [each["code"] for each in said["findings"] if each["severity"] != "info"]
        return found


def _is_up_or_refuses(process: Running) -> bool:
    return "ready" in process.output() or process.poll() is not None


@pytest.fixture(scope="module")
def cluster():
    with Lab() as lab:
        control = lab.machine("machine-a", "192.168.0.200", "fd00:1a::200")
        member = newcomer(lab)
        for machine in (control, member):
            install_node(machine)
        start_core(control, 0).stop()
        control.run(["chmod", "600", *(f"{CONFIG}/{name}" for name in FILES)])
        where = ("--endpoint", "192.168.0.200", "--announce", "203.0.113.5")
        qmesh(control, "init", "--workers", "1", "--config", CONFIG, *where)
        invite(control, member, "--workers", "2", "--announce", "203.0.113.6", "--node-files")
        member.run(["mkdir", "-p", CONFIG])
        qmesh(member, "join", "invitation", "--node-files", "--config", CONFIG)
        qmesh(control, "render-config", "--write", "--config", CONFIG)
        yield Cluster(control, member)


def other_keys(cluster: Cluster) -> None:
    """Those of another node, which fit to its own encryption key."""
    key = "ce" * 32
    cluster.edit(cluster.member, r'encryptionKey: "?[0-9a-f]+"?', f"encryptionKey: {key}")
    cluster.member.write(f"{CONFIG}/keys.yml", new_key("default-proving-key", key), 0o600)


def older_keys(cluster: Cluster) -> None:
    """As they were before the control process got a further key."""
    keys = cluster.good[cluster.member]["keys.yml"]
    cluster.member.write(f"{CONFIG}/keys.yml", keys[: keys.index("q-spend-key:")], 0o600)


def no_keys(cluster: Cluster) -> None:
    cluster.member.run(["rm", f"{CONFIG}/keys.yml"])


def edited(pattern: str, replacement: str, *, on_control: bool = False) -> Callable[[Cluster], None]:
    def change(cluster: Cluster) -> None:
        cluster.edit(cluster.control if on_control else cluster.member, pattern, replacement)

    return change


PEER_KEY = r'peerPrivKey: "?[0-9a-f]+"?'
FAULTS = {
    "keys of another node": other_keys,
    "keys as they were": older_keys,
    "no keys": no_keys,
    "another peer key": edited(PEER_KEY, f"peerPrivKey: {'ac' * 114}"),
    "an empty peer key": edited(PEER_KEY, "peerPrivKey: ''"),
    "an encryption key that does not fit": edited(
        r'encryptionKey: "?[0-9a-f]+"?', f"encryptionKey: {'ce' * 32}"
    ),
    "a byte order mark": edited(r"\A", "\ufeff"),
    "a number in quotes": edited(r"dataWorkerBaseStreamPort: 32500", "dataWorkerBaseStreamPort: '32500'"),
    "the master's proxy": edited("enableMasterProxy: false", "enableMasterProxy: true"),
    "another control node": edited("/ip4/10.77.0.1/tcp/8340", "/ip4/10.77.0.9/tcp/8340"),
    "a control node by name": edited("/ip4/10.77.0.1/tcp/8340", "/dns4/fra-1/tcp/8340"),
    "another worker's entry": edited("/ip4/10.77.0.2/tcp/32501", "/ip4/10.77.0.2/tcp/32511"),
    "a list of another order": edited(
        "/ip4/10.77.0.2/tcp/32501", "/ip4/10.77.0.2/tcp/32509", on_control=True
    ),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_worker_that_earns_nothing_is_found_within_seconds(cluster, fault):
    fault(cluster)
    cluster.start()
    try:
        # Where the agent puts the file right before a worker has read it, all earn and nothing is wrong.
        wait_until(cluster.is_told, SOON_S, every_s=0.5)
    finally:
        cluster.stop()
        cluster.restore()


def test_where_all_earn_nothing_is_found(cluster):
    """The counter-experiment."""
    cluster.start()
    try:
        wait_until(lambda: earning_cores(cluster.control) == [1, 2, 3])
        wait_until(lambda: not cluster.findings(), SOON_S, every_s=0.5)
    finally:
        cluster.stop()
