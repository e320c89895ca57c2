"""The agent proves its claims by itself: what breaks one is an error of `check` until it is gone."""

from __future__ import annotations

from functools import partial

import pytest

from tests.support.lab.cluster import facts, make_control, make_member, qmesh
from tests.support.lab.fork_server import residents_start
from tests.support.lab.machines import Lab, Machine
from tests.support.lab.mesh import nft
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.lab, pytest.mark.long]
PROVED_S = 90.0
"""The agent begins half a minute after its start, and a proof takes a second or two."""


def has_sample(machine: Machine, sample: str) -> bool:
    return sample in qmesh(machine, "metrics").stdout.splitlines()


def find_refuted(machine: Machine) -> dict[str, str]:
    """What `check` has seen of each claim that is refuted."""
    findings = facts(machine, "check", code=None)["findings"]
    assert {each["severity"] for each in findings if each["code"] == "claim-refuted"} <= {"error"}
    return {each["subject"]: each["seen"] for each in findings if each["code"] == "claim-refuted"}


def test_what_an_administrator_opens_is_named_with_a_packet_until_it_is_closed():
    """Behind the guard a rule gives packets another port: no rule of the guard sees them with it."""
    with residents_start(), Lab() as lab:  # one that is forked proves nothing by itself
        control = make_control(lab)
        member = make_member(lab, control, 201, 4)
        for machine in (control, member):
            wait_until(partial(has_sample, machine, 'qmesh_claim_proved{claim="outside"} 1'), PROVED_S)
            assert find_refuted(machine) == {}

        port = facts(member, "prove")["ports"][-1]
        rule = f"iifname eth0 tcp dport 4444 tcp dport set {port}"
        nft(member, f"table inet theirs {{\nchain c {{\ntype filter hook input priority 5\n{rule}\n}}\n}}\n")
        wait_until(lambda: "outside" in find_refuted(member), PROVED_S)
        assert ":4444 by eth0" in find_refuted(member)["outside"]
        assert has_sample(member, 'qmesh_claim_refuted{claim="outside"} 1')

        member.run(["nft", "delete", "table", "inet", "theirs"])
        wait_until(lambda: find_refuted(member) == {}, PROVED_S)
        wait_until(partial(has_sample, member, 'qmesh_claim_proved{claim="outside"} 1'), PROVED_S)
        assert find_refuted(control) == {}

        qmesh(member, "set", "--no-prove")
        wait_until(lambda: "qmesh_claim_" not in qmesh(member, "metrics").stdout)
