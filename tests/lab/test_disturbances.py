"""Whatever is done to a machine under systemd, nobody reaches a worker at any moment.

By systemd on a lab machine. With `-m long` test_boot.py does the same after a boot of the emulated machine.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.lab.asked_machine import (
    NFTABLES,
    OF_THE_TEST,
    OTHER_FILES,
    PROGRAM,
    UNITS,
    assert_closed,
)
from tests.support.lab.cluster import CONFIG, NODE_CONFIG, qmesh
from tests.support.lab.machines import TOOLS, Lab
from tests.support.lab.programs.boot import DISTURBANCES, ENOUGH
from tests.support.lab.systemd import control_group, start_systemd

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def disturbed() -> Any:
    """What boot.py tells of it."""
    if not NFTABLES.exists():
        pytest.skip(f"this machine cannot: it has no {NFTABLES}")
    with control_group() as group, Lab() as lab:
        machine = lab.machine("machine-a", "192.168.0.200", "fd00:1a::200")
        start_systemd(machine, group)
        machine.write(f"{CONFIG}/config.yml", NODE_CONFIG, 0o600)
        mesh = ("--workers", "3", "--node", "1.4", "--config", CONFIG, "--endpoint", "192.168.0.200")
        qmesh(machine, "init", *mesh, timeout=60)
        qmesh(machine, "render-config", "--write")
        for name, text in OTHER_FILES.items():
            machine.write(f"/{name}", text, 0o755 if f"/{name}" == PROGRAM else 0o644)
        qmesh(machine, "units", "--write", f"/{UNITS}", "--program", PROGRAM)
        for name, text in OF_THE_TEST.items():
            machine.write(f"/{UNITS}/{name}", text)
        machine.run(["systemctl", "daemon-reload"])
        machine.run(
            ["systemctl", "start", "lan.service", "nftables.service", "qmesh-workers.target"], timeout=60
        )
        return json.loads(machine.run(["python", TOOLS / "boot.py", "disturbed"], timeout=300).stdout)


@pytest.mark.parametrize("name", DISTURBANCES)
def test_g3_nothing_opens_by(disturbed, name):
    found = disturbed["disturbed"][name]

    assert_closed(found["before"], found["after"], ENOUGH)
    assert "inet qmesh" in found["tables"]
    assert found["workers_went_on"]


def test_g3_in_all_that_time_nobody_reached_a_worker_and_all_is_there_in_the_end(disturbed):
    assert_closed({"asked": {}, "came": {}}, disturbed["end"], 40 * ENOUGH)
    assert disturbed["tables"] == ["inet qmesh", "inet qmesh-held"]


def test_systemd_has_nothing_against_the_units(disturbed):
    assert disturbed["verified"] == ""
