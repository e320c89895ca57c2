"""Two versions of qmesh in one mesh, and on one machine after the other."""

from __future__ import annotations

import json

import pytest

from qmesh import __version__
from tests.support.lab.cluster import (
    facts,
    invite,
    make_control,
    make_member,
    newcomer,
    qmesh,
    refusal,
    start_agent,
    stop_agent,
)
from tests.support.lab.later import LATER, build_distant
from tests.support.lab.machines import Machine
from tests.support.lab.mixed import (
    ROWS,
    Row,
    expect_facts,
    follow,
    make_lab,
    read_guard,
)
from tests.support.versions import BEFORE, skip_without_before
from tests.support.waiting import wait_until

pytestmark = pytest.mark.lab


def run(row: Row, column: str) -> None:
    before = skip_without_before()
    with make_lab(column, before) as lab:
        row.run(lab)


@pytest.mark.parametrize("column", ["A", "B"])
def test_v1_a_machine_of_the_version_before_and_one_of_this_are_one_mesh(column):
    run(ROWS[0], column)


def test_what_is_run_is_the_version_before():
    with make_lab("A", skip_without_before()) as lab:
        control, member = lab.machine("machine-a", "192.168.0.200"), newcomer(lab)
        for machine, number in ((control, BEFORE[0]), (member, __version__)):
            assert qmesh(machine, "--version").stdout == f"qmesh {number}\n"
            machine.write("/root/config.yml", "engine: {}\n")
        where = "import qmesh; print(qmesh.__file__)"
        python = control.version / "venv/bin/python"
        assert str(control.version) in control.run([python, "-I", "-c", where]).stdout


def test_v1_machines_that_do_not_understand_each_other_say_on_both_what_to_update(lab):
    control = make_control(lab)
    member = make_member(lab, control, 201, 2)
    expect_facts(control, member)
    distant = build_distant()
    member.version = distant
    stop_agent(member)
    agent = start_agent(member)

    def apart(machine: Machine) -> list[tuple[str, str]]:
        found = json.loads(qmesh(machine, "check", "--json", code=None).stdout)["findings"]
        return [(each["subject"], each["cure"]) for each in found if each["code"] == "versions-apart"]

    cure = f"update qmesh on {{}}, to {LATER} or newer"
    wait_until(lambda: apart(control) == [("machine-b", cure.format("control"))], 60)
    assert apart(member) == [("control", cure.format("control"))]
    assert "do not understand each other" in agent.error_output()
    assert "40003" in read_guard(member)
    late = newcomer(lab, 202)
    late.version = distant
    invite(control, late, "--workers", "1")
    said = refusal(late, "join", "invitation", code=4)
    assert f"update qmesh on the control node, to {LATER} or newer" in said
    assert facts(control, "status")["machines"][-1]["state"] == "invited"

    control.version = distant
    stop_agent(control)
    start_agent(control)
    follow(control, member)
    wait_until(lambda: apart(control) == apart(member) == [], 60)
    qmesh(late, "join", "invitation")
