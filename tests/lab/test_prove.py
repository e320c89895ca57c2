"""`qmesh prove` on a control node and a worker machine, of what is loaded and of a file."""

import pytest

from qmesh.mesh.prover.claims import CLAIMS
from tests.support.lab.cluster import facts, make_control, make_member, qmesh, refusal
from tests.support.lab.machines import Lab
from tests.support.lab.matrix.rulesets import community
from tests.support.lab.mesh import nft
from tests.support.prover_recordings import GUARDS

pytestmark = pytest.mark.lab


def test_the_guard_is_proved_on_both_kinds_of_machine_and_advice_is_refuted():
    with Lab() as lab:
        control = make_control(lab)
        member = make_member(lab, control, 201, 4)
        for machine in (control, member):
            said = qmesh(machine, "prove").stdout
            assert [line for line in said.splitlines() if line.startswith(("refuted", "not proved"))] == []
            assert said.count("proved: ") == len(CLAIMS)
        before = member.run(["nft", "list", "ruleset"]).stdout
        report = facts(member, "prove")
        assert {each["answer"] for each in report["verdicts"]} == {"proved"}
        assert {each["without"] for each in report["verdicts"]} == {"", "qmesh", "qmesh-held"}

        member.write("/root/advice", community(GUARDS["worker IPv4"]))
        report = facts(member, "prove", "--ruleset", "/root/advice", code=1)
        outside = next(each for each in report["verdicts"] if each["claim"] == "outside")
        assert outside["answer"] == "refuted"
        assert outside["packet"]["came_by"] == "eth0 (veth)"
        assert outside["packet"]["target_port"] in report["ports"]
        listed = member.run(["nft", "-j", "list", "ruleset"]).stdout
        member.write("/root/own.json", listed)
        assert facts(member, "prove", "--ruleset", "/root/own.json")["rules"] > 50
        assert {each["proved"] for each in facts(member, "prove")["claims"]} == {True}
        member.write("/root/broken", "table inet t {")
        for file, words in (("/root/none", "cannot be read"), ("/root/broken", "can't be loaded")):
            refused = [refusal(member, command, "--ruleset", file, code=2) for command in ("prove", "drill")]
            assert words in refused[0]
            assert refused[0] == refused[1]
        assert member.run(["nft", "list", "ruleset"]).stdout == before

        # What another program's rule makes of a packet behind the guard's back is seen.
        port = report["ports"][0]
        rule = f"tcp dport 4444 tcp dport set {port}"
        nft(member, f"table inet other {{\nchain c {{\ntype filter hook input priority 0\n{rule}\n}}\n}}\n")
        report = facts(member, "prove", code=1)
        outside = [each for each in report["verdicts"] if each["claim"] == "outside"]
        assert {each["answer"] for each in outside} == {"refuted"}
        assert {each["packet"]["target_port"] for each in outside} == {4444}
