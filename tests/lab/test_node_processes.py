"""What the node's processes do is said within seconds: by `status`, `check` and the agent."""

from __future__ import annotations

import json

import pytest

from tests.support.lab.cluster import STATE, facts, qmesh, stop_agent
from tests.support.lab.machines import Lab, Machine
from tests.support.lab.node_cluster import (
    SOON_S,
    alive,
    comes,
    found,
    make_node_cluster,
    number_of,
    restart,
    start_cluster,
    wait_until,
)
from tests.support.lab.rust_node import CONFIG, PROGRAM, earning_cores, start_core

pytestmark = pytest.mark.lab

LOG = f"{STATE}/agent.log"
OWN = "10.77.0.2"


@pytest.fixture(scope="module")
def machines():
    with Lab() as lab:
        yield make_node_cluster(lab)


@pytest.fixture
def cluster(machines):
    """With all processes, each alive."""
    start_cluster(*machines)
    yield machines
    for machine in machines:
        machine.kill(PROGRAM)


def test_n2_all_is_well_where_all_run_and_earn(cluster):
    control, member = cluster
    assert earning_cores(control) == [1, 2, 3]
    for machine in cluster:
        comes(machine)
    status = facts(control, "status")
    assert status["control_process"]["state"] == "alive"
    assert status["control_process"]["process"] == number_of(control, 0)
    assert status["foreign"] == []
    assert [each["workers"]["connected"] for each in status["machines"]] == [None, 2]
    assert alive(member) == [None, 2]


def test_n2_a_control_process_that_is_killed_or_older_than_its_file_is_an_error(cluster):
    control, _ = cluster
    control.run(["kill", "-KILL", str(number_of(control, 0))])
    comes(control, "control-silent")
    silent = found(control)["control-silent"]
    assert (silent["severity"], silent["seen"]) == ("error", "nothing listens on 8336/udp and 8340/tcp")
    assert silent["cure"] == f"start the control process (--config {CONFIG})"
    assert qmesh(control, "check", code=1).stdout
    shown = qmesh(control, "status").stdout
    assert f"control process: silent, nothing listens on 8336/udp and 8340/tcp; {silent['cure']}" in shown
    assert alive(control)[1] == 0

    start_core(control, 0)
    wait_until(lambda: alive(control) == [1, 2], 60)
    comes(control)
    facts(control, "set", "machine-b", "--workers", "3")
    wait_until(lambda: "control-outdated" in found(control), SOON_S)
    assert "control process: outdated" in qmesh(control, "status").stdout
    restart(control, 0)
    comes(control, "worker-silent")
    facts(control, "set", "machine-b", "--workers", "2")
    comes(control, "control-outdated")


def edit(machine: Machine, there: str, instead: str) -> None:
    text = machine.read(f"{CONFIG}/config.yml")
    assert there in text
    machine.write(f"{CONFIG}/config.yml", text.replace(there, instead), 0o600)


@pytest.mark.long  # tests/agent/test_node_processes.py
def test_n2_a_worker_is_outdated_where_what_it_reads_has_changed_since_it_was_started(cluster):
    control, member = cluster
    there, instead = "/ip4/0.0.0.0/tcp/25001", "/ip4/0.0.0.0/tcp/25991"
    # The file's owner writes what but one process reads, and sets the file's time back.
    wait_until(lambda: '"3":' in member.read(f"{STATE}/processes.json"), SOON_S)
    stop_agent(member)
    edit(member, there, instead)
    member.run(["touch", "-d", "2000-01-01", f"{CONFIG}/config.yml"])
    assert found(member)["worker-outdated"]["subject"] == "machine-b core 2"
    # An agent puts the mesh's list back, which is what the worker has read.
    qmesh(member, "apply")
    wait_until(lambda: there in member.read(f"{CONFIG}/config.yml"), 15)
    comes(member)

    facts(control, "set", "--p2p-base-port", "25100")
    wait_until(lambda: "worker-outdated" in found(member), SOON_S)
    outdated = found(member)["worker-outdated"]
    assert (outdated["severity"], outdated["subject"]) == ("error", "machine-b cores 2-3")
    assert outdated["cure"].startswith(
        f"restart the workers of cores 2-3 (--config {CONFIG} --core CORE); now "
    )
    status = facts(member, "status")["machines"][1]["workers"]
    assert (status["alive"], [each["state"] for each in status["troubled"]]) == (0, ["outdated"] * 2)
    assert "outdated, started before a file was changed: cores 2-3" in qmesh(member, "status").stdout
    restart(member, 2)
    assert found(member)["worker-outdated"]["subject"] == "machine-b core 3"
    restart(member, 3)
    wait_until(lambda: alive(member) == [None, 2], 30)
    comes(member)
    comes(control, "worker-outdated", "control-outdated")


def test_n2_a_worker_of_another_machines_core_is_named_and_cut_off(cluster):
    control, member = cluster
    facts(control, "pause", "machine-b")
    wait_until(lambda: "worker-not-ours" in found(member), SOON_S)
    report = json.loads(member.run(["qmesh", "check", "--json"], check=False).stdout)
    foreign = [each for each in report["findings"] if each["code"] == "worker-not-ours"]
    assert [each["subject"] for each in foreign] == [f"{OWN}:32501", f"{OWN}:32502"]
    assert {each["severity"] for each in foreign} == {"error"}
    wait_until(lambda: "its connections through the tunnel are cut" in member.read(LOG), SOON_S)
    assert "cut the connection of 10.77.0.1 port 8340" in member.read(LOG)
    assert "foreign: " in qmesh(member, "status").stdout
    facts(control, "resume", "machine-b")
    wait_until(lambda: found(member).keys() & {"worker-not-ours"} == set(), SOON_S)
