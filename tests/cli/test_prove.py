"""`qmesh prove` where its solver is missing, and what it prints."""

from __future__ import annotations

import subprocess
import sys

from qmesh.agent.commands.prove import ProofReport
from qmesh.cli.assurance_text.proof_text import build_proof_lines, render_proof
from qmesh.mesh.prover.claim_answers import summarize_claims
from qmesh.mesh.prover.decide import Verdict
from qmesh.mesh.prover.examples import ExamplePacket
from qmesh.mesh.prover.rule_run import RulePlace

WITHOUT = (
    "import sys; sys.modules['clingo'] = None; from qmesh.cli import main; sys.argv[1:] = ['prove']; main()"
)


def test_without_the_solver_it_says_what_to_install():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    error, hint = done.stderr.splitlines()
    assert error == "error: `qmesh prove` needs the Python package clingo, which is not installed"
    assert hint.startswith("hint: with qmesh from pipx: `pipx inject qmesh clingo`; the Debian package")


def place(number: int) -> RulePlace:
    return RulePlace(("inet", "t"), "c", f"rule {number}", number)


PACKET = ExamplePacket(
    family="ip6", came_by="eth0", goes_by="br0 (bridge)", protocol="tcp",
    source="2001:db8::1", source_port=1024,
    target="2001:db8::2", target_port=40000, flags=("SYN",), state="new", user=1000,
)  # fmt: skip


ODD_PACKET = ExamplePacket(
    family="ip", protocol="udp", source="10.0.0.1", source_port=1, target="10.0.0.2", target_port=2,
    state="invalid",
)  # fmt: skip


def test_a_report_names_what_decides_and_a_packet_that_breaks_a_claim():
    verdicts = (
        Verdict(claim="outside", family="ip", answer="proved", rules=tuple(map(place, range(14)))),
        Verdict(claim="outside", family="ip", answer="proved", without="qmesh", rules=(place(99),)),
        Verdict(claim="tunnel", family="ip", answer="proved"),
        Verdict(claim="tunnel", family="ip6", answer="refuted", packet=PACKET, path=("input: a rule",)),
        Verdict(
            claim="control", family="ip", answer="not proved", without="qmesh", unclear=(place(1),),
            packet=ODD_PACKET,
        ),
        Verdict(claim="service", family="ip", answer="not proved", out_of_time=True),
    )  # fmt: skip
    report = ProofReport(
        proved=False, claims=summarize_claims(verdicts), machine="hel-2", source="what is loaded", rules=3,
        sets=1, ports=(40000,), verdicts=verdicts,
    )  # fmt: skip
    lines = render_proof(report).splitlines()
    assert lines[0] == "hel-2: what is loaded, 3 rules; closed ports: 40000"
    assert lines[1] == (
        "proved: no packet reaches a closed port but through the tunnel, whatever its connection's state;"
        " also with either table of the guard alone"
    )
    assert lines[2] == "    by inet t c: rule 0"
    assert lines[14] == "    and 2 more rules"
    assert lines[15] == "refuted: through the tunnel a closed port is reached by those alone who may (IPv6)"
    ends = "from [2001:db8::1]:1024 to [2001:db8::2]:40000 by eth0, out by br0 (bridge)"
    assert lines[16] == f"    tcp SYN {ends}, connection: new, of user 1000"
    assert lines[17] == "    came to input: a rule"
    assert "    it may be broken by: udp from 10.0.0.1:1 to 10.0.0.2:2, connection: invalid" in lines
    assert "    not understood: inet t c: rule 1" in lines
    assert any(line.startswith("not proved: out of time: of this machine's programs") for line in lines)
    assert build_proof_lines(report)
