"""`qmesh prove` on a control node and a worker machine, of what is loaded and of a file; and its reports."""

import re
import signal

import pytest

from qmesh.mesh.prover.claims.claim_list import CLAIMS
from tests.support.checkout import CHECKOUT
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


MOVES = """
table inet other {
    set seen { type ipv4_addr; flags dynamic,timeout; timeout 1m; }
    set some { type inet_service; elements = { 443, 22 }; }
    chain c {
        type filter hook input priority 10
        meta l4proto { tcp, udp } counter
        tcp dport @some counter accept
        add @seen { ip saddr }
    }
}
"""


def read_recipe() -> str:
    """The command of the page on assurance that computes the hash of what nft prints."""
    page = (CHECKOUT / "docs/assurance.md").read_text()
    return next(each[1] for each in re.finditer(r"```sh\n(.*?)```", page, re.DOTALL) if "hashlib" in each[1])


def kinds(machine, *words: str) -> set[str]:
    """In what something differs from a report."""
    return {each["kind"] for each in facts(machine, "prove", "--verify", *words, code=1)["differences"]}


def test_a_report_is_verified_by_its_machine_by_ssh_and_by_nft():
    with Lab() as lab:
        control = make_control(lab)
        member = make_member(lab, control, 201, 4)
        nft(member, MOVES)
        written = facts(member, "prove", "--report", "/root/r.html", "--sign")
        own = next(each for each in facts(member, "status")["machines"] if each["name"] == "machine-b")
        assert own["facts"]["report_key"] == written["key"]
        report, signature = (member.path(f"/root/r.html{suffix}") for suffix in ("", ".sig"))
        assert [each.stat().st_mode & 0o777 for each in (report, signature)] == [0o600, 0o600]
        member.write("/root/signers", f"{written['machine']} {written['public_key']}\n")
        verify = "ssh-keygen -Y verify -f signers -I machine-b -n qmesh-report -s r.html.sig <r.html"
        assert written["key"] in member.run(["sh", "-c", verify]).stdout
        hashed = member.run(["sh", "-c", read_recipe()]).stdout.strip()
        assert f"{hashed}, by nft" in report.read_text()

        # Counted packets, other handles, an element that goes by itself and another order: nothing differs.
        nft(member, f"delete table inet other\n{MOVES}")
        nft(member, "add element inet other seen { 192.0.2.1 }\n")
        member.run(["bash", "-c", "echo x >/dev/udp/127.0.0.1/9"])
        found = facts(member, "prove", "--verify", "r.html")
        assert (found["signature"], found["key"], found["differences"]) == ("own", written["key"], [])

        octets = report.read_bytes()
        report.write_bytes(octets.replace(b"every claim", b"Every claim", 1))
        assert kinds(member, "r.html") == {"report", "signature"}
        report.write_bytes(octets)
        control.path("/root/r.html").write_bytes(octets)
        assert kinds(control, "r.html") == {"report", "machine"}

        nft(member, "insert rule inet other c tcp dport 4444 tcp dport set 40003\n")
        said = qmesh(member, "prove", "--verify", "r.html", code=1).stdout
        assert "different: new in inet other c: tcp dport 4444" in said
        assert "different: outside (IPv4): proved then, refuted now" in said
        assert "not proved now: outside: refuted" in said


@pytest.mark.long
def test_a_report_is_whole_or_not_there():
    with Lab() as lab:
        control = make_control(lab)
        member = make_member(lab, control, 201, 4)
        member.run(["mkdir", "/root/small"])
        member.run(["mount", "-t", "tmpfs", "-o", "size=64k", "small", "/root/small"])
        qmesh(member, "prove", "--report", "small/r.html", "--sign")
        folder = member.path("/root/small")
        before = {each.name: each.read_bytes() for each in folder.iterdir()}
        assert set(before) == {"r.html", "r.html.sig"}
        assert "No space left" in refusal(member, "prove", "--report", "small/r.html", "--sign", code=3)
        assert {each.name: each.read_bytes() for each in folder.iterdir()} == before

        # Ctrl-C while it proves leaves nothing, or all.
        running = member.start(["qmesh", "prove", "--report", "/root/ended.html"])
        running.send_signal(signal.SIGINT)
        running.wait(timeout=30)
        left = [each.name for each in member.path("/root").iterdir() if "ended" in each.name]
        assert left in ([], ["ended.html"])

        # A report that is not signed has no signature of another one beside it.
        qmesh(member, "prove", "--report", "r.html", "--sign")
        qmesh(member, "prove", "--report", "r.html")
        assert not member.path("/root/r.html.sig").exists()
        assert facts(member, "prove", "--verify", "r.html")["signature"] == "none"

        # Rules of a file, and a key that is another since.
        rules = member.run(["nft", "-j", "list", "ruleset"]).stdout
        member.write("/root/rules.json", rules)
        qmesh(member, "prove", "--ruleset", "rules.json", "--report", "file.html")
        text = member.path("/root/file.html").read_text()
        assert "NOT what was loaded" in text
        assert member.run(["sh", "-c", read_recipe()]).stdout.strip() in text
        facts(member, "prove", "--verify", "file.html", "--ruleset", "rules.json")
        qmesh(member, "rotate-key")
        assert kinds(member, "r.html") == {"report"}
