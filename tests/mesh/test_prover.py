"""Proofs and counter-examples, by what the kernel once said of rules."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from msgspec.structs import replace

from qmesh.mesh.foreign.expressions import Expression
from qmesh.mesh.foreign.kernel_rules import KernelRule
from qmesh.mesh.foreign.rulesets import ListedChain
from qmesh.mesh.prover.claim_answers import summarize_claims
from qmesh.mesh.prover.claim_codes import ClaimCode
from qmesh.mesh.prover.claims.claim_list import ALONE, CLAIMS, build_cases, list_questions
from qmesh.mesh.prover.decide import Verdict, decide_cases, list_late
from qmesh.mesh.prover.rulesets import ProvedRuleset
from qmesh.mesh.state import Guard
from tests.support.kernel_expressions import DROP, compares, ct, payload, verdict
from tests.support.prover_recordings import GUARDS, RECORDED_GUARDS, read_prover_recordings
from tests.support.sent_packets import Judge

RECORDINGS = read_prover_recordings()
UNCLEAR = {
    "ends of a connection", "a named set whose elements end", "a mark that may be set",
    "a source that comes too often", "a rate", "a rate that the mesh may exceed", "a rate before a policy",
    "a processor", "a processor, before an accept", "a processor, on the way to a jump", "a device",
    "a device, connections", "another device",
}  # fmt: skip
DROP_ALL = KernelRule("inet", "u", "c", 5, (DROP,))
DROP_ALL_AGAIN = KernelRule("inet", "u", "c", 6, (DROP,))
INTERFACES = {"lo": 1, "eth0": 2, "qmesh0": 3}


def prove(ruleset: ProvedRuleset, guard: Guard, *claims: ClaimCode) -> list[Verdict]:
    """All claims; or these, of IPv4 alone."""
    cases = build_cases(ruleset, guard)
    chosen = (case for case in cases if not claims or (case.claim in claims and case.family == "ip"))
    return decide_cases(chosen, guard, INTERFACES, ruleset.own_tables)


@pytest.mark.parametrize("name", [name for name in RECORDINGS if name.startswith(("seed", "guard"))])
def test_of_every_packet_the_prover_says_what_the_kernel_said(name: str):
    recording = RECORDINGS[name]
    for family in ("ip", "ip6"):
        packets = [packet for packet in recording.packets if packet.family == family]
        alive = Judge(recording.ruleset, family, recording.listing.interfaces).list_alive(packets)
        assert alive == [packet.number in recording.came for packet in packets]


@pytest.mark.parametrize("name", [name for name in RECORDINGS if name.startswith("case")])
def test_what_the_prover_is_sure_of_is_what_the_kernel_said(name: str):
    recording = RECORDINGS[name]
    (packet,) = recording.packets
    fate = Judge(recording.ruleset, "ip", recording.listing.interfaces).find_fate(packet)
    assert fate in {"unclear", "passes" if packet.number in recording.came else "drops"}
    expected = {"unclear"} if name.removeprefix("case, ") in UNCLEAR else {"passes", "drops"}
    assert fate in expected


@pytest.mark.parametrize("name", RECORDED_GUARDS)
def test_the_guard_is_proved_also_with_either_of_its_tables_alone(name: str):
    verdicts = prove(RECORDINGS[f"guard, {name}"].ruleset, GUARDS[name])
    assert [verdict for verdict in verdicts if verdict.answer != "proved"] == []
    assert {verdict.claim for verdict in verdicts} == set(CLAIMS)
    alone = {verdict.claim for verdict in verdicts if verdict.without}
    assert alone == set(ALONE)
    assert {verdict.claim for verdict in verdicts if verdict.rules} >= {"outside", "tunnel", "containers"}


def test_what_circulates_as_advice_is_refuted_by_packets():
    recording, guard = RECORDINGS["advice"], GUARDS["worker IPv4"]
    verdicts = {(each.claim, each.family): each for each in prove(recording.ruleset, guard)}
    outside = verdicts["outside", "ip"]
    assert outside.answer == "refuted"
    assert outside.packet is not None
    assert outside.packet.came_by == "eth0"
    assert outside.packet.source == guard.control_address  # whoever takes it, is believed
    assert outside.packet.target_port in guard.closed_ports
    assert outside.path == ("input: inet filter input: meta nfproto 2 ip saddr 10.77.0.1 accept",)
    assert verdicts["tunnel", "ip6"].answer == "refuted"
    assert verdicts["service", "ip"].answer == "refuted"
    assert verdicts["answers", "ip"].answer == "proved"
    assert ("others", "ip") not in verdicts  # it is about the guard's own tables


def add_chain(ruleset: ProvedRuleset, *rules: KernelRule, **named: Any) -> ProvedRuleset:
    """Another table with one base chain of these rules."""
    chain = ListedChain(**{"family": "inet", "table": "u", "name": "c", "hook": "input", **named})
    return replace(
        ruleset,
        chains={**ruleset.chains, ("inet", "u"): {"c": chain}},
        rules={**ruleset.rules, ("inet", "u", "c"): rules},
    )


def test_a_rule_that_is_not_understood_is_named_where_a_claim_depends_on_it_and_only_there():
    name = "worker IPv4"
    riddle = KernelRule("inet", "u", "c", 5, (Expression("of tomorrow", {}),))
    found = add_chain(RECORDINGS[f"guard, {name}"].ruleset, riddle)
    (containers, *_), (control, *_) = (
        prove(found, GUARDS[name], claim) for claim in ("containers", "control")
    )
    assert containers.answer == "proved"
    assert control.answer == "not proved"
    assert [str(place) for place in control.unclear] == ["inet u c: of tomorrow"]
    assert control.packet is not None
    assert "input: inet u c: of tomorrow" in control.path


def test_a_rule_that_gives_packets_to_another_socket_leaves_what_is_closed_unproved():
    escape = KernelRule("inet", "u", "c", 5, (Expression("tproxy", {}),))
    found = add_chain(RECORDINGS["guard, worker IPv4"].ruleset, escape, hook="prerouting", priority=-300)
    outside = prove(found, GUARDS["worker IPv4"], "outside")
    assert {each.answer for each in outside} == {"not proved"}
    assert all(place.table == ("inet", "u") for each in outside for place in each.unclear)


def test_an_answer_may_go_to_whom_a_rule_has_given_another_source():
    rule = KernelRule("inet", "u", "c", 5, (Expression("nat", {}),))
    found = add_chain(
        RECORDINGS["guard, worker IPv4"].ruleset, rule, hook="input", kind="nat", priority=100
    )  # fmt: skip
    older, *_ = prove(found, GUARDS["worker IPv4"], "older")
    assert older.answer == "not proved"
    without = add_chain(RECORDINGS["guard, worker IPv4"].ruleset, hook="input", kind="nat", priority=100)
    assert {each.answer for each in prove(without, GUARDS["worker IPv4"], "older")} == {"proved"}


def test_a_second_table_of_one_name_does_not_stand_in_for_what_is_left_out():
    found = RECORDINGS["guard, worker IPv4"].ruleset
    held = next(key for key in found.own_tables if "held" in key[1])
    copied = (held[0], f" {held[1]}".strip() if held[1].endswith(" ") else f"{held[1]} ")
    doubled = replace(
        found,
        chains={held: found.chains[held], copied: {}},
        rules={key: rules for key, rules in found.rules.items() if key[:2] == held},
    )
    verdicts = prove(doubled, GUARDS["worker IPv4"], "outside")
    assert [(each.answer, each.without) for each in verdicts] == [("proved", "")]


def test_a_packet_that_the_kernel_drops_before_all_rules_refutes_nothing():
    found = replace(RECORDINGS["advice"].ruleset, chains={}, rules={})
    local = KernelRule(
        "inet", "u", "c", 5, (payload(1, 12, 1), compares(b"\x7f", operator=1), DROP)
    )  # fmt: skip
    outside = prove(add_chain(found, local), GUARDS["control IPv4"], "outside")
    assert [each.answer for each in outside] == ["not proved"]


def test_what_only_unusual_packets_break_is_not_proved_and_such_a_packet_is_shown():
    def is_state(number: int, code: int) -> KernelRule:
        return KernelRule(
            "inet", "u", "c", number, (ct(0), compares(struct.pack("=I", number)), verdict(code))
        )

    empty = replace(RECORDINGS["advice"].ruleset, chains={}, rules={})
    found = add_chain(empty, is_state(1, 1), KernelRule("inet", "u", "c", 9, (DROP,)))
    outside = prove(found, GUARDS["worker IPv4"], "outside")
    assert [each.answer for each in outside] == ["not proved"]
    assert [each.packet.state for each in outside if each.packet] == ["invalid"]
    found = add_chain(empty, drops=True)
    wireguard = prove(found, GUARDS["worker IPv4"], "wireguard")
    assert [each.answer for each in wireguard] == ["refuted"]
    assert wireguard[0].path == ("input: inet u c: policy drop",)
    assert wireguard[0].packet is not None
    assert wireguard[0].packet.state == "established, an answer"


def test_claims_that_are_not_decided_in_time_are_not_proved():
    name = "worker IPv4"
    ruleset = RECORDINGS[f"guard, {name}"].ruleset
    cases = list(build_cases(ruleset, GUARDS[name]))
    assert [(case.claim, case.family) for case in cases] == list_questions(has_guard=True)
    bare = build_cases(ruleset.without(*ruleset.own_tables), GUARDS[name])
    assert [(case.claim, case.family) for case in bare] == list_questions(has_guard=False)
    verdicts = decide_cases(cases, GUARDS[name], INTERFACES, ruleset.own_tables)
    assert list_late(verdicts, has_guard=True) == []
    # Of two cases of one claim both are needed.
    begun = verdicts[: next(n for n, each in enumerate(verdicts) if each.claim == "taken-up") + 1]
    late = list_late(begun, has_guard=True)
    assert [each.claim for each in late if each.family == "ip"] == [
        "control", "answers", "containers", "taken-up", "older", "service", "others",
    ]  # fmt: skip
    assert {each.claim for each in late if each.family == "ip6"} == set(CLAIMS)
    assert {(each.answer, each.out_of_time) for each in late} == {("not proved", True)}
    assert {each.proved for each in summarize_claims([*begun, *late])} == {None}


def test_what_became_of_each_claim_is_told_to_programs():
    name = "worker IPv4"
    found = {each.claim: each for each in summarize_claims(prove(RECORDINGS["advice"].ruleset, GUARDS[name]))}
    assert set(found) == set(CLAIMS) - {"others"}
    assert found["answers"].proved is True
    assert found["answers"].counterexample is None
    outside = found["outside"]
    assert outside.proved is False
    assert outside.counterexample is not None
    assert outside.counterexample.interface == "eth0"
    assert outside.counterexample.source == GUARDS[name].control_address
    assert outside.counterexample.port in GUARDS[name].closed_ports
    assert outside.counterexample.rules == (
        "input: inet filter input: meta nfproto 2 ip saddr 10.77.0.1 accept",
    )


def test_a_proof_of_very_many_rules_is_not_shortened(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("qmesh.mesh.prover.decide._MOST_SHORTENED", 0)
    found = add_chain(replace(RECORDINGS["advice"].ruleset, chains={}, rules={}), DROP_ALL, DROP_ALL_AGAIN)
    outside = prove(found, GUARDS["worker IPv4"], "outside")
    assert {each.answer for each in outside} == {"proved"}


def test_an_answer_that_takes_too_long_to_find_is_not_given(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("qmesh.mesh.prover.decide._MOST_ROUNDS", 1)
    riddle = KernelRule("inet", "u", "c", 5, (Expression("of tomorrow", {}),))
    empty = replace(RECORDINGS["advice"].ruleset, chains={}, rules={})
    found = add_chain(empty, riddle, DROP_ALL)
    outside = prove(found, GUARDS["worker IPv4"], "outside")
    assert {each.answer for each in outside} == {"not proved"}
