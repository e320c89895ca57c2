"""`check` finds what is wrong, names the cure, and the cure cures it; a sound machine has no finding."""

import re
from random import Random

import pytest

from tests.support.lab.cluster import (
    CONFIG,
    HOLDER,
    checked,
    qmesh,
    start_workers,
)
from tests.support.lab.drifts import DriftCluster, is_found, list_drifts
from tests.support.lab.machines import Lab
from tests.support.waiting import wait_until

pytestmark = pytest.mark.lab

SEED = 1
DRIFTS = list_drifts(Random(SEED))  # noqa: S311 - no secret depends on it


@pytest.fixture(scope="module")
def cluster():
    with Lab() as lab:
        yield DriftCluster(lab)


@pytest.fixture
def member(cluster):
    machine = cluster.machines["member"]
    yield machine
    machine.kill("worker.py")  # also those of a test that failed


TRIED_ELSEWHERE = {
    *("foreign-drop", "port-wide", "agent-silent"),
    *("change-unconfirmed", "change-undone"),
}
"""Codes that other tests of every change produce on such machines, too."""


def each_code_once() -> list[object]:
    """The drifts; those of a code that came before take long together, and are marked so."""
    seen = set(TRIED_ELSEWHERE)
    params: list[object] = []
    for drift in DRIFTS:
        marks = [pytest.mark.long] if drift.code in seen else []
        params.append(pytest.param(drift, marks=marks, id=drift.kind))
        seen.add(drift.code)
    return params


def test_there_are_many_kinds_of_drift_and_all_that_is_chosen_comes_of_the_seed():
    assert len({drift.kind for drift in DRIFTS}) >= 60
    again, others = (list_drifts(Random(seed)) for seed in (SEED, SEED + 1))  # noqa: S311 - as above
    assert again == DRIFTS != others


@pytest.mark.parametrize("drift", each_code_once())
def test_finds_it_names_the_cure_and_the_cure_cures_it(cluster, drift):
    report = cluster.find(drift)
    assert is_found(drift, report), report
    assert all(each[field] for each in report["findings"] for field in ("wanted", "seen", "cure"))
    assert cluster.cure(drift, report)["findings"] == []


@pytest.mark.parametrize(
    ("obstacle", "place"),
    [
        ("mount --bind {0} {0}", f"{CONFIG}/config.yml"),
        ("mount --bind {0} {0}; mount -o remount,bind,ro {0}", CONFIG),
    ],
)
def test_the_cure_of_a_file_that_cannot_be_replaced_is_what_is_typed(member, obstacle, place):
    file = f"{CONFIG}/config.yml"
    member.run(["sed", "-i", "s,10.77.0.2/tcp/40004,192.168.0.201/tcp/40004,", file])
    member.run(["sh", "-ec", obstacle.format(place)])
    try:
        (finding,) = checked(member, code=1)["findings"]
        assert (finding["code"], finding["subject"]) == ("config-stale", file)
        assert "cannot be replaced" in qmesh(member, "render-config", "--write", code=3).stderr
        commands = re.findall("`([^`]+)`", finding["cure"])
        assert len(commands) == 2
        for command in commands:
            member.run(["sh", "-ec", command])
        assert checked(member)["findings"] == []
        assert not member.run(["ls", "/run"]).stdout.count("config.yml")
    finally:
        member.run(["umount", place])
    assert checked(member)["findings"] == []


def test_finds_workers_that_listen_on_every_address(member):
    workers = start_workers(member, "4..7", "--careless")
    report = checked(member)
    workers.stop()
    assert {finding["code"] for finding in report["findings"]} == {"worker-wide"}
    ports = {finding["subject"].rpartition(":")[2] for finding in report["findings"]}
    assert ports == {"40003", "40004", "40005", "40006"}


def test_finds_workers_that_no_guard_covers(member):
    workers = start_workers(member, "4..7")
    assert checked(member)["findings"] == []
    member.freeze(HOLDER)
    member.run(["nft", "delete", "table", "inet", "qmesh"])
    report = checked(member, code=1)
    # What the kernel is set to, which is told while there is no guard, depends on the tests before.
    found = {finding["code"] for finding in report["findings"] if finding["severity"] != "info"}
    assert found - {"agent-failing"} == {"guard-missing"}  # the agent may have replaced the holder by now
    assert member.kill(HOLDER)
    wait_until(lambda: "qmesh" not in member.run(["nft", "list", "tables"]).stdout)
    report = checked(member, code=1)
    qmesh(member, "apply")
    assert checked(member)["findings"] == []
    workers.stop()
    exposed = [finding["subject"] for finding in report["findings"] if finding["code"] == "worker-exposed"]
    assert exposed == [f"10.77.0.2:{port}" for port in range(40003, 40007)]


def test_finds_a_worker_at_a_port_of_a_list_of_somebodys_own(member):
    member.run(["sed", "-i", "s,10.77.0.2/tcp/40004,10.77.0.2/tcp/40104,", f"{CONFIG}/config.yml"])
    workers = start_workers(member, "4..7")
    report = checked(member, code=1)
    workers.stop()
    qmesh(member, "render-config", "--write")
    exposed = [finding["subject"] for finding in report["findings"] if finding["code"] == "worker-exposed"]
    assert exposed == ["10.77.0.2:40104"]
    assert checked(member)["findings"] == []


def test_says_in_words_what_it_says_in_json(member):
    workers = start_workers(member, "4..7")
    member.run(["ip", "link", "set", "qmesh0", "down"])
    said = qmesh(member, "check", code=1).stdout
    qmesh(member, "apply")
    assert said.splitlines()[0] == "error: tunnel-down qmesh0"
    assert [line.split()[0] for line in said.splitlines()[1:4]] == ["wanted:", "seen:", "cure:"]
    assert said.splitlines()[-1] == "what these codes mean: docs/checks.md #tunnel-down"
    assert qmesh(member, "check").stdout.startswith("machine-b is as desired")
    workers.stop()
