"""`qmesh prove` where its solver is missing, what it refuses, and what it prints."""

from __future__ import annotations

import os
import subprocess
import sys

import msgspec
import pytest

from qmesh.agent.commands.prove import ProofReport, WrittenProof
from qmesh.cli.assurance_text.proof_text import build_proof_lines, render_proof
from qmesh.cli.assurance_text.report_text import build_verification_lines, build_written_lines
from qmesh.cli.screen.spans import render_lines
from qmesh.mesh.proof_report.differences import Difference
from qmesh.mesh.proof_report.verification import Verification
from qmesh.mesh.prover.claim_answers import summarize_claims
from qmesh.mesh.prover.decide import Verdict
from qmesh.mesh.prover.examples import ExamplePacket
from qmesh.mesh.prover.rule_run import RulePlace
from tests.support.forked import type_command

WITHOUT = (
    "import sys; sys.modules['clingo'] = None; from qmesh.cli import main; sys.argv[1:] = ['prove']; main()"
)


def test_without_the_solver_it_says_what_to_install():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    error, hint = done.stderr.splitlines()
    assert error == "error: `qmesh prove` needs the Python package clingo, which is not installed"
    assert "`PIPX_HOME=/opt/pipx pipx inject qmesh 'clingo<6'`" in hint


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
            unusual=("its mark",), packet=ODD_PACKET,
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
    assert "    not ordinary: its mark" in lines
    assert any(line.startswith("not proved: out of time: of this machine's programs") for line in lines)
    assert build_proof_lines(report)


WRITTEN = WrittenProof(
    machine="hel-2", source="what is loaded", rules=3, sets=1, ports=(40000,), verdicts=(),
    proved=True, claims=(),
    report="r.html", signature="r.html.sig", key="SHA256:x", public_key="ssh-ed25519 AAAA",
)  # fmt: skip


def test_a_written_report_says_what_to_give_away_and_how():
    said = render_lines(build_written_lines(WRITTEN), is_coloured=False).splitlines()
    assert said[1:] == [
        "report: r.html, mode 0600: read it before you give it away",
        "signature: r.html.sig: give it away with the report, and the key in another way:",
        "    SHA256:x",
        "    hel-2 ssh-ed25519 AAAA",
    ]
    unsigned = build_written_lines(msgspec.structs.replace(WRITTEN, signature=None))
    assert len(unsigned) == 2


def verified(*differences: Difference, age_s: int = 7, rules: int | None = 5) -> Verification:
    return Verification(
        machine="hel-2", made_at=0, age_s=age_s, qmesh="\x1b9", is_live=True, signature="own", key="SHA256:x",
        differences=differences, rules=rules,
    )  # fmt: skip


def render(found: Verification) -> list[str]:
    return render_lines(build_verification_lines(found), is_coloured=False).splitlines()


def test_a_verified_report_says_what_is_different():
    same = verified()
    assert same.is_same
    assert render(same) == [
        "hel-2: 1970-01-01 00:00:00 UTC, 7 seconds old, by qmesh \\x1b9",
        "signed by this machine: SHA256:x",
        "the same: the report, the closed ports, and 5 rules that are loaded; every claim is proved again",
    ]
    broken = msgspec.structs.replace(
        verified(Difference("rules", "table ip a: is gone"), age_s=90_000),
        broken=("outside: refuted",), signature="none", key=None,
    )  # fmt: skip
    assert render(broken) == [
        "hel-2: 1970-01-01 00:00:00 UTC, 25 hours old, by qmesh \\x1b9",
        "not signed",
        "different: table ip a: is gone",
        "not proved now: outside: refuted; `qmesh prove` says why",
    ]
    assert not verified(rules=None).is_same


def test_a_verified_report_says_which_rules_are_of_a_file():
    of_file = msgspec.structs.replace(verified(), is_live=False, ruleset="f\n")
    said = render(of_file)
    assert said[0].endswith("by qmesh \\x1b9; of the rules of a file, NOT of what was loaded")
    assert said[2:] == [
        "compared with the rules of f\\n, NOT with what is loaded",
        "the same: the report, the closed ports, and 5 rules of f\\n; every claim is proved again",
    ]
    broken = render(msgspec.structs.replace(of_file, broken=("outside: refuted",)))
    assert broken[2:] == [said[2], "not proved now: outside: refuted; `qmesh prove --ruleset f\\n` says why"]
    # Of another machine's nothing is compared.
    assert len(render(msgspec.structs.replace(of_file, rules=None))) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--report", "new", "--verify", "other"), "--report and --verify do not go together"),
        (("--sign",), "--sign needs a report to sign"),
        (("--verify", "new", "--sign"), "--sign needs a report to sign"),
        (("--report", "other"), "other exists already, and is not a qmesh report"),
        (("--report", "link"), "link exists already, and is not a qmesh report"),
        (("--report", "none/new"), "there is no directory none"),
        (("--report", "new", "--sign"), "new.sig exists already, and is not a qmesh signature"),
        (("--verify", "other"), "this is not a qmesh report"),
        (("--verify", "none"), "there is no file 'none'"),
        (("--verify", "link"), "link cannot be read: Too many levels of symbolic links"),
        (("--verify", "pipe"), "pipe cannot be read: is not a regular file"),
        (("--verify", "."), ". cannot be read: is not a regular file"),
        (("--verify", "page"), "page.sig cannot be read: is not a regular file"),
        (("--verify", "leads"), "leads.sig cannot be read: Too many levels of symbolic links"),
        (("--verify", "large"), "large.sig cannot be read: is larger than 4096 bytes"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_proved(tmp_path, words, said):
    for name in ("other", "new.sig", "page", "leads", "large"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "large.sig").write_bytes(bytes(4097))
    for name in ("link", "leads.sig"):
        (tmp_path / name).symlink_to("other")
    for name in ("pipe", "page.sig"):  # one that opens it would wait for who writes to it
        os.mkfifo(tmp_path / name)
    before = {each.name for each in tmp_path.iterdir()}
    done = type_command("prove", *words, "--state", str(tmp_path / "state"), directory=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == f"error: {said}"
    assert {each.name for each in tmp_path.iterdir()} == before
    assert (tmp_path / "other").read_text() == "mine"
