"""Hub and spoke: what each machine of a mesh is to be."""

from __future__ import annotations

import functools

import msgspec
import pytest

from qmesh.errors import BadInput
from qmesh.mesh.desired import Facts, LocalEnd, build_desired_state, host_network
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.machine import Machine, PendingKey
from qmesh.mesh.ports.closed_ports import SeenPorts
from qmesh.mesh.state import Guard, NodeState, Peer, Tunnel, list_address_routes
from qmesh.mesh.values import Endpoint, Secret
from tests.support import factories
from tests.support.factories import key

mesh = functools.partial(factories.mesh, service_port=51821, revision=1)


# The keys are in another order than the machines, so that sorting shows.
A = Machine(name="a", public_key=key(3), address="10.77.0.1", workers=3)
B = Machine(name="b", public_key=key(2), address="10.77.0.2", workers=4)
C = Machine(name="c", public_key=key(1), address="10.77.0.3", workers=None, state="invited")
MESH = mesh(A, B, C)
PLACE = LocalEnd(interface="qmesh0", listen_port=51820)
FACTS = Facts(kind="wireguard")


def test_the_control_node_has_every_machine_as_peer_with_its_one_address() -> None:
    place = LocalEnd(interface="wg7", listen_port=5555)
    facts = Facts(kind="tun", endpoints={"b": Endpoint("203.0.113.5", 5), "a": Endpoint("203.0.113.1", 1)})
    preshared = {key(1): Secret("throwaway"), key(3): Secret("own")}
    assert build_desired_state(MESH, "a", place, preshared, facts) == NodeState(
        guard=Guard(
            role="control",
            interface="wg7",
            kind="tun",
            listen_port=5555,
            control_address="10.77.0.1",
            service_port=51821,
            ports=(40000, 40001, 40002),
        ),
        tunnel=Tunnel(
            interface="wg7",
            kind="tun",
            public_key=key(3),
            listen_port=5555,
            addresses=("10.77.0.1/20",),
            routes=list_address_routes(("10.77.0.1/20",)),
            mtu=1420,
            up=True,
            peers=(
                Peer(public_key=key(1), allowed_ips=("10.77.0.3/32",), preshared_key=Secret("throwaway")),
                Peer(public_key=key(2), allowed_ips=("10.77.0.2/32",), endpoint=Endpoint("203.0.113.5", 5)),
            ),
        ),
        reserved_ports=(40000, 40001, 40002),
    )


def test_the_control_node_alone_knows_second_keys_and_lets_them_send_from_their_own_address_or_none() -> None:
    stand_ins = (PendingKey("b", key(9), "10.77.0.9"), PendingKey("b", key(8), None))
    known = msgspec.structs.replace(MESH, stand_ins=stand_ins)
    before, after = (
        build_desired_state(each, "a", PLACE, {key(9): Secret("s")}, FACTS).tunnel for each in (MESH, known)
    )
    assert before is not None
    assert after is not None
    assert set(after.peers) - set(before.peers) == {
        Peer(public_key=key(9), allowed_ips=("10.77.0.9/32",), preshared_key=Secret("s")),
        Peer(public_key=key(8), allowed_ips=()),
    }
    assert list(after.peers) == sorted(after.peers, key=lambda peer: peer.public_key)
    assert build_desired_state(known, "b", PLACE, {}, FACTS) == build_desired_state(
        MESH, "b", PLACE, {}, FACTS
    )


def test_a_worker_machine_has_only_the_control_node_as_peer_and_keeps_alive() -> None:
    facts = Facts(
        kind="wireguard", endpoints={"a": Endpoint("203.0.113.1", 1), "c": Endpoint("203.0.113.9", 9)}
    )
    assert build_desired_state(MESH, "b", PLACE, {key(3): Secret("shared")}, facts) == NodeState(
        guard=Guard(
            role="worker",
            interface="qmesh0",
            kind="wireguard",
            listen_port=51820,
            control_address="10.77.0.1",
            service_port=51821,
            ports=(40003, 40004, 40005, 40006),
        ),
        tunnel=Tunnel(
            interface="qmesh0",
            kind="wireguard",
            public_key=key(2),
            listen_port=51820,
            addresses=("10.77.0.2/20",),
            routes=list_address_routes(("10.77.0.2/20",)),
            mtu=1420,
            up=True,
            peers=(
                Peer(
                    public_key=key(3),
                    allowed_ips=("10.77.0.1/32",),
                    endpoint=Endpoint("203.0.113.1", 1),
                    preshared_key=Secret("shared"),
                    keepalive_s=25,
                ),
            ),
        ),
        reserved_ports=(40003, 40004, 40005, 40006),
    )


def test_the_control_node_keeps_alive_the_ways_to_machines_that_it_can_call() -> None:
    """Were it behind NAT itself, nobody else could open the way; whether the name is looked up or not."""
    reached = msgspec.structs.replace(B, endpoints=(Endpoint("b.example.org", 51820),))
    tunnel = build_desired_state(mesh(A, reached, C), "a", PLACE, {}, FACTS).tunnel
    assert tunnel is not None
    assert {peer.public_key: peer.keepalive_s for peer in tunnel.peers} == {key(2): 25, key(1): 0}


def peers_of(inventory: Inventory, name: str, *shared: int) -> dict[str, tuple[str, int]]:
    """Each peer's address and keepalive, by the machine's name."""
    preshared = {key(number): Secret(f"with {number}") for number in shared}
    tunnel = build_desired_state(inventory, name, PLACE, preshared, FACTS).tunnel
    assert tunnel is not None
    names = {machine.public_key: machine.name for machine in inventory.machines}
    for peer in tunnel.peers:
        assert peer.preshared_key == preshared.get(peer.public_key)
    return {names[p.public_key]: (p.allowed_ips[0], p.keepalive_s) for p in tunnel.peers}


def test_while_the_control_role_is_handed_over_its_successor_is_a_second_hub_for_who_shares_a_key() -> None:
    called = msgspec.structs.replace(B, endpoints=(Endpoint("203.0.113.5", 5),))
    c = msgspec.structs.replace(C, workers=1, state="active")
    between = mesh(A, called, c, successor="b")
    assert peers_of(between, "a", 1, 2) == {"b": ("10.77.0.2/32", 25), "c": ("10.77.0.3/32", 0)}
    assert peers_of(between, "b", 3, 1) == {"a": ("10.77.0.1/32", 25), "c": ("10.77.0.3/32", 0)}
    assert peers_of(between, "c", 3, 2) == {"a": ("10.77.0.1/32", 25), "b": ("10.77.0.2/32", 25)}
    # Before it has the estate, and before a member has derived its key, they are no peers.
    assert peers_of(between, "b", 3) == {"a": ("10.77.0.1/32", 25)}
    assert peers_of(between, "c", 3) == {"a": ("10.77.0.1/32", 25)}
    for name in "bc":  # and worker ports accept the control node alone until the change
        guard = build_desired_state(between, name, PLACE, {}, FACTS).guard
        assert isinstance(guard, Guard)
        assert (guard.role, guard.control_address) == ("worker", "10.77.0.1")
    after = mesh(A, called, c, control="b")
    assert peers_of(after, "c", 2, 3) == {"b": ("10.77.0.2/32", 25)}
    assert peers_of(after, "a", 2) == {"b": ("10.77.0.2/32", 25)}


@pytest.mark.parametrize(("most", "mtu"), [(None, 1340), (1300, 1300), (1400, 1340)])
def test_the_tunnel_has_the_mtu_that_its_paths_and_its_user_allow(most: int | None, mtu: int) -> None:
    place = msgspec.structs.replace(PLACE, most_mtu=most)
    facts = Facts(kind="wireguard", path_mtus={Endpoint("203.0.113.1", 1): 1400})
    tunnel = build_desired_state(MESH, "b", place, {}, facts).tunnel
    assert tunnel is not None
    assert tunnel.mtu == mtu


def test_a_port_that_is_listened_on_still_stays_closed_and_is_not_reserved() -> None:
    facts = Facts(kind="wireguard", ports=SeenPorts(listened=frozenset({39999, 40003})))
    state = build_desired_state(MESH, "b", PLACE, {}, facts)
    assert isinstance(state.guard, Guard)
    assert state.guard.ports == (39999, 40003, 40004, 40005, 40006)
    assert state.reserved_ports == (40003, 40004, 40005, 40006)


def test_a_machine_whose_guard_was_taken_down_has_its_tunnel_alone() -> None:
    place = msgspec.structs.replace(PLACE, guarded=False)
    facts = Facts(kind="wireguard", ports=SeenPorts(listened=frozenset({40003})))
    wanted = build_desired_state(MESH, "b", PLACE, {}, FACTS)
    assert build_desired_state(MESH, "b", place, {}, facts) == NodeState(guard=None, tunnel=wanted.tunnel)


@pytest.mark.parametrize("name", ["a", "b"])
def test_g3_a_machine_that_is_down_keeps_its_guard_and_has_no_tunnel(name: str) -> None:
    up = build_desired_state(MESH, name, PLACE, {}, FACTS)
    down = build_desired_state(
        MESH, name, LocalEnd(interface="qmesh0", listen_port=51820, up=False), {}, FACTS
    )
    assert up.tunnel is not None
    assert down.tunnel is None
    assert (down.guard, down.reserved_ports) == (up.guard, up.reserved_ports)


def test_the_control_node_need_not_be_the_first() -> None:
    inventory = mesh(A, B, control="b")
    state = build_desired_state(inventory, "b", PLACE, {}, FACTS)
    assert isinstance(state.guard, Guard)
    assert (state.guard.role, state.guard.control_address) == ("control", "10.77.0.2")
    assert state.guard.ports == (40003, 40004, 40005, 40006)
    worker = build_desired_state(inventory, "a", PLACE, {}, FACTS)
    assert worker.tunnel is not None
    assert [peer.public_key for peer in worker.tunnel.peers] == [B.public_key]


def test_a_paused_machine_is_still_a_peer_and_has_a_tunnel_and_no_worker_ports() -> None:
    paused = Machine(name="b", public_key=key(2), address="10.77.0.2", workers=4, state="paused")
    control, worker = (build_desired_state(mesh(A, paused), name, PLACE, {}, FACTS) for name in ("a", "b"))
    assert control.tunnel is not None
    assert [peer.public_key for peer in control.tunnel.peers] == [key(2)]
    assert worker.tunnel is not None
    assert isinstance(worker.guard, Guard)
    assert worker.guard.ports == worker.reserved_ports == ()


def test_an_ipv6_mesh_has_ipv6_addresses_throughout() -> None:
    inventory = mesh(
        Machine(name="a", public_key=key(3), address="fd00::1", workers=3),
        Machine(name="b", public_key=key(2), address="fd00::2", workers=4),
        network="fd00::/64",
    )
    state = build_desired_state(inventory, "b", PLACE, {}, FACTS)
    assert isinstance(state.guard, Guard)
    assert state.guard.control_address == "fd00::1"
    assert state.tunnel is not None
    assert state.tunnel.addresses == ("fd00::2/64",)
    assert state.tunnel.peers[0].allowed_ips == ("fd00::1/128",)


def test_a_machine_of_no_mesh_has_no_state() -> None:
    with pytest.raises(BadInput, match="no machine is named 'x'"):
        build_desired_state(MESH, "x", PLACE, {}, FACTS)


@pytest.mark.parametrize(
    ("address", "network"), [("10.77.0.2", "10.77.0.2/32"), ("fd00::2", "fd00::2/128"), ("::", "::/128")]
)
def test_the_network_of_one_address_holds_just_that(address: str, network: str) -> None:
    assert host_network(address) == network


@pytest.mark.parametrize(
    ("control", "successor", "name", "expected"),
    [
        ("a", None, "a", None),
        ("a", "b", "a", "10.77.0.2"),
        ("b", "a", "b", "10.77.0.1"),  # the role has passed, and this one serves until that is heard
        ("a", "b", "b", None),
        ("a", "b", "d", None),  # through a member's tunnel no other service has that port
    ],
)
def test_g5_a_control_node_knows_where_its_role_goes(
    control: str, successor: str | None, name: str, expected: str | None
) -> None:
    d = Machine(name="d", public_key=key(4), address="10.77.0.4", workers=1)
    found = build_desired_state(
        mesh(A, B, d, control=control, successor=successor), name, PLACE, {}, FACTS
    ).guard
    assert isinstance(found, Guard)
    assert found.successor_address == expected
