"""Machines of an unusual and right shape: `check` and `plan` find nothing, and all workers answer."""

from __future__ import annotations

import pytest

from tests.support.lab.cluster import (
    CONFIG,
    NODE_CONFIG,
    dial,
    make_cluster,
    make_control,
    make_member,
    qmesh,
    start_workers,
)
from tests.support.lab.firewalls import Ufw
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
def test_a_firewall_that_lets_the_mesh_pass_is_no_alarm(pair):
    """By ufw's own words, as its users type them."""
    for machine in pair:
        Ufw(machine).start()
        machine.run(["sh", "-ec", "ufw allow in on qmesh0; ufw allow 51820/udp"])
    try:
        assert find_lasting_alarms(pair[0], "--all") == []
        assert find_lasting_alarms(pair[1]) == []
        assert None not in dial(pair[0])
    finally:
        for machine in pair:
            machine.run(["ufw", "disable"])


@pytest.mark.long
def test_a_machine_whose_state_is_in_memory_is_no_alarm(lab):
    machine = lab.machine("machine-a", "192.168.0.200", "fd00:1a::200")
    machine.run(["mount", "-t", "tmpfs", "tmpfs", "/var/lib"])
    machine.write(f"{CONFIG}/config.yml", NODE_CONFIG, 0o600)
    where = ("--endpoint", "[fd00:1a::200]", "--config", CONFIG)
    qmesh(machine, "init", "--workers", "2", "--node", "1.4", *where)
    qmesh(machine, "render-config", "--write")
    start_workers(machine, "1..2")
    assert find_lasting_alarms(machine, "--all") == []


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
