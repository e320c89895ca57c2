"""The law of the plan: its steps lead from what is to what shall be, in a safe order, and no further."""

from __future__ import annotations

import base64
import functools
from functools import reduce
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmesh.mesh.plan.compare import is_peer_as_desired, plan_steps, strip_open_endpoints, strip_peer_endpoint
from qmesh.mesh.plan.describe import describe_step
from qmesh.mesh.plan.simulate import bare_tunnel, simulate_step
from qmesh.mesh.plan.steps import (
    AddAddress,
    AddRoute,
    CreateTunnel,
    DeleteTunnel,
    LoadGuard,
    ReleaseTunnel,
    RemoveAddress,
    RemovePeer,
    RemoveRoute,
    ReservePorts,
    SetKey,
    SetListenPort,
    SetMtu,
    SetPeer,
    SetUp,
    Step,
    TunnelStep,
    UnloadGuard,
)
from qmesh.mesh.state import AlteredGuard, Guard, NodeState, Peer, Tunnel, TunnelRoute, list_address_routes
from qmesh.mesh.values import Endpoint, Secret
from tests.support import factories

KEYS = tuple(base64.b64encode(bytes([number]) * 32).decode() for number in range(6))
HERE, THERE = Endpoint("203.0.113.5", 5), Endpoint("2001:db8::5", 5)
SECRETS = (Secret("hunter2"), Secret("hunter3"))
ALTERED = AlteredGuard("table inet qmesh {\n\tcomment hunter4\n}\n")


guard = functools.partial(factories.guard, ports=(40003, 40004, 40007))


def peer(number: int, **named: Any) -> Peer:
    return Peer(**{"public_key": KEYS[number], "allowed_ips": (f"10.77.0.{number}/32",), **named})


tunnel = functools.partial(factories.tunnel, public_key=KEYS[0])


NOTHING = NodeState(guard=None, tunnel=None)
RUNNING = NodeState(guard=guard(), tunnel=tunnel(peer(1), peer(2)), reserved_ports=(40003, 40004, 40007))

OTHER_ROUTES = (
    TunnelRoute("10.77.0.0/20", "192.0.2.1"),
    TunnelRoute("10.77.0.0/20", "10.77.0.1", gateway="10.77.0.9"),
    TunnelRoute("10.77.0.5/32", "10.77.0.1"),
    TunnelRoute("10.77.0.9/32", "10.77.0.9", is_local=True),
)

subset = st.sets(st.integers(1, 6)).map(sorted)


@st.composite
def tunnels(draw: st.DrawFn) -> Tunnel:
    """Tunnels as the kernel can have them: an allowed IP belongs to one peer."""
    owners = draw(st.lists(st.integers(0, 5), min_size=6, max_size=6))
    peers = tuple(
        Peer(
            public_key=KEYS[number],
            allowed_ips=tuple(f"10.77.0.{ip}/32" for ip, owner in enumerate(owners) if owner == number),
            endpoint=draw(st.sampled_from([None, HERE, THERE])),
            preshared_key=draw(st.sampled_from([None, *SECRETS])),
            keepalive_s=draw(st.sampled_from([0, 25])),
        )
        for number in draw(subset)
        if number < 6
    )
    up, addresses = draw(st.booleans()), tuple(f"10.77.0.{number}/20" for number in draw(subset))
    return tunnel(
        *peers,
        interface=draw(st.sampled_from(["qmesh0", "qmesh1"])),
        kind=draw(st.sampled_from(["wireguard", "tun"])),
        public_key=draw(st.sampled_from([None, *KEYS[:2]])),
        listen_port=draw(st.sampled_from([51820, 51821])),
        addresses=addresses,
        mtu=draw(st.sampled_from([1280, 1420])),
        up=up,
    )


@st.composite
def drifted_tunnels(draw: st.DrawFn) -> Tunnel:
    """One whose routes are not those of its addresses, or that is a part of another interface."""
    made = draw(tunnels())
    routes = draw(st.sets(st.sampled_from([*(made.routes or ()), *OTHER_ROUTES]))) if made.up else ()
    return msgspec.structs.replace(
        made, routes=tuple(sorted(routes)), master=draw(st.sampled_from([None, "vrf-blue"]))
    )


guards = st.none() | st.builds(
    guard, ports=subset.map(tuple), control_address=st.sampled_from(["10.77.0.1", "fd00::1"])
)
wanted = st.builds(NodeState, guard=guards, tunnel=st.none() | tunnels(), reserved_ports=subset.map(tuple))
seen = st.builds(
    NodeState,
    guard=guards | st.just(ALTERED),
    tunnel=st.none() | tunnels() | drifted_tunnels() | st.just(bare_tunnel("qmesh0", "wireguard")),
    reserved_ports=subset.map(tuple),
)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[NodeState, NodeState]:
    """A desired state and an observed one, which are often much alike."""
    desired, observed = draw(wanted), draw(seen)
    if draw(st.booleans()):
        observed = msgspec.structs.replace(observed, tunnel=desired.tunnel)
    if desired.tunnel is not None and observed.tunnel is not None and draw(st.booleans()):
        device = {name: getattr(desired.tunnel, name) for name in ("interface", "kind")}
        alike = msgspec.structs.replace(observed.tunnel, **device)
        observed = msgspec.structs.replace(observed, tunnel=alike)
    return desired, observed


def test_from_nothing_to_a_tunnel_and_back() -> None:
    there = reduce(simulate_step, plan_steps(RUNNING, NOTHING), NOTHING)
    assert there == RUNNING
    assert reduce(simulate_step, plan_steps(NOTHING, there), there) == NOTHING


@given(pairs())
def test_the_plan_settles_at_what_is_desired(pair: tuple[NodeState, NodeState]) -> None:
    desired, observed = pair
    assert (
        strip_open_endpoints(desired, reduce(simulate_step, plan_steps(desired, observed), observed))
        == desired
    )


@given(pairs())
def test_once_the_plan_is_carried_out_there_is_nothing_left_to_do(pair: tuple[NodeState, NodeState]) -> None:
    desired, observed = pair
    assert plan_steps(desired, reduce(simulate_step, plan_steps(desired, observed), observed)) == ()


@given(wanted)
def test_a_machine_that_is_as_desired_needs_no_step(desired: NodeState) -> None:
    assert plan_steps(desired, desired) == ()


@given(pairs())
def test_the_plan_is_empty_only_when_the_machine_is_as_desired(pair: tuple[NodeState, NodeState]) -> None:
    desired, observed = pair
    assert (plan_steps(desired, observed) == ()) == (strip_open_endpoints(desired, observed) == desired)


@given(pairs())
def test_g3_the_guard_is_loaded_before_any_other_step_and_unloaded_after_all(
    pair: tuple[NodeState, NodeState],
) -> None:
    steps = plan_steps(*pair)
    assert not any(isinstance(step, LoadGuard) for step in steps[1:])
    assert not any(isinstance(step, UnloadGuard) for step in steps[:-1])


@given(pairs())
def test_g3_no_tunnel_step_is_taken_without_the_guard_that_is_desired_or_was_there(
    pair: tuple[NodeState, NodeState],
) -> None:
    desired, state = pair
    needed = desired.guard or state.guard
    for step in plan_steps(desired, state):
        if isinstance(step, TunnelStep):
            assert state.guard == needed
        state = simulate_step(state, step)


@given(pairs())
def test_the_tunnel_comes_up_only_when_all_else_of_it_is_done(pair: tuple[NodeState, NodeState]) -> None:
    steps = [step for step in plan_steps(*pair) if isinstance(step, TunnelStep)]
    assert not any(isinstance(step, SetUp) for step in steps[:-1])


@given(pairs())
def test_an_address_is_removed_before_any_is_added(pair: tuple[NodeState, NodeState]) -> None:
    of_addresses = [step.kind for step in plan_steps(*pair) if isinstance(step, RemoveAddress | AddAddress)]
    assert of_addresses == sorted(of_addresses, reverse=True)


@given(pairs())
def test_no_step_is_taken_twice_and_every_one_changes_something(pair: tuple[NodeState, NodeState]) -> None:
    desired, state = pair
    steps = plan_steps(desired, state)
    assert len(set(steps)) == len(steps)
    for step in steps:
        # A peer that had to give away an allowed IP may be as wanted before its own turn comes.
        assert isinstance(step, SetPeer) or simulate_step(state, step) != state
        state = simulate_step(state, step)


@given(pairs())
def test_e1_every_step_is_told_in_one_line_without_a_secret(pair: tuple[NodeState, NodeState]) -> None:
    for step in plan_steps(*pair):
        for text in (step.kind, step.subject, describe_step(step)):
            assert text
            assert text.isprintable()
            assert "hunter" not in text
        if not isinstance(step, LoadGuard | UnloadGuard):  # these hold an altered table as it was found
            assert "hunter" not in repr(step)


GUARD_WORDS = "the guard; worker ports: 40003-40004, 40007; control node: 10.77.0.1"

WORDS: list[tuple[Step, str, str, str]] = [
    (LoadGuard(None, guard()), "load-guard", "inet qmesh", f"add {GUARD_WORDS}"),
    (LoadGuard(guard(), guard()), "load-guard", "inet qmesh", f"replace {GUARD_WORDS}"),
    (LoadGuard(ALTERED, guard()), "load-guard", "inet qmesh", f"replace {GUARD_WORDS}"),
    (
        *(LoadGuard(None, guard(ports=())), "load-guard", "inet qmesh"),
        "add the guard; worker ports: none; control node: 10.77.0.1",
    ),
    (
        *(UnloadGuard(guard()), "unload-guard", "inet qmesh"),
        "remove the guard: any machine that reaches a worker port can then use the worker",
    ),
    (
        *(CreateTunnel("wg7", "wireguard"), "create-tunnel", "wg7"),
        "create the interface with kernel WireGuard",
    ),
    (CreateTunnel("wg7", "tun"), "create-tunnel", "wg7", "create the interface with userspace WireGuard"),
    (
        *(DeleteTunnel(tunnel(peer(1), peer(2))), "delete-tunnel", "qmesh0"),
        "delete the interface with 2 peers",
    ),
    (SetKey("wg7", None, KEYS[1]), "set-key", "wg7", f"public key none -> {KEYS[1]}"),
    (SetKey("wg7", KEYS[1], None), "set-key", "wg7", f"public key {KEYS[1]} -> none"),
    (SetListenPort("wg7", 0, 51820), "set-listen-port", "wg7", "listen port none -> 51820"),
    (SetListenPort("wg7", 1, 51820), "set-listen-port", "wg7", "listen port 1 -> 51820"),
    (RemoveAddress("wg7", "fd00::1/64"), "remove-address", "wg7", "remove address fd00::1/64"),
    (AddAddress("wg7", "fd00::1/64"), "add-address", "wg7", "add address fd00::1/64"),
    (ReleaseTunnel("wg7", "vrf-blue"), "release-tunnel", "wg7", "take the interface out of vrf-blue"),
    (
        *(AddRoute("wg7", TunnelRoute("10.77.0.0/20", "10.77.0.2")), "add-route", "wg7"),
        "add route 10.77.0.0/20 src 10.77.0.2",
    ),
    (
        *(AddRoute("wg7", TunnelRoute("fd00::2/128", "fd00::2", is_local=True)), "add-route", "wg7"),
        "add route local fd00::2/128",
    ),
    (
        *(RemoveRoute("wg7", TunnelRoute("10.0.0.0/8", "10.77.0.2", gateway="10.77.0.9")), "remove-route"),
        *("wg7", "remove route 10.0.0.0/8 via 10.77.0.9 src 10.77.0.2"),
    ),
    (SetMtu("wg7", 1280, 1420), "set-mtu", "wg7", "MTU 1280 -> 1420"),
    (SetUp("wg7", new=True), "set-up", "wg7", "bring the interface up"),
    (SetUp("wg7", new=False), "set-up", "wg7", "bring the interface down"),
    (
        *(RemovePeer("wg7", peer(1, allowed_ips=("10.77.0.1/32", "10.77.0.2/32"))), "remove-peer", "wg7"),
        f"remove peer {KEYS[1]} (10.77.0.1/32, 10.77.0.2/32)",
    ),
    (
        *(RemovePeer("wg7", peer(1, allowed_ips=())), "remove-peer", "wg7"),
        f"remove peer {KEYS[1]} (no allowed IPs)",
    ),
    (SetPeer("wg7", None, peer(1)), "set-peer", "wg7", f"add peer {KEYS[1]} (10.77.0.1/32)"),
    (
        *(SetPeer("wg7", None, peer(1, allowed_ips=("10.77.0.1/32", "fd00::1/128"))), "set-peer", "wg7"),
        f"add peer {KEYS[1]} (10.77.0.1/32, fd00::1/128)",
    ),
    (
        *(SetPeer("wg7", peer(1), peer(1, endpoint=THERE)), "set-peer", "wg7"),
        f"change peer {KEYS[1]} (10.77.0.1/32) at [2001:db8::5]:5",
    ),
    (
        *(ReservePorts((), (1, 2, 4)), "reserve-ports", "net.ipv4.ip_local_reserved_ports"),
        "reserve none -> 1-2, 4",
    ),
    (
        *(LoadGuard(None, guard(own_ports=(6600,), mesh_ports=(5432,))), "load-guard", "inet qmesh"),
        f"add {GUARD_WORDS.replace('; control', '; other closed ports: 5432, 6600; control')}",
    ),
    (ReservePorts((1,), ()), "reserve-ports", "net.ipv4.ip_local_reserved_ports", "reserve 1 -> none"),
]


@pytest.mark.parametrize(
    ("step", "kind", "subject", "detail"), WORDS, ids=[f"{step.kind}-{words}" for step, *_, words in WORDS]
)
def test_a_step_says_what_it_does(step: Step, kind: str, subject: str, detail: str) -> None:
    assert (step.kind, step.subject, describe_step(step)) == (kind, subject, detail)


def test_every_step_has_its_words_here() -> None:
    assert {type(step) for step, *_ in WORDS} == set(get_args(Step))


def test_a_new_machine_is_guarded_then_given_its_tunnel_piece_by_piece() -> None:
    assert plan_steps(RUNNING, NOTHING) == (
        LoadGuard(None, guard()),
        ReservePorts((), (40003, 40004, 40007)),
        CreateTunnel("qmesh0", "wireguard"),
        SetKey("qmesh0", None, KEYS[0]),
        SetListenPort("qmesh0", 0, 51820),
        SetMtu("qmesh0", 0, 1420),
        AddAddress("qmesh0", "10.77.0.1/20"),
        SetPeer("qmesh0", None, peer(1)),
        SetPeer("qmesh0", None, peer(2)),
        SetUp("qmesh0", new=True),
    )


def test_a_machine_that_leaves_loses_its_guard_last() -> None:
    assert plan_steps(NOTHING, RUNNING) == (
        ReservePorts((40003, 40004, 40007), ()),
        DeleteTunnel(tunnel(peer(1), peer(2))),
        UnloadGuard(guard()),
    )


ONE_CHANGE: dict[str, tuple[Tunnel, tuple[Step, ...]]] = {
    "peer added": (tunnel(peer(1), peer(2), peer(3)), (SetPeer("qmesh0", None, peer(3)),)),
    "peer removed": (tunnel(peer(2)), (RemovePeer("qmesh0", peer(1)),)),
    "peer's key changed": (
        tunnel(peer(1), peer(3, allowed_ips=("10.77.0.2/32",))),
        (RemovePeer("qmesh0", peer(2)), SetPeer("qmesh0", None, peer(3, allowed_ips=("10.77.0.2/32",)))),
    ),
    "allowed IPs changed": (
        tunnel(peer(1), peer(2, allowed_ips=())),
        (SetPeer("qmesh0", peer(2), peer(2, allowed_ips=())),),
    ),
    "endpoint changed": (
        tunnel(peer(1), peer(2, endpoint=HERE)),
        (SetPeer("qmesh0", peer(2), peer(2, endpoint=HERE)),),
    ),
    "preshared key changed": (
        tunnel(peer(1), peer(2, preshared_key=SECRETS[0])),
        (SetPeer("qmesh0", peer(2), peer(2, preshared_key=SECRETS[0])),),
    ),
    "keepalive changed": (
        tunnel(peer(1), peer(2, keepalive_s=25)),
        (SetPeer("qmesh0", peer(2), peer(2, keepalive_s=25)),),
    ),
    "key changed": (
        tunnel(peer(1), peer(2), public_key=KEYS[5]),
        (SetKey("qmesh0", KEYS[0], KEYS[5]),),
    ),
    "listen port changed": (
        tunnel(peer(1), peer(2), listen_port=5),
        (SetListenPort("qmesh0", 51820, 5),),
    ),
    "MTU changed": (tunnel(peer(1), peer(2), mtu=1280), (SetMtu("qmesh0", 1420, 1280),)),
    "address added": (
        tunnel(peer(1), peer(2), addresses=("10.77.0.1/20", "fd00::1/64")),
        (AddAddress("qmesh0", "fd00::1/64"),),
    ),
    "address changed": (
        tunnel(peer(1), peer(2), addresses=("10.77.0.2/20",)),
        (RemoveAddress("qmesh0", "10.77.0.1/20"), AddAddress("qmesh0", "10.77.0.2/20")),
    ),
    "down": (tunnel(peer(1), peer(2), up=False), (SetUp("qmesh0", new=False),)),
}


@pytest.mark.parametrize(("desired", "steps"), ONE_CHANGE.values(), ids=ONE_CHANGE)
def test_one_change_takes_its_own_step_and_no_other(desired: Tunnel, steps: tuple[Step, ...]) -> None:
    assert plan_steps(msgspec.structs.replace(RUNNING, tunnel=desired), RUNNING) == steps


def test_one_peer_added_to_five_thousand_is_one_step() -> None:
    many = tuple(
        Peer(public_key=base64.b64encode(n.to_bytes(32, "big")).decode(), allowed_ips=()) for n in range(5001)
    )
    before, now = (msgspec.structs.replace(RUNNING, tunnel=tunnel(*peers)) for peers in (many[:-1], many))
    assert plan_steps(now, before) == (SetPeer("qmesh0", None, many[-1]),)


@pytest.mark.parametrize("old", [guard(ports=()), guard(kind="tun"), ALTERED])
def test_g3_a_guard_that_is_not_as_desired_is_replaced(old: Guard | AlteredGuard) -> None:
    observed = msgspec.structs.replace(RUNNING, guard=old)
    assert plan_steps(RUNNING, observed) == (LoadGuard(old, guard()),)


def test_an_altered_guard_is_unloaded_where_none_is_desired() -> None:
    observed = msgspec.structs.replace(NOTHING, guard=ALTERED)
    assert plan_steps(NOTHING, observed) == (UnloadGuard(ALTERED),)


@pytest.mark.parametrize("other", [{"interface": "qmesh1"}, {"kind": "tun"}])
def test_another_device_is_deleted_and_the_right_one_made_anew(other: dict[str, Any]) -> None:
    observed = msgspec.structs.replace(RUNNING, tunnel=tunnel(peer(1), peer(2), **other))
    steps = plan_steps(RUNNING, observed)
    assert steps[:2] == (DeleteTunnel(tunnel(peer(1), peer(2), **other)), CreateTunnel("qmesh0", "wireguard"))
    assert len(steps) == 9


def test_where_one_address_goes_all_go_first() -> None:
    observed = msgspec.structs.replace(
        RUNNING, tunnel=tunnel(peer(1), peer(2), addresses=("10.77.0.1/20", "10.77.0.9/20"))
    )
    assert plan_steps(RUNNING, observed) == (
        RemoveAddress("qmesh0", "10.77.0.1/20"),
        RemoveAddress("qmesh0", "10.77.0.9/20"),
        AddAddress("qmesh0", "10.77.0.1/20"),
    )


@pytest.mark.parametrize(
    ("wanted", "seen", "same"),
    [
        (peer(1), None, False),
        (peer(1), peer(1), True),
        (peer(1), peer(1, endpoint=HERE), True),
        (peer(1, endpoint=HERE), peer(1, endpoint=HERE), True),
        (peer(1, endpoint=HERE), peer(1, endpoint=THERE), False),
        (peer(1, endpoint=HERE), peer(1), False),
        (peer(1), peer(1, endpoint=HERE, keepalive_s=25), False),
        (peer(1, preshared_key=SECRETS[0]), peer(1, preshared_key=SECRETS[1]), False),
        (peer(1), peer(1, preshared_key=SECRETS[1]), False),
    ],
)
def test_a_peer_is_the_same_wherever_it_is_unless_a_place_is_wanted(
    wanted: Peer, seen: Peer | None, same: bool
) -> None:
    assert is_peer_as_desired(wanted, seen) is same


def test_a_settled_peer_keeps_its_endpoint_only_where_one_is_wanted() -> None:
    assert strip_peer_endpoint(peer(1), peer(1, endpoint=HERE)) == peer(1)
    assert strip_peer_endpoint(peer(1, endpoint=HERE), peer(1, endpoint=THERE)) == peer(1, endpoint=THERE)


def test_a_settled_state_loses_only_the_endpoints_that_are_left_open() -> None:
    observed = msgspec.structs.replace(
        RUNNING, tunnel=tunnel(*(peer(number, endpoint=HERE) for number in (1, 2, 3)))
    )
    desired = msgspec.structs.replace(RUNNING, tunnel=tunnel(peer(1), peer(2, endpoint=THERE)))
    left = msgspec.structs.replace(
        RUNNING, tunnel=tunnel(peer(1), peer(2, endpoint=HERE), peer(3, endpoint=HERE))
    )
    assert strip_open_endpoints(desired, observed) == left
    assert strip_open_endpoints(NOTHING, observed) == observed
    assert strip_open_endpoints(desired, NOTHING) == NOTHING


def test_a_peer_takes_an_allowed_ip_from_whoever_had_it() -> None:
    state = msgspec.structs.replace(RUNNING, tunnel=tunnel(peer(1), peer(2)))
    thief = peer(3, allowed_ips=("10.77.0.1/32",))
    assert simulate_step(state, SetPeer("qmesh0", None, thief)).tunnel == tunnel(
        peer(1, allowed_ips=()), peer(2), thief
    )


def test_a_peer_set_without_an_endpoint_keeps_the_one_it_has() -> None:
    state = msgspec.structs.replace(RUNNING, tunnel=tunnel(peer(1, endpoint=HERE, keepalive_s=25)))
    for new, left in ((peer(1), HERE), (peer(1, endpoint=THERE), THERE)):
        done = simulate_step(state, SetPeer("qmesh0", peer(1), new))
        assert done.tunnel == tunnel(peer(1, endpoint=left))


def test_a_peer_that_is_removed_leaves_the_others() -> None:
    state = simulate_step(RUNNING, RemovePeer("qmesh0", peer(1)))

    assert state == msgspec.structs.replace(RUNNING, tunnel=tunnel(peer(2)))


def test_an_address_that_is_there_is_not_there_twice() -> None:
    assert simulate_step(RUNNING, AddAddress("qmesh0", "10.77.0.1/20")) == RUNNING
    two = simulate_step(RUNNING, AddAddress("qmesh0", "10.77.0.9/20"))
    assert two != RUNNING
    assert simulate_step(two, RemoveAddress("qmesh0", "10.77.0.9/20")) == RUNNING


@pytest.mark.parametrize(
    ("addresses", "routes"),
    [
        ((), ()),
        (("10.77.0.2/32",), (TunnelRoute("10.77.0.2/32", "10.77.0.2", is_local=True),)),
        (
            ("10.77.0.2/20", "10.77.0.9/20"),
            (
                TunnelRoute("10.77.0.0/20", "10.77.0.2"),
                TunnelRoute("10.77.0.2/32", "10.77.0.2", is_local=True),
                TunnelRoute("10.77.0.9/32", "10.77.0.9", is_local=True),
            ),
        ),
    ],
)
def test_addresses_have_routes_of_their_own(
    addresses: tuple[str, ...], routes: tuple[TunnelRoute, ...]
) -> None:
    assert list_address_routes(addresses) == routes


OWN_ROUTES = list_address_routes(("10.77.0.1/20",))


@pytest.mark.parametrize(
    ("seen", "steps"),
    [
        ({"routes": OWN_ROUTES[1:]}, [AddRoute("qmesh0", OWN_ROUTES[0])]),
        # Its source has to be an address at which packets arrive.
        ({"routes": ()}, [AddRoute("qmesh0", OWN_ROUTES[1]), AddRoute("qmesh0", OWN_ROUTES[0])]),
        (
            {"routes": (OTHER_ROUTES[0], OWN_ROUTES[1])},
            [RemoveRoute("qmesh0", OTHER_ROUTES[0]), AddRoute("qmesh0", OWN_ROUTES[0])],
        ),
        (
            {"routes": (*OWN_ROUTES, OTHER_ROUTES[2])},
            [RemoveRoute("qmesh0", OTHER_ROUTES[2])],
        ),
        ({"routes": (), "master": "vrf-blue"}, [ReleaseTunnel("qmesh0", "vrf-blue")]),
        ({"routes": (), "up": False}, [SetUp("qmesh0", new=True)]),
    ],
)
def test_what_the_kernel_does_not_make_of_itself_takes_a_step(
    seen: dict[str, Any], steps: list[Step]
) -> None:
    observed = msgspec.structs.replace(RUNNING, tunnel=tunnel(peer(1), peer(2), **seen))
    assert plan_steps(RUNNING, observed) == tuple(steps)
    assert reduce(simulate_step, steps, observed) == RUNNING


def test_routes_that_were_not_looked_at_are_left_alone() -> None:
    blind = msgspec.structs.replace(RUNNING, tunnel=tunnel(peer(1), peer(2), routes=None))
    assert plan_steps(blind, RUNNING) == plan_steps(RUNNING, blind) == ()
    for step in (SetUp("qmesh0", new=False), RemoveAddress("qmesh0", "10.77.0.1/20")):
        found = simulate_step(blind, step).tunnel
        assert found is not None
        assert found.routes is None


def test_a_step_for_a_tunnel_needs_a_tunnel() -> None:
    with pytest.raises(AssertionError, match="needs a tunnel"):
        simulate_step(NOTHING, SetUp("qmesh0", new=True))
