"""Metrics of a cluster whose agents run: `qmesh metrics`, the file for node_exporter, and Prometheus."""

from __future__ import annotations

import re

import pytest

from tests.support.lab.cluster import make_cluster, make_member, qmesh, start_agent, start_workers, stop_agent
from tests.support.lab.machines import Lab, Machine

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def cluster():
    """Workers run on the first two machines; on the third none does."""
    with Lab() as lab:
        control, member = make_cluster(lab)
        third = make_member(lab, control, 202, 1)
        workers = start_workers(control, "1..3"), start_workers(member, "4..7")
        yield control, member, third
        for each in workers:
            each.stop()


def read(text: str) -> dict[str, float]:
    """Each sample's value by its name and labels."""
    found = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in found}


def metrics(machine: Machine) -> dict[str, float]:
    return read(qmesh(machine, "metrics").stdout)


def of(found: dict[str, float], name: str, label: str = "") -> list[float]:
    return [value for key, value in found.items() if re.match(rf"{name}\b", key) and label in key]


def test_the_control_node_tells_of_all_machines_and_workers(cluster):
    control, member, _ = cluster
    found = metrics(control)
    assert found["qmesh_guard_ok"] == 1
    assert found['qmesh_machine_up{machine="machine-b"}'] == 1
    assert found['qmesh_member_agent_up{machine="machine-c"}'] == 1
    assert of(found, "qmesh_worker_up", 'machine="control"') == [1, 1, 1]
    assert of(found, "qmesh_worker_up", 'machine="machine-b"') == [1, 1, 1, 1]
    assert of(found, "qmesh_worker_up", 'machine="machine-c"') == [0]
    assert len(of(found, "qmesh_worker_answer_seconds")) == 7
    assert all(value > 0 for value in of(found, "wireguard_received_bytes_total"))
    assert sum(of(found, "qmesh_findings", "worker-silent")) == 1
    assert found["qmesh_revision"] == metrics(member)["qmesh_revision"]


def test_drops_of_the_guard_are_counted(cluster):
    _, member, third = cluster
    before = metrics(member)['qmesh_guard_dropped_packets_total{chain="closed_port"}']
    probe = (
        "import socket; s = socket.socket(); s.settimeout(0.3); print(s.connect_ex(('192.168.0.201', 40003)))"
    )
    assert third.run(["python", "-c", probe]).stdout.strip() != "0"
    assert metrics(member)['qmesh_guard_dropped_packets_total{chain="closed_port"}'] > before


def test_without_an_agent_the_command_looks_itself(cluster):
    _, member, _ = cluster
    stop_agent(member)
    found = metrics(member)
    start_agent(member)
    assert found["qmesh_guard_ok"] == 1
    assert sum(of(found, "qmesh_findings", 'code="agent-missing"')) == 1
    assert of(found, "qmesh_agent_last_look") == []
    assert len(of(found, "qmesh_worker_up")) == 4
    assert of(metrics(member), "qmesh_agent_last_look")[0] > 1_600_000_000
