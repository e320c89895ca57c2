"""`qmesh drill` on lab machines: who gets through the rules that they have, without a trace of it there."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qmesh.mesh.drill.shown_packets import SIDE
from qmesh.mesh.prover.claims.claim_list import CLAIMS
from tests.support.lab.cluster import make_cluster, qmesh
from tests.support.lab.machines import Machine
from tests.support.lab.matrix.rulesets import COMMUNITY
from tests.support.lab.mesh import GUARDS

pytestmark = pytest.mark.lab

LISTENER = """
import os, select, socket
tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
print("listening", flush=True)
found = 0
while not os.path.exists("/root/ended"):
    if select.select([tap], [], [], 0.05)[0] and b"qmdr" in tap.recv(65536):
        found += 1
print("found", found, flush=True)
"""
DROPS_THE_TUNNEL = (
    'table inet theirs { chain c { type filter hook input priority 5; iifname "qmesh0" drop; }; }'
)


def drill(machine: Machine, *options: str, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(qmesh(machine, "drill", "--json", *options, code=code).stdout)
    return found


def looks(machine: Machine) -> tuple[str, ...]:
    """What a drill must not change; of sets not the elements, as members that ask come and go in one."""
    words = (["nft", "-s", "-t", "list", "ruleset"], ["ip", "-br", "link"], ["ip", "route"], ["ip", "netns"])
    seen = tuple(machine.run(each).stdout for each in words)
    return (*seen, machine.run(["sysctl", "-a", "-r", "rp_filter|forwarding|disable_ipv6"]).stdout)


@pytest.mark.kernel
def test_g1_g2_g5_a_drill_passes_on_both_machines_and_leaves_nothing(lab):
    for machine in make_cluster(lab):
        before = looks(machine)
        listener = machine.start(["python3", "-c", LISTENER])
        listener.wait_for("listening")
        report = drill(machine)
        assert report["unknown"] == []
        assert report["counterexamples"] == []
        assert report["passed"] is True
        assert report["fired"] > 1000
        assert {line["side"].partition(",")[0] for line in report["lines"]} >= {
            "eth0",
            "qmesh0",
            "this machine",
        }
        assert looks(machine) == before
        machine.write("/root/ended", "")
        listener.wait_for("found 0")


def test_a_drill_finds_who_gets_through_where_the_guard_is_open(lab):
    control, member = make_cluster(lab)
    qmesh(member, "down", "--open")
    report = drill(member, code=1)
    assert report["passed"] is False
    assert {each["wanted"] for each in report["counterexamples"]} >= {"blocked"}
    assert "the tunnel qmesh0 is not up: nothing was fired through it" in report["unknown"]
    assert "FAILED" in qmesh(control, "drill", "--ruleset", write_advice(control), code=1).stdout


def test_the_packet_by_which_prove_refutes_advice_gets_through_in_a_drill(lab):
    _, member = make_cluster(lab)
    advice = write_advice(member)
    proof = json.loads(qmesh(member, "prove", "--json", "--ruleset", advice, code=1).stdout)
    refuted = {each["claim"]: each["counterexample"] for each in proof["claims"] if each["proved"] is False}
    assert {"outside", "tunnel"} <= set(refuted)
    report = drill(member, "--ruleset", advice, code=1)
    shown = [line for line in report["lines"] if line["side"] == SIDE]
    for claim in set(refuted) - {"containers", "into-tunnel", "taken-up"}:  # it passes nothing on
        lines = [line for line in shown if CLAIMS[claim] in line["what"]]
        assert lines, claim
        assert any(line["wrong"] for line in lines), lines
    fired = [each for each in report["counterexamples"] if each["side"] == SIDE]
    outside = refuted["outside"]
    assert any(
        (each["interface"], each["source"], each["destination"], each["port"])
        == (outside["interface"], outside["source"], outside["destination"], outside["port"])
        for each in fired
    )


def write_advice(machine: Machine) -> str:
    """The community's advised rules, as a file."""
    machine.write("/root/advice.nft", COMMUNITY.script(GUARDS["control"]))
    return "/root/advice.nft"


def test_a_change_whose_drill_fails_is_refused(lab):
    _, member = make_cluster(lab)
    qmesh(member, "apply", "--drill")
    member.run(["nft", DROPS_THE_TUNNEL])
    before = looks(member)
    refused = qmesh(member, "apply", "--drill", code=3)
    assert "the drill failed, and nothing was changed: qmesh0, the control node" in refused.stderr
    assert looks(member) == before
