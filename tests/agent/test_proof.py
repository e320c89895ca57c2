"""A proof by a process of its own: what is known of it where the time was over."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from qmesh.agent.assurance import proof
from qmesh.host.prover.ruleset_file import ReadRules
from qmesh.mesh.prover.claims import list_questions
from qmesh.mesh.prover.decide import Verdict
from tests.support.prover_recordings import GUARDS, read_prover_recordings

GUARD = GUARDS["worker IPv4"]
KEY = bytes(32)


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
    # Cut off between the last answer and the word that it is the last one; and before each of the others.
    for count, doubts, late in ((0, (), 0), (1, None, 0), (2, None, 1)):
        monkeypatch.setattr(proof, "collect_answers", cut_off(count))
        found = proof.prove_rules(GUARD, None, marking=KEY)
        assert found.doubts == doubts
        assert sum(each.out_of_time for each in found.verdicts) == late
    monkeypatch.setattr(proof, "collect_answers", lambda *_, **__: ([], False))
    assert proof.prove_rules(GUARD, None, marking=KEY).summary is None
