"""Machines of whose workers the control process has too few connections, as the control node sees it."""

from __future__ import annotations

import msgspec

from qmesh.mesh.node_processes.record import CUT_OFF_S
from qmesh.mesh.node_processes.unconnected import (
    UnconnectedMachine,
    find_unconnected_machines,
    update_unconnected,
)
from tests.support.factories import cluster

MESH = cluster(1, 2, 3, node="2.1-rust", base_port=32500, p2p_base_port=25000)
"""Cores 1, 2-3 and 4-6."""
CONTROL, SECOND, THIRD = MESH.machines
BOTH = {SECOND.address: 2, THIRD.address: 3}


def test_a_machine_is_so_since_the_first_look_that_saw_fewer_connections_than_workers():
    assert update_unconnected({}, MESH, BOTH, 10.0) == {}
    assert update_unconnected({}, MESH, {SECOND.address: 2, THIRD.address: 2}, 10.0) == {THIRD.name: 10.0}
    assert update_unconnected({THIRD.name: 10.0}, MESH, {}, 20.0) == {SECOND.name: 20.0, THIRD.name: 10.0}
    assert update_unconnected({THIRD.name: 10.0}, MESH, BOTH, 30.0) == {}


def test_n2_it_is_told_after_a_minute_while_it_is_so():
    late = 10.0 + CUT_OFF_S
    since = {SECOND.name: 10.0, THIRD.name: 11.0}
    assert find_unconnected_machines(since, MESH, {SECOND.address: 1}, late) == (
        UnconnectedMachine(SECOND.name, (2, 3), 1),
    )
    assert find_unconnected_machines(since, MESH, {SECOND.address: 1}, late - 1) == ()
    assert find_unconnected_machines(since, MESH, BOTH, late) == ()
    assert find_unconnected_machines({}, MESH, {}, late) == ()


def test_where_workers_keep_no_connection_nothing_is_told():
    older, since = msgspec.structs.replace(MESH, node="2.1"), {SECOND.name: 0.0}
    assert update_unconnected(since, older, {}, 99.0) == {}
    assert find_unconnected_machines(since, older, {}, 99.0) == ()
