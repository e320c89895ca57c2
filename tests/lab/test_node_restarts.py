"""config.yml follows the mesh on every machine, once its owner has begun with it; without systemd no more."""

from __future__ import annotations

import pytest

from tests.support.lab.cluster import (
    CONFIG,
    facts,
    make_cluster,
    make_control,
    make_member,
    qmesh,
    start_workers,
)
from tests.support.lab.machines import Machine
from tests.support.waiting import wait_until

pytestmark = pytest.mark.lab

LOG = "/var/lib/qmesh/agent.log"


@pytest.fixture
def cluster(lab):
    return make_cluster(lab)


def entries(machine: Machine) -> int:
    return machine.read(f"{CONFIG}/config.yml").count("- /ip4/")


def has_entries(machine: Machine, count: int) -> None:
    wait_until(lambda: entries(machine) == count, seconds=30)


def test_a_machine_that_joins_is_in_everybodys_list(lab, cluster):
    control, member = cluster
    before = control.read(f"{CONFIG}/config.yml")
    third = make_member(lab, control, 202, 10)
    qmesh(third, "render-config", "--write", "--config", CONFIG)
    has_entries(control, 17)
    has_entries(member, 17)
    after = control.read(f"{CONFIG}/config.yml")
    assert [line for line in after.splitlines() if "/ip4/" not in line] == [
        line for line in before.splitlines() if "/ip4/" not in line
    ]
    wait_until(
        lambda: f"now: restart the control process (--config {CONFIG})" in control.read(LOG), seconds=10
    )
    assert "qmesh-worker@" not in control.read(LOG) + member.read(LOG)
    assert control.run(["ls", "/var/lib/qmesh/due.json"], check=False).returncode != 0
    assert facts(control, "plan")["steps"] == []


@pytest.mark.long  # tests/mesh/test_node_restarts.py
def test_who_is_paused_is_told_what_to_stop_and_later_what_to_start(cluster):
    control, member = cluster
    start_workers(member, "4..7")
    facts(control, "pause", "machine-b")
    has_entries(control, 3)
    has_entries(member, 3)
    wait_until(lambda: "core 4-7: another machine's now" in member.read(LOG), seconds=10)
    facts(control, "resume", "machine-b")
    has_entries(member, 7)
    wait_until(
        lambda: f"now: restart the workers of cores 4-7 (--config {CONFIG} --core CORE)" in member.read(LOG),
        seconds=10,
    )


def test_a_list_that_its_owner_wrote_is_left_alone(lab):
    control = make_control(lab)
    before = control.read(f"{CONFIG}/config.yml").replace(" []", "\n    - /ip4/192.168.0.200/tcp/40000")
    control.write(f"{CONFIG}/config.yml", before, 0o600)
    member = make_member(lab, control, 201, 4)
    qmesh(control, "apply")
    assert qmesh(member, "status").returncode == 0
    assert control.read(f"{CONFIG}/config.yml") == before
    qmesh(control, "render-config", "--write", "--config", CONFIG)
    facts(control, "set", "machine-b", "--workers", "5")
    has_entries(control, 8)


@pytest.mark.long  # by the agent: below
def test_apply_renders_too_and_a_file_that_was_put_back_is_mended(cluster):
    _, member = cluster
    config = member.read(f"{CONFIG}/config.yml")
    old = config.replace("/ip4/10.77.0.2/tcp/40006", "/ip4/10.77.0.2/tcp/40009")
    member.write(f"{CONFIG}/config.yml", old, 0o600)
    qmesh(member, "apply")
    assert member.read(f"{CONFIG}/config.yml") == config
    wait_until(
        lambda: f"now: restart the worker of core 7 (--config {CONFIG} --core 7)" in member.read(LOG),
        seconds=15,
    )


def test_a_file_that_is_damaged_is_said_and_left_and_followed_again_when_it_is_mended(cluster):
    control, member = cluster
    config = member.read(f"{CONFIG}/config.yml")
    member.write(f"{CONFIG}/config.yml", "engine: [\n", 0o600)
    facts(control, "set", "machine-b", "--workers", "5")
    wait_until(lambda: "config.yml is not up to date with the mesh" in member.read(LOG), seconds=30)
    assert member.read(f"{CONFIG}/config.yml") == "engine: [\n"
    member.write(f"{CONFIG}/config.yml", config, 0o600)
    has_entries(member, 8)
