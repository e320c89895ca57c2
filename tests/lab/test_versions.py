"""Two versions of qmesh in one mesh, and on one machine after the other."""

from __future__ import annotations

import json

import pytest

from qmesh import __version__
from qmesh.mesh.guard.render import FORMAT
from qmesh.mesh.guard.tables import HELD
from tests.support.lab.cluster import (
    AGENT,
    CONFIG,
    HOLDER,
    STATE,
    facts,
    invite,
    make_control,
    make_member,
    newcomer,
    qmesh,
    reached,
    refusal,
    start_agent,
    start_workers,
    stop_agent,
)
from tests.support.lab.later import LATER, NEW_FORMAT, build_distant, build_next
from tests.support.lab.machines import Machine
from tests.support.lab.mixed import (
    COLUMNS,
    ROWS,
    Row,
    expect_facts,
    expect_well,
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


@pytest.mark.parametrize("column", ["A", pytest.param("B", marks=pytest.mark.long)])
def test_v1_a_machine_of_the_version_before_and_one_of_this_are_one_mesh(column):
    run(ROWS[0], column)


@pytest.mark.long
@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_v1_what_machines_do_with_each_other_they_do_with_the_version_before(row, column):
    run(row, column)


def test_what_is_run_is_the_version_before():
    with make_lab("A", skip_without_before()) as lab:
        control, member = lab.machine("machine-a", "192.168.0.200"), newcomer(lab)
        for machine, number in ((control, BEFORE[0]), (member, __version__)):
            assert qmesh(machine, "--version").stdout == f"qmesh {number}\n"
            machine.write("/root/config.yml", "engine: {}\n")
        where = "import qmesh; print(qmesh.__file__)"
        python = control.version / "venv/bin/python"
        assert str(control.version) in control.run([python, "-I", "-c", where]).stdout


PORTS = [40003, 40004]
CARELESS = {"worker-wide"}
"""Its stand-ins for workers listen on every address."""


def test_v2_state_of_a_newer_version_is_refused_the_guard_stays_and_there_is_a_way_back(lab):
    control = make_control(lab)
    member, stranger = make_member(lab, control, 201, 2), lab.machine("stranger", "192.168.0.66")
    start_workers(member, "4..5", "--careless")
    here, later = control.version, build_next()
    for machine in (member, control):
        machine.version = later
        qmesh(machine, "restart")
    qmesh(member, "down")  # which writes its settings
    qmesh(member, "apply")
    qmesh(control, "pause", "machine-b")
    qmesh(control, "resume", "machine-b")
    follow(control, member)
    expect_facts(control, member)
    expect_well(control, member, besides=CARELESS)
    guards = [read_guard(machine) for machine in (member, control)]
    assert NEW_FORMAT in guards[0]

    agents = []
    for machine in (member, control):
        machine.version = here
        stop_agent(machine)
        agents.append(machine.start(["qmesh", "agent"]))
    said = refusal(member, "status", code=3)
    assert "machine.json was written by a newer qmesh: this one does not know new_rule" in said
    assert "install that version again, or a newer one" in said
    said = refusal(control, "status", code=3)
    assert "mesh.db was written by a newer qmesh" in said
    assert f"copy {STATE}/upgrade.backup elsewhere" in said
    for machine, agent, guard in zip((member, control), agents, guards, strict=True):
        wait_until(lambda: "newer qmesh" in agent.error_output(), 30)  # noqa: B023
        for words in (["apply"], ["down", "--open"], ["check"]):
            assert qmesh(machine, *words, code=3).stdout == ""
        assert read_guard(machine) == guard
        # As after a boot: what is loaded is what the newer version wrote.
        machine.kill(f"{AGENT}|{HOLDER}")
        machine.run(["nft", "flush", "ruleset"])
        machine.run(["sh", "-c", "nft delete table inet qmesh; true"])
        machine.start(["qmesh", "hold"])
        machine.start(["qmesh", "agent"])
        wait_until(lambda: read_guard(machine) == guard, 30)  # noqa: B023
        wait_until(lambda: HELD in machine.run(["nft", "list", "tables"]).stdout, 30)  # noqa: B023
    assert reached(stranger, "192.168.0.201", PORTS) == []

    member.version = later  # the first way: the newer one again
    qmesh(member, "restart")
    control.run(["cp", f"{STATE}/upgrade.backup", "/root/copy"])  # the second way, as it is said
    qmesh(control, "uninstall", "--delete-state", "--yes", "control")
    assert facts(control, "restore", "copy", "--plain", "--config", CONFIG)["name"] == "control"
    follow(control, member)
    expect_facts(control, member)
    expect_well(control, member, besides=CARELESS)
    assert reached(control, "10.77.0.2", PORTS) == PORTS
    assert reached(stranger, "192.168.0.201", PORTS) == []


def test_v1_machines_that_do_not_understand_each_other_say_on_both_what_to_update(lab):
    control = make_control(lab)
    member = make_member(lab, control, 201, 2)
    expect_facts(control, member)
    guard = read_guard(member)
    distant = build_distant()
    member.version = distant
    stop_agent(member)
    agent = start_agent(member)

    def apart(machine: Machine) -> list[tuple[str, str]]:
        found = json.loads(qmesh(machine, "check", "--json", code=None).stdout)["findings"]
        return [(each["subject"], each["cure"]) for each in found if each["code"] == "versions-apart"]

    cure = f"update qmesh on control, to {LATER} or newer"
    looking = "see `qmesh --version` on machine-b; if that is newer than here, "
    wait_until(lambda: apart(control) == [("machine-b", looking + cure)], 60)
    assert apart(member) == [("control", cure)]
    assert "do not understand each other" in agent.error_output()
    assert f"versions-apart: machine-b: qmesh {LATER}" in qmesh(control, "status").stdout
    assert "40003" in guard
    assert read_guard(member) == guard.replace(FORMAT, NEW_FORMAT)
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
