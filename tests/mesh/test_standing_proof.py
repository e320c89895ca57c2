"""What is kept of a proof, and when the next one is due."""

from __future__ import annotations

import msgspec
import pytest

from qmesh.mesh.prover.examples import ExamplePacket
from qmesh.mesh.prover.packet_text import describe_packet
from qmesh.mesh.standing_proof.record import ClaimResult, StandingProof, join_results
from qmesh.mesh.standing_proof.schedule import (
    AGAIN_S,
    FIRST_S,
    MOST_S,
    RETRY_S,
    SETTLED_S,
    SHARE,
    UNSETTLED_S,
    ProofSchedule,
    RuleChanges,
)

PROVED = ClaimResult(claim="outside", closes=True, words="", state="proved", family="ip")
UNCLEAR = msgspec.structs.replace(PROVED, state="not proved", family="ip6")
REFUTED = msgspec.structs.replace(PROVED, state="refuted", without="qmesh")


def test_of_each_claim_the_worst_is_kept():
    other = msgspec.structs.replace(PROVED, claim="tunnel")
    assert join_results([PROVED, other, UNCLEAR, REFUTED, PROVED]) == (REFUTED, other)
    assert join_results([UNCLEAR, msgspec.structs.replace(UNCLEAR, family="ip")]) == (UNCLEAR,)
    arrives = msgspec.structs.replace(REFUTED, closes=False)
    proof = StandingProof(claims=(REFUTED, UNCLEAR, PROVED, arrives))
    assert (proof.list_refuted(), proof.list_open()) == ((REFUTED,), (UNCLEAR,))


def test_a_proof_that_failed_takes_back_nothing_that_was_refuted():
    other = msgspec.structs.replace(REFUTED, claim="tunnel", packet="q")
    before = StandingProof(claims=(PROVED, other), at=5.0)
    failed = StandingProof(problem="no time", at=9.0)
    assert failed.keep_refuted(None) == failed
    kept = failed.keep_refuted(before)
    assert (kept.claims, kept.at, kept.problem) == ((other,), 5.0, "no time")
    assert failed.keep_refuted(kept) == kept  # for as long as proofs fail
    found = msgspec.structs.replace(failed, claims=(msgspec.structs.replace(other, packet="r"), UNCLEAR))
    assert found.keep_refuted(before).claims == found.claims  # a newer packet
    assert found.keep_refuted(StandingProof(claims=(REFUTED,))).claims == (found.claims[0], REFUTED)
    assert found.keep_refuted(StandingProof(problem="no solver")).at == 9.0


def prove(schedule: ProofSchedule, changes: RuleChanges, now: float, *, cost_s: float = 1.0) -> None:
    assert schedule.is_due(changes, now)
    schedule.note_proof(changes, now, cost_s=cost_s)


def test_the_first_proof_is_some_time_after_the_start():
    schedule = ProofSchedule(100.0)
    assert not schedule.is_due(RuleChanges(3, 3), 100.0 + FIRST_S - 1)
    assert schedule.find_lag(1000.0) is None
    prove(schedule, RuleChanges(3, 3), 100.0 + FIRST_S)
    assert not schedule.is_due(RuleChanges(3, 3), 100.0 + FIRST_S)
    prove(schedule, RuleChanges(3, 3), 100.0 + FIRST_S + AGAIN_S)  # the kernel does not tell of everything


@pytest.mark.parametrize("changes", [RuleChanges(1, 0), RuleChanges(0, 1)])
def test_a_change_is_proved_once_no_other_follows_or_after_some_seconds(changes: RuleChanges):
    schedule = ProofSchedule(0.0)
    prove(schedule, RuleChanges(), 50.0)
    assert not schedule.is_due(changes, 100.0)
    assert schedule.find_lag(100.5) == 0.5
    assert not schedule.is_due(changes, 100.0 + SETTLED_S / 2)
    prove(schedule, changes, 100.0 + SETTLED_S)
    assert schedule.find_lag(200.0) is None
    at = 200.0
    while not schedule.is_due(RuleChanges(int(at * 10), 0), at):
        at += SETTLED_S / 2
    assert at == 200.0 + UNSETTLED_S


def simulate(step: RuleChanges, seconds: int, cost_s: float) -> tuple[float, float]:
    """What proofs take where so much changes each second, and what is left for changes of rules then."""
    schedule, changes, spent = ProofSchedule(0.0), RuleChanges(), 0.0
    for now in map(float, range(seconds)):
        changes = RuleChanges(changes.rules + step.rules, changes.elements + step.elements)
        if schedule.is_due(changes, now):
            schedule.note_proof(changes, now, cost_s=cost_s)
            spent += cost_s
    left, now = 0.0, float(seconds)
    while schedule.is_due(RuleChanges(changes.rules + 1, changes.elements), now + UNSETTLED_S):
        changes, now = RuleChanges(changes.rules + 1, changes.elements), now + UNSETTLED_S
        schedule.note_proof(changes, now, cost_s=cost_s)
        left += cost_s
    return spent, left


@pytest.mark.parametrize("step", [RuleChanges(1, 0), RuleChanges(0, 5000)])
@pytest.mark.parametrize("cost_s", [0.7, 3.0, 40.0])
def test_proofs_take_no_more_than_their_share_whatever_changes(step: RuleChanges, cost_s: float):
    day = 86_400
    spent, left = simulate(step, day, cost_s)
    share = SHARE * max(1.0, cost_s / MOST_S)  # of one alone no more than that is taken out
    assert spent <= share * day + MOST_S + cost_s
    assert spent >= SHARE * day / 2
    if step.elements and cost_s < MOST_S / 2:  # addresses that come and go leave something for rules
        assert left >= cost_s


def fail(schedule: ProofSchedule, changes: RuleChanges, now: float) -> None:
    assert schedule.is_due(changes, now)
    schedule.note_failure(changes, now, cost_s=0.001)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_proof_that_failed_is_tried_again_less_and_less_often(is_first: bool):
    schedule, changes, now = ProofSchedule(0.0), RuleChanges(), 50.0
    if not is_first:
        prove(schedule, changes, now)
        now, changes = 150.0, RuleChanges(1, 0)
        assert not schedule.is_due(changes, now - SETTLED_S)
    wait_s = RETRY_S
    for _ in range(10):
        fail(schedule, changes, now)
        assert (schedule.find_lag(now) is None) == is_first
        assert not schedule.is_due(changes, now + wait_s - 1)
        now, wait_s = now + wait_s, min(2 * wait_s, AGAIN_S)
    assert wait_s == AGAIN_S
    fail(schedule, changes, now)

    other = RuleChanges(2, 0)  # may be what it failed by
    assert not schedule.is_due(other, now + 1)
    fail(schedule, other, now + UNSETTLED_S)
    for since in range(1, int(UNSETTLED_S)):  # who never ceases takes not all that is saved up
        assert not schedule.is_due(RuleChanges(3 + since, 0), now + UNSETTLED_S + since)
    prove(schedule, RuleChanges(9, 0), now + 2 * UNSETTLED_S)
    assert schedule.find_lag(now + 2 * UNSETTLED_S) is None
    assert not schedule.is_due(RuleChanges(9, 0), now + 20 * RETRY_S)


def test_what_one_proof_took_delays_the_next_by_minutes_at_most():
    schedule = ProofSchedule(0.0)
    prove(schedule, RuleChanges(), 50.0, cost_s=1e308)
    assert not schedule.is_due(RuleChanges(1, 0), 50.0 + 0.9 * MOST_S / SHARE)
    assert schedule.is_due(RuleChanges(1, 0), 51.0 + MOST_S / SHARE)


def test_what_nobody_wanted_to_know_for_a_while_is_proved_anew():
    schedule = ProofSchedule(0.0)
    prove(schedule, RuleChanges(), 50.0)
    schedule.forget_proof()
    assert schedule.find_lag(60.0) is None
    prove(schedule, RuleChanges(), 60.0)


def test_a_packet_is_one_line_in_which_nothing_moves_a_cursor():
    sent = ExamplePacket(
        family="ip6", came_by="eth0", goes_by="b\x1b0", protocol="tcp", source="2001:db8::1", source_port=1,
        target="2001:db8::2", target_port=2, flags=("SYN", "ACK"), state="new", user=7,
    )  # fmt: skip
    ends = "tcp SYN,ACK from [2001:db8::1]:1 to [2001:db8::2]:2"
    assert describe_packet(sent) == f"{ends} by eth0, out by b\\x1b0, connection: new, of user 7"
    plain = ExamplePacket(
        family="ip", protocol="udp", source="10.0.0.1", source_port=1, target="10.0.0.2", target_port=2,
        state="invalid",
    )  # fmt: skip
    assert describe_packet(plain) == "udp from 10.0.0.1:1 to 10.0.0.2:2, connection: invalid"
