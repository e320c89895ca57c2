"""What a drill comes to."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from qmesh.mesh.drill.rows import DrillRow
from qmesh.mesh.drill.shots import ACK, SYN, Fate, Shot
from qmesh.mesh.drill.verdict import (
    DrillReport,
    FiredRow,
    describe_counterexample,
    describe_fate,
    describe_flags,
    is_through,
    judge_rows,
    list_needed_tables,
)

SHOT = Shot(
    way="eth0",
    source="192.0.2.9",
    target="192.0.2.2",
    protocol="tcp",
    source_port=1025,
    target_port=40000,
    flags=SYN,
)
ARRIVED, DROPPED = Fate(ports=(40000,), is_answered=True), Fate()


def row(wanted: str) -> DrillRow:
    return msgspec.structs.replace(
        DrillRow(side="eth0", what="to ports", wanted="blocked", shots=(SHOT,)), wanted=wanted
    )


def judge(wanted: str, fate: Fate, bare: Fate = ARRIVED, **others: Any) -> DrillReport:
    given: dict[str, Any] = {"closed": {40000}, "unknown": (), "counting": (), "stand_ins": (), **others}
    fired = [FiredRow(row(wanted), {"without": [bare], "all": [fate]})]
    return judge_rows("alpha", "worker", fired, **given)


@pytest.mark.parametrize(
    ("wanted", "fate", "passed"),
    [
        ("blocked", DROPPED, True),
        ("blocked", ARRIVED, False),
        ("through", ARRIVED, True),
        ("through", DROPPED, False),
        ("answered", ARRIVED, True),
        ("answered", Fate(ports=(40000,)), False),
        ("as without", ARRIVED, True),
        ("as without", DROPPED, False),
    ],
)
def test_a_row_is_right_where_each_shot_ends_as_it_should(wanted, fate, passed):
    report = judge(wanted, fate)
    assert report.passed is passed
    assert len(report.counterexamples) == (not passed)
    assert report.lines[0].wrong == (not passed)
    assert report.fired == 2


def test_what_is_not_known_is_no_pass_and_hides_no_failure():
    assert judge("blocked", DROPPED, unknown=["not copied: x"]).passed is None
    assert judge("blocked", ARRIVED, unknown=["not copied: x"]).passed is False


def test_rules_that_count_make_a_difference_a_doubt_and_nothing_else():
    counting = ["a rule with limit"]
    report = judge("as without", DROPPED, counting=counting)
    assert report.passed is None
    assert report.unknown == ("eth0, to ports: a rule with limit",)
    assert judge("as without", ARRIVED, counting=counting).passed is True
    assert judge("blocked", ARRIVED, counting=counting).passed is False


def test_what_others_lead_from_an_open_port_to_a_closed_one_is_to_be_blocked():
    shot = msgspec.structs.replace(SHOT, target_port=8080)
    led = msgspec.structs.replace(row("as without"), shots=(shot,))

    def passes(fate: Fate, bare: Fate) -> bool | None:
        fired = [FiredRow(led, {"without": [bare], "all": [fate]})]
        return judge_rows(
            "alpha", "worker", fired, closed={40000}, unknown=(), counting=(), stand_ins=()
        ).passed

    in_container = Fate(left=("docker0",), out_ports=(40000,))
    assert passes(DROPPED, in_container) is True
    assert passes(in_container, in_container) is False
    assert passes(Fate(ports=(40000,)), Fate(ports=(40000,))) is False
    elsewhere = Fate(left=("docker0",), out_ports=(80,))
    assert passes(elsewhere, elsewhere) is True
    assert passes(DROPPED, elsewhere) is False


def test_under_the_rules_of_a_file_nothing_is_compared():
    report = judge_rows(
        "alpha",
        "worker",
        [FiredRow(row("blocked"), {"given": [ARRIVED]})],
        closed=(),
        unknown=(),
        counting=(),
        stand_ins=(),
    )
    (found,) = report.counterexamples
    assert "with the rules of the file" in describe_counterexample(found)


def test_the_first_of_each_row_is_shown_before_further_ones():
    many = DrillRow(side="eth0", what="many", wanted="blocked", shots=(SHOT,) * 30)
    fired = [
        FiredRow(many, {"all": [ARRIVED] * 30}),
        FiredRow(row("blocked"), {"all": [ARRIVED]}),
    ]
    report = judge_rows("alpha", "worker", fired, closed=(), unknown=(), counting=(), stand_ins=())
    assert [each.what for each in report.counterexamples[:3]] == ["many", "to ports", "many"]
    assert len(report.counterexamples) == 20
    assert report.lines[0].wrong == 30


def test_what_comes_out_where_it_came_in_did_not_get_through():
    assert not is_through(SHOT, Fate(left=("eth0",)))
    assert is_through(SHOT, Fate(left=("eth0", "docker0")))


def test_a_counterexample_in_a_line_says_all_of_it():
    (found,) = judge("as without", DROPPED).counterexamples
    assert describe_counterexample(found) == (
        "eth0, to ports: by eth0, tcp syn, 192.0.2.9 port 1025 to 192.0.2.2 port 40000, was dropped;"
        " it is otherwise without qmesh's tables (with all tables)"
    )
    local = msgspec.structs.replace(found, interface=None, user=65534, wanted="blocked", shape="fragments")
    assert "by user 65534 of this machine, tcp syn fragments, " in describe_counterexample(local)
    assert describe_counterexample(local).endswith("; wanted: blocked (with all tables)")


def test_flags_and_fates_have_words():
    assert describe_flags(SHOT) == "syn"
    assert describe_flags(msgspec.structs.replace(SHOT, flags=SYN | ACK)) == "syn,ack"
    assert describe_flags(msgspec.structs.replace(SHOT, flags=0)) == "none"
    assert describe_flags(msgspec.structs.replace(SHOT, protocol="udp")) == ""
    fate = Fate(ports=(40000,), left=("eth0", "docker0"), is_answered=True)
    assert describe_fate(SHOT, fate) == "arrived at port 40000 and left by docker0 and was answered"


def test_what_the_held_table_alone_does_not_do_is_not_fired_with_it():
    assert list_needed_tables(row("blocked")) == ("without", "all", "first", "held")
    spared = msgspec.structs.replace(row("blocked"), in_held=False)
    assert list_needed_tables(spared) == ("without", "all", "first")
