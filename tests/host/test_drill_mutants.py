"""A drill passes the guard as it is, and notices it broken; `scripts/mutants` tries many mistakes."""

from __future__ import annotations

import msgspec
import pytest

from qmesh.host.drill import firing_range
from qmesh.mesh.guard.render import render_table, render_unowned_table
from qmesh.mesh.guard.tables import HELD, TABLE
from tests.support.drill_range import drill_scripts
from tests.support.lab.mesh import GUARDS
from tests.support.mutants import count_kinds, draw_mutants, list_mutants
from tests.support.prover_range import prove_scripts

pytestmark = pytest.mark.lab


@pytest.mark.parametrize("address", ["10.77.0.1", "fd77::1"], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("role", GUARDS)
def test_g1_g2_g5_the_guard_passes_a_drill_and_no_guard_does_not(role, address):
    guard = msgspec.structs.replace(GUARDS[role], control_address=address)
    whole, none = drill_scripts(guard, [render_table(guard), f"table inet {TABLE} {{\n}}\n"])
    assert whole is not None
    assert none is not None
    assert whole.counterexamples == ()
    assert whole.passed is True
    assert none.passed is False


def test_a_machine_whose_kernel_has_no_ipv6_is_drilled_over_ipv4(monkeypatch):
    monkeypatch.setattr(firing_range, "has_ipv6", lambda: False)
    guard = GUARDS["worker"]
    whole, none = drill_scripts(guard, [render_table(guard), f"table inet {TABLE} {{\n}}\n"])
    assert whole is not None
    assert none is not None
    assert (whole.passed, none.passed) == (True, False)


def test_there_are_enough_kinds_of_mistakes_and_the_same_again_from_their_seed():
    for guard in GUARDS.values():
        assert count_kinds(list_mutants(guard)) > 200
        assert draw_mutants(guard, 60, seed=1) == draw_mutants(guard, 60, seed=1)
        assert count_kinds(draw_mutants(guard, 60, seed=1)) == 60


SURE = ("drop made accept, in closed_port", "closed_ports emptied", "iifname inverted, in asked_for")
"""Of what no other rule makes good."""


def test_mistakes_are_noticed():
    guard = GUARDS["worker"]
    mutants = {each.kind: each for each in list_mutants(guard)}
    reports = drill_scripts(guard, [mutants[kind].first for kind in SURE])
    assert [report is not None and report.passed for report in reports] == [False] * len(SURE)


@pytest.mark.parametrize(
    ("role", "kind", "said", "claim"),
    [
        ("worker", "accept made drop, in asks_service", "refuted", "control"),
        pytest.param(
            "worker", "accept made drop, in closed_port", "refuted", "control", marks=pytest.mark.long
        ),
        pytest.param(
            "worker", "guarded_ports without its last", "refuted", "control", marks=pytest.mark.long
        ),
        ("worker", "an interval too short at its end, in sent", "refuted", "containers"),
        ("control", "two rules the other way round, in closed_port", "refuted", "answers"),
        pytest.param("control", "another user, in sent", "refuted", "service", marks=pytest.mark.long),
        pytest.param(
            "control",
            "two rules the other way round, in answered",
            "refuted",
            "answers",
            marks=pytest.mark.long,
        ),
    ],
)
def test_no_mistake_about_what_this_machine_asks_is_proved(role, kind, said, claim):
    guard = GUARDS[role]
    scripts = [each.first for each in list_mutants(guard) if each.kind == kind]
    found = [each for each in prove_scripts(guard, render_table(guard), scripts) if each is not None]
    assert (said, f"{claim}, ip") in {(each.said, each.by) for each in found}


def test_both_tables_are_broken_alike():
    guard = GUARDS["worker"]
    for each in draw_mutants(guard, 30, seed=2):
        assert each.first != render_table(guard) or each.held != render_unowned_table(guard)
        assert TABLE in each.first
        assert HELD in each.held
