"""How members learn what has changed, and that they are members no more."""

from __future__ import annotations

import pytest

from tests.support.lab.cluster import (
    all_hold,
    checked,
    facts,
    held,
    invite,
    make_control,
    make_member,
    qmesh,
    reached,
    refusal,
    start_workers,
    stop_agent,
)
from tests.support.lab.machines import Machine
from tests.support.waiting import wait_until

pytestmark = pytest.mark.lab


def has_tunnel(machine: Machine) -> bool:
    return machine.run(["ip", "link", "show", "qmesh0"], check=False).returncode == 0


def test_a_change_is_with_the_members_at_once_whatever_they_hold(lab):
    control = make_control(lab)
    members = [make_member(lab, control, number, 4) for number in (201, 202)]
    for workers in ("5", "6"):
        change = facts(control, "set", "control", "--workers", workers)
        all_hold(members, change["revision"], within_s=6)

    # One whose agent slept through changes, and one that holds a membership the control node never made.
    stop_agent(members[0])
    facts(control, "pause", "machine-c")
    revision = facts(control, "resume", "machine-c")["revision"]
    stop_agent(control)
    qmesh(control, "apply")
    qmesh(members[0], "apply")
    all_hold(members, revision, within_s=20)


def test_e7_who_is_removed_learns_of_it_closes_its_tunnel_and_keeps_its_ports_shut(lab):
    control = make_control(lab)
    member = make_member(lab, control, 201, 2)
    start_workers(member, "4..5")
    stranger = lab.machine("stranger", "192.168.0.66", "fd00:1a::66")
    ports = [40003, 40004]
    assert reached(control, "10.77.0.2", ports) == ports  # the positive control
    before = held(member)

    qmesh(control, "remove", "machine-b")
    wait_until(lambda: not has_tunnel(member), seconds=10)
    assert reached(stranger, "192.168.0.201", ports) == []
    assert held(member) == before
    assert facts(member, "status")["machines"][1]["state"] == "removed"
    finding = next(each for each in checked(member, code=1)["findings"] if each["severity"] == "error")
    assert finding["code"] == "membership-stale"
    for words in (("apply",), ("plan",), ("apply", "--confirm", "60")):
        assert "was removed from its mesh" in refusal(member, *words, code=4)
    assert not has_tunnel(member)

    # Whoever runs the mesh may take it back: with a new invitation, for the same name.
    invite(control, member, "--workers", "2")
    qmesh(member, "join", "invitation")
    assert facts(member, "status")["machines"][1]["state"] == "active"
    wait_until(lambda: reached(control, "10.77.0.2", ports) == ports, seconds=20)
    assert reached(stranger, "192.168.0.201", ports) == []


def test_e7_who_was_away_when_it_was_removed_is_cut_off_all_the_same(lab):
    control = make_control(lab)
    member = make_member(lab, control, 201, 2)
    start_workers(member, "4..5")
    stranger = lab.machine("stranger", "192.168.0.66", "fd00:1a::66")
    stop_agent(member)
    assert reached(control, "10.77.0.2", [40003, 40004]) == [40003, 40004]  # the positive control
    qmesh(control, "remove", "machine-b")
    assert reached(control, "10.77.0.2", [40003, 40004]) == []
    assert reached(stranger, "192.168.0.201", [40003, 40004]) == []
    assert has_tunnel(member)  # nobody told it, and nobody answers it

    # It takes itself for a member still; a new invitation makes it one.
    invite(control, member, "--workers", "2")
    qmesh(member, "join", "invitation")
    wait_until(lambda: reached(control, "10.77.0.2", [40003, 40004]) == [40003, 40004], seconds=20)
