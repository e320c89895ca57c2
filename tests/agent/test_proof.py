"""A proof by a process of its own: what is known of it where the time was over, and where a report is put."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from qmesh.agent.assurance import proof
from qmesh.agent.commands import prove
from qmesh.errors import BadInput
from qmesh.host.prover.ruleset_file import ReadRules
from qmesh.host.unprivileged import NOBODY
from qmesh.mesh.proof_report import report_keys, report_page
from qmesh.mesh.prover.claims.claim_list import list_questions
from qmesh.mesh.prover.decide import Verdict
from qmesh.mesh.prover.rule_run import RulePlace
from qmesh.mesh.values import Secret
from tests.support.proof_reports import make_report_facts
from tests.support.prover_recordings import GUARDS, read_prover_recordings

GUARD = GUARDS["worker IPv4"]
KEY = bytes(32)
KEYS = report_keys.derive_report_keys(Secret(base64.b64encode(KEY).decode()))
USER = 1000
HOME, PRECIOUS = Path("/run/alice"), Path("/run/alice/of-root")


@pytest.fixture
def decided(monkeypatch) -> list[Verdict]:
    """What becomes of the claims, in place of a solver's word: of the rules that a guard has."""
    recorded = read_prover_recordings()["guard, worker IPv4"]
    rules = ReadRules(recorded.listing, recorded.ruleset.sets)
    verdicts = [
        Verdict(claim=claim, family=family, answer="proved")
        for claim, family in list_questions(has_guard=True)
    ]
    monkeypatch.setattr(proof, "read_own_interfaces", dict)
    monkeypatch.setattr(proof, "read_live_rules", lambda: rules)
    monkeypatch.setattr(proof, "read_live_rules_and_listing", lambda: (rules, None))
    monkeypatch.setattr(proof, "decide_each", lambda *_: ((each,) for each in verdicts))
    return verdicts


def cut_off(count: int) -> Callable[..., tuple[list[bytes], bool]]:
    """The time is over so many answers before the last one."""

    def collect(work: Callable[[], Iterable[bytes]], **_: object) -> tuple[list[bytes], bool]:
        answers = list(work())
        return answers[: len(answers) - count], False

    return collect


def test_what_is_not_modelled_is_known_only_once_all_was_looked_at(decided, monkeypatch):
    whole = proof.prove_rules(GUARD, None, marking=KEY)
    assert (whole.verdicts, whole.doubts) == (tuple(decided), ())
    monkeypatch.setattr(proof, "drop_rights", lambda: None)  # from here on it is this process
    # Cut off between the last answer and the word that it is the last one; and before each of the others.
    for count, doubts, late in ((0, (), 0), (1, None, 0), (2, None, 1)):
        monkeypatch.setattr(proof, "collect_answers", cut_off(count))
        found = proof.prove_rules(GUARD, None, marking=KEY)
        assert found.doubts == doubts
        assert sum(each.out_of_time for each in found.verdicts) == late
    monkeypatch.setattr(proof, "collect_answers", lambda *_, **__: ([], False))
    assert proof.prove_rules(GUARD, None, marking=KEY).summary is None


@pytest.mark.skipif(os.geteuid() != 0, reason="who is not root has no rights to drop")
def test_who_solves_has_no_rights_of_roots(decided, monkeypatch):
    """And still says names that are no text."""

    def decide(*_: object) -> Iterator[tuple[Verdict, ...]]:
        place = RulePlace(("inet", "\udcff"), "c", "drop")
        yield (replace(decided[0], family=str(os.geteuid()), rules=(place,)),)

    monkeypatch.setattr(proof, "decide_each", decide)
    for marking in (None, KEY):
        (found,) = proof.prove_rules(GUARD, None, marking=marking).verdicts
        assert (found.family, len(found.rules)) == (str(NOBODY), 1)


def write_report(monkeypatch, *, signs: bool, meanwhile: Callable[[], object]) -> Path:
    """Have a report in a directory of a user's, where something happens while the proof is made."""

    def take_time(*_: object) -> Any:
        meanwhile()
        return proof.Proof(proof.ReadCounts(), ()), make_report_facts(KEYS)

    question = SimpleNamespace(here=SimpleNamespace(settings=SimpleNamespace(name="hel-2")), guard=GUARD)
    monkeypatch.setattr(prove, "_ask", lambda *_: question)
    monkeypatch.setattr(prove, "_load_keys", lambda _: KEYS)
    monkeypatch.setattr(prove, "_prove_facts", take_time)
    path = HOME / "reports/x.html"
    prove.prove_to_report(None, path, signs=signs)  # type: ignore[arg-type]
    return path


@pytest.mark.usefixtures("own_machine")
@pytest.mark.parametrize("signs", [True, False])
@pytest.mark.parametrize("swap", ["a link", "a directory of root's"])
def test_a_directory_that_a_user_swaps_while_it_proves_leads_a_report_nowhere(monkeypatch, signs, swap):
    for directory, owner in ((HOME, USER), (HOME / "reports", USER), (PRECIOUS, 0)):
        directory.mkdir(mode=0o755)
        os.chown(directory, owner, owner)
    (PRECIOUS / "x.html").write_text("precious")
    (PRECIOUS / "x.html.sig").write_text(report_keys.BEGIN)

    def move_directories() -> None:
        (HOME / "reports").rename(HOME / "gone")
        if swap == "a link":
            (HOME / "reports").symlink_to(PRECIOUS)
        else:
            PRECIOUS.rename(HOME / "reports")

    with pytest.raises(BadInput):
        write_report(monkeypatch, signs=signs, meanwhile=move_directories)
    assert (HOME / "reports/x.html").read_text() == "precious"
    assert (HOME / "reports/x.html.sig").read_text() == report_keys.BEGIN
    assert list((HOME / "gone").iterdir()) == []


@pytest.mark.usefixtures("own_machine")
def test_an_older_report_and_its_signature_are_replaced(monkeypatch):
    (HOME / "reports").mkdir(parents=True, mode=0o755)
    path = write_report(monkeypatch, signs=True, meanwhile=lambda: None)
    signature = prove.build_signature_path(path)
    assert report_keys.check_signature(path.read_bytes(), signature.read_bytes()) is not None
    for made in (path, signature):
        assert (made.stat().st_uid, made.stat().st_mode & 0o777) == (0, 0o600)
    path.write_bytes(report_page.BEGIN)
    write_report(monkeypatch, signs=False, meanwhile=lambda: None)
    assert report_page.parse_page(path.read_bytes()).is_unchanged(KEYS)
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    signature.write_text("no signature of ours")
    write_report(monkeypatch, signs=False, meanwhile=lambda: None)
    with pytest.raises(BadInput, match=f"{signature} exists already, and is not a qmesh signature"):
        write_report(monkeypatch, signs=True, meanwhile=lambda: None)
    assert signature.read_text() == "no signature of ours"
