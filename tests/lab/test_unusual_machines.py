"""Machines of an unusual and right shape: `check` and `plan` find nothing, and all workers answer."""

from __future__ import annotations

import pytest

from tests.support.lab.cluster import dial, make_cluster, make_control, make_member, qmesh, start_workers
from tests.support.lab.machines import Lab
from tests.support.lab.unusual_machines import LOCALES, SHAPES, find_lasting_alarms, publish

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def pair():
    with Lab() as lab:
        control, member = make_cluster(lab)
        start_workers(control, "1..3")
        start_workers(member, "4..7")
        yield control, member


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=[pytest.mark.long] * (place > 0)) for place, each in enumerate(SHAPES)]
)
def test_a_machine_of_an_unusual_shape_is_no_alarm(pair, name):
    control, member = pair
    shape = SHAPES[name]
    for machine in pair:
        machine.run(["sh", "-ec", shape.makes])
        if "docker0" in shape.makes:
            publish(machine, {8080: 80})
    try:
        assert find_lasting_alarms(control, "--all") == []
        assert find_lasting_alarms(member) == []
        assert None not in dial(control)
    finally:
        for machine in pair:
            machine.run(["sh", "-c", shape.ends], check=False)


@pytest.mark.long
@pytest.mark.parametrize("settings", LOCALES, ids=str)
def test_a_language_of_any_direction_is_no_alarm(pair, settings):
    for machine in pair:
        assert find_lasting_alarms(machine, env=settings) == []


@pytest.mark.long
def test_one_worker_and_two_hundred_are_no_alarm(lab):
    control = make_control(lab, workers=1)
    member = make_member(lab, control, 201, 200)
    for machine in (control, member):
        qmesh(machine, "render-config", "--write")
    start_workers(control, "1")
    start_workers(member, "2..201")
    assert find_lasting_alarms(control, "--all") == []
    assert find_lasting_alarms(member) == []
    assert None not in dial(control)
