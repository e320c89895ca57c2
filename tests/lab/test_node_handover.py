"""The control role moves, and no worker that is not restarted passes for one that earns."""

from __future__ import annotations

import pytest

from tests.support.lab.cluster import qmesh
from tests.support.lab.node_cluster import (
    SOON_S,
    alive,
    comes,
    found,
    make_node_cluster,
    number_of,
    restart,
    start_cluster,
    wait_until,
)
from tests.support.lab.rust_node import CONFIG, PROGRAM, earning_cores, start_core

pytestmark = [pytest.mark.lab, pytest.mark.long]


def test_n2_every_worker_is_named_until_it_is_connected_to_the_new_control_node(lab):
    control, member = make_node_cluster(lab)
    start_cluster(control, member)
    qmesh(control, "handover", "machine-b", timeout=120)
    wait_until(lambda: "worker-outdated" in found(control), SOON_S)
    assert found(control)["worker-outdated"]["subject"] == "control core 1"
    # Until it is stopped the old control process is a second one with the node's identity.
    second = found(control)["worker-not-ours"]
    assert (second["severity"], second["subject"]) == ("error", "control process")
    assert second["seen"].startswith(f"one runs on this machine too: core 0 runs '{PROGRAM}'")
    assert second["cure"] == "stop the control process"
    assert "/ip4/10.77.0.2/tcp/8340" in control.read(f"{CONFIG}/config.yml")
    comes(member, "worker-outdated", "control-silent")
    assert found(member)["worker-outdated"]["subject"] == "machine-b cores 2-3"
    assert alive(member) == [0, 0]

    control.run(["kill", str(number_of(control, 0))])
    start_core(member, 0)
    for core in (2, 3):
        restart(member, core)
    comes(control, "worker-outdated")
    assert alive(member)[0] == 0
    restart(control, 1)
    wait_until(lambda: alive(member) == [1, 2], 30)
    for machine in (member, control):
        comes(machine)
    assert earning_cores(member) == [1, 2, 3]
