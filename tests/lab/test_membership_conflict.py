"""A control node that is an older copy of itself is found by what its members hold, with the way out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.lab.cluster import (
    CONFIG,
    STATE,
    facts,
    invite,
    make_control,
    make_member,
    newcomer,
    qmesh,
    refusal,
    start_agent,
    stop_agent,
)
from tests.support.lab.machines import Lab, Machine
from tests.support.waiting import wait_until

pytestmark = pytest.mark.lab

BACKUP = "/root/control.backup"


def findings(machine: Machine) -> dict[str, dict[str, Any]]:
    report = machine.run(["qmesh", "check", "--json"], check=False, timeout=60).stdout
    return {each["code"]: each for each in json.loads(report)["findings"]}


def revision(machine: Machine) -> int:
    return int(facts(machine, "status")["revision"])


def test_e6_a_control_node_put_back_to_a_snapshot_gives_out_nothing_until_it_is_restored(lab: Lab) -> None:
    control = make_control(lab)
    member = make_member(lab, control, 201, 2)
    stop_agent(control)
    control.run(["cp", "-a", STATE, "/root/snapshot"])
    start_agent(control)
    qmesh(control, "set", "machine-b", "--workers", "4")
    held = revision(control)
    wait_until(lambda: revision(member) == held, 20)
    assert "membership-conflict" not in findings(control)

    stop_agent(control)
    control.run(["sh", "-c", f"rm {STATE}/mesh.db*; cp -a /root/snapshot/mesh.db* {STATE}"])
    start_agent(control)
    wait_until(lambda: "membership-conflict" in findings(control), 60)
    finding = findings(control)["membership-conflict"]
    assert finding["severity"] == "error"
    assert f"machine-b holds revision {held}, and the registry had {held - 1}" in finding["seen"]
    assert "an older copy" in findings(member)["service-silent"]["seen"]
    # Its next revisions would take the place of what the member holds. Nor does a machine join by it.
    for workers in ("5", "6"):
        qmesh(control, "set", "machine-b", "--workers", workers)
    assert revision(control) == held + 1
    other = newcomer(lab, 202)
    invite(control, other, "--workers", "1")
    assert "an older copy" in refusal(other, "join", "invitation", code=4, timeout=90)
    assert facts(member, "status")["machines"][1]["cores"]["count"] == 4

    # The way out, as it is printed.
    for words in ("qmesh backup FILE", "qmesh uninstall --delete-state", "qmesh restore FILE"):
        assert f"`{words}`" in finding["cure"]
    qmesh(control, "backup", BACKUP)
    qmesh(control, "uninstall", "--delete-state", "--yes", "control")
    qmesh(control, "restore", BACKUP, "--plain", "--config", CONFIG, timeout=60)
    wait_until(lambda: facts(member, "status")["machines"][1]["cores"]["count"] == 6, 60)
    assert not findings(control).keys() & {"membership-conflict", "service-silent", "peer-silent"}
    assert not findings(member).keys() & {"service-silent", "peer-silent"}
