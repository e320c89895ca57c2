"""What a machine's guard closes besides workers' ports, and what neither option nor file can close."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmesh.mesh.inventory import Inventory, reserved_ports
from qmesh.mesh.machine import GuardedPort
from qmesh.mesh.ports.closed_ports import (
    ClosedPorts,
    SeenPorts,
    assign_closed_ports,
    describe_untouched_ports,
    list_known_ports,
)
from qmesh.mesh.values import PROFILES, Endpoint, Profile
from tests.support import factories

LISTEN = 51820
NODE = (6600, 8337, 8338)


def cluster(node: Profile = "2.1-rust", **of_b: object) -> Inventory:
    """Machines a and b, of which b is as said."""
    bases = {"base_port": 40000} if node in {"1.4", "2.0"} else {"base_port": 32500, "p2p_base_port": 25000}
    end = (Endpoint("192.0.2.1", LISTEN),)
    machines = (
        factories.machine("a", 1, 3, endpoints=end),
        factories.machine("b", 2, 4, **{"endpoints": end, **of_b}),
    )
    return factories.mesh(*machines, node=node, service_port=325, **bases)


def closed(mesh: Inventory, name: str = "b", **seen: frozenset[int]) -> ClosedPorts:
    return assign_closed_ports(mesh, name, LISTEN, SeenPorts(**seen))


@pytest.mark.parametrize(("node", "own"), [("1.4", ()), ("2.0", ()), ("2.1", NODE), ("2.1-rust", NODE)])
@pytest.mark.parametrize("name", ["a", "b"])
def test_g1_what_a_2_1_node_serves_its_owner_with_is_closed_on_every_machine(node, own, name):
    """Also on a worker machine: the control process may still run where the control role was before."""
    found = closed(cluster(node), name)
    assert (found.own, found.control, found.mesh) == (own, (), ())
    assert len(found.workers) == {"a": 3, "b": 4}[name]


def test_each_port_is_closed_but_for_whom_it_was_asked_for():
    asked = (GuardedPort(5432, "mesh"), GuardedPort(8338, "control"), GuardedPort(9100, "control"))
    mesh = cluster(guarded_ports=(*asked, GuardedPort(9200, "none")))
    assert closed(mesh) == ClosedPorts(
        workers=(32503, 32504, 32505, 32506), own=(6600, 8337, 9200), control=(8338, 9100), mesh=(5432,)
    )
    assert closed(mesh).guarded_ports == (5432, 6600, 8337, 8338, 9100, 9200)


def test_where_metrics_are_served_in_the_tunnel_only_the_control_node_comes():
    served = frozenset({9586})
    assert closed(cluster(), of_metrics=served).control == (9586,)
    assert closed(cluster(left_open=(9586,)), of_metrics=served).control == (9586,)
    assert closed(cluster(guarded_ports=(GuardedPort(9586, "none"),)), of_metrics=served).control == ()
    assert 9586 in closed(cluster(), "a", of_metrics=served).own


def test_on_the_control_node_the_control_node_is_the_machine_itself():
    asked = (GuardedPort(5432, "mesh"), GuardedPort(9100, "control"))
    mesh = msgspec.structs.replace(cluster(guarded_ports=asked), control="b")
    found = closed(mesh)
    assert (found.own, found.control, found.mesh) == ((*NODE, 9100), (), (5432,))


def test_what_is_left_open_is_not_closed_though_the_node_opens_it():
    mesh = cluster(left_open=(8337, 8448))
    assert closed(mesh, of_node=frozenset({8448, 8449})).own == (6600, 8338, 8449)


def test_a_workers_port_is_a_workers_whatever_else_is_asked_for_it():
    mesh = cluster(guarded_ports=(GuardedPort(32504, "mesh"),), left_open=(32505,))
    assert closed(mesh, of_node=frozenset({32503})).workers == (32503, 32504, 32505, 32506)
    assert closed(mesh, of_node=frozenset({32503})).mesh == ()
    # And so one that a worker still has from before.
    assert 8337 in closed(cluster(), listened=frozenset({8337})).workers


PUBLIC = st.sampled_from([22, LISTEN, 325, 8336, 8340, 25000, 25006])


@given(
    st.frozensets(st.integers(1, 65535) | PUBLIC),
    st.frozensets(PUBLIC, min_size=1),
    st.sampled_from(PROFILES),
)
def test_g2_neither_file_nor_option_closes_what_others_have_to_reach(of_node, asked, node):
    """Whatever a user writes into the node's file, root's way in and the mesh's stay."""
    mesh = cluster(node, guarded_ports=tuple(GuardedPort(port, "none") for port in sorted(asked)))
    ssh = 2222
    found = closed(mesh, of_node=of_node | {ssh, 8337}, of_ssh=frozenset({ssh, 8337}))
    untouched = {*describe_untouched_ports(mesh, "b", (LISTEN,)), ssh, 8337}
    assert untouched >= {22, LISTEN, 325, 8336}
    assert untouched.isdisjoint((*found.own, *found.control, *found.mesh))
    assert set(found.own) >= of_node - untouched - set(found.workers)


def test_where_streams_are_public_no_worker_is_closed_by_another_word():
    mesh = msgspec.structs.replace(cluster("2.1"), stream="public")
    found = closed(mesh, of_node=frozenset({32503, 8448}))
    assert found == ClosedPorts(workers=(), own=(6600, 8337, 8338, 8448))


def test_what_is_known_of_a_machines_ports_is_no_worker_of_before():
    mesh = cluster(guarded_ports=(GuardedPort(9100, "none"),), left_open=(80,))
    assert list_known_ports(mesh, "b") >= {80, 9100, 8336, 8337, 8340, 25000, 25006, 32503}
    assert 32500 not in list_known_ports(mesh, "b")


def test_ports_that_are_reserved_are_workers_both_and_those_asked_for():
    mesh = cluster(guarded_ports=(GuardedPort(9100, "none"),))
    assert reserved_ports(mesh, "b") == (9100, *range(25003, 25007), *range(32503, 32507))
    assert reserved_ports(cluster("2.0"), "b") == (40003, 40004, 40005, 40006)
