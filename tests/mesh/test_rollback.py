"""Until when a change can be confirmed, and what a machine that was put back is kept at."""

from __future__ import annotations

import msgspec
import pytest

from qmesh.errors import BadInput
from qmesh.mesh.plan.compare import plan_steps
from qmesh.mesh.plan.steps import SetPeer
from qmesh.mesh.rollback import (
    BootTimestamp,
    ChangeProcess,
    GuardSnapshot,
    MachineSnapshot,
    RollbackRecord,
    build_rollback_state,
    validate_confirm_timeout,
)
from qmesh.mesh.state import AlteredGuard, NodeState, Peer, Tunnel, TunnelRoute
from qmesh.mesh.values import Endpoint, Secret

KEYS = ("A" * 43 + "=", "B" * 42 + "A=")
PEERS = tuple(
    Peer(public_key=key, allowed_ips=(f"10.77.0.{number}/32",), endpoint=Endpoint("203.0.113.5", 51820))
    for number, key in enumerate(KEYS, 2)
)
TUNNEL = Tunnel(
    interface="qmesh0",
    kind="tun",
    public_key=KEYS[0],
    listen_port=51820,
    addresses=("10.77.0.1/20",),
    mtu=1420,
    up=True,
    peers=PEERS,
)


def before(tunnel: Tunnel | None) -> MachineSnapshot:
    guard = GuardSnapshot(script=None, boot_file=None, held_file=None)
    return MachineSnapshot(guard=guard, tunnel=tunnel, reserved_ports=(40000,), up=True, guarded=True)


UNDOING = RollbackRecord(before=before(None), boot="a", deadline_s=100.0, by=ChangeProcess(1, 2))


@pytest.mark.parametrize(
    ("now", "left", "due"),
    [
        (BootTimestamp("a", 40.0), 60.0, False),
        (BootTimestamp("a", 99.9), 0.1, False),
        (BootTimestamp("a", 100.0), 0.0, True),
        (BootTimestamp("a", 1e9), 0.0, True),
        (BootTimestamp("b", 0.0), 0.0, True),
        (BootTimestamp("b", 40.0), 0.0, True),
    ],
)
def test_time_is_over_at_the_deadline_and_with_another_start_of_the_machine(now, left, due):
    assert UNDOING.remaining_s(now) == pytest.approx(left)
    assert (UNDOING.is_due(now), UNDOING.can_confirm(now)) == (due, not due)


@pytest.mark.parametrize("now", [BootTimestamp("a", 0.0), BootTimestamp("a", 200.0), BootTimestamp("b", 0.0)])
def test_what_was_undone_is_neither_due_nor_waits(now):
    undone = msgspec.structs.replace(UNDOING, undone=True)
    assert not undone.is_due(now)
    assert not undone.can_confirm(now)


@pytest.mark.parametrize("seconds", [10, 60, 3600])
def test_times_to_confirm_in(seconds):
    assert validate_confirm_timeout(seconds) == seconds


@pytest.mark.parametrize("seconds", [-1, 0, 9, 3601])
def test_no_times_to_confirm_in(seconds):
    with pytest.raises(BadInput, match=f"{seconds} seconds is not a time"):
        validate_confirm_timeout(seconds)


def test_no_secret_of_it_is_shown():
    peer = msgspec.structs.replace(PEERS[0], preshared_key=Secret("5ecret"))
    held = msgspec.structs.replace(UNDOING, before=before(msgspec.structs.replace(TUNNEL, peers=(peer,))))
    assert "5ecret" not in repr(held)


def test_the_guard_is_kept_as_it_is_and_a_machine_without_a_tunnel_stays_so():
    guard = AlteredGuard("somebody's")
    seen = NodeState(guard=guard, tunnel=TUNNEL, reserved_ports=(40000,))
    assert [step.kind for step in plan_steps(build_rollback_state(before(None), seen), seen)] == [
        "delete-tunnel"
    ]


def test_a_tunnel_that_is_gone_is_made_with_all_its_endpoints():
    seen = NodeState(guard=None, tunnel=None)
    wanted = build_rollback_state(before(TUNNEL), seen)
    assert wanted.tunnel == TUNNEL
    assert next(step.kind for step in plan_steps(wanted, seen)) == "reserve-ports"


def test_a_peer_that_moved_is_left_where_it_is_and_one_that_is_nowhere_is_reached_where_it_was():
    moved = msgspec.structs.replace(PEERS[0], endpoint=Endpoint("198.51.100.1", 1))
    lost = msgspec.structs.replace(PEERS[1], endpoint=None)
    there = msgspec.structs.replace(TUNNEL, peers=(moved, lost))
    seen = NodeState(guard=None, tunnel=there, reserved_ports=(40000,))
    (step,) = plan_steps(build_rollback_state(before(TUNNEL), seen), seen)
    assert isinstance(step, SetPeer)
    assert step.new == PEERS[1]


@pytest.mark.parametrize(
    "odd",
    [
        {"listen_port": 65536},
        {"listen_port": -1},
        {"mtu": -5},
        {"public_key": "x"},
        {"addresses": ("10.77.0.1", "x")},
        {"interface": "a/b"},
        {"routes": (TunnelRoute("x", ""),)},
        {"routes": (TunnelRoute("10.77.0.0/20", "x"),)},
        {"peers": (msgspec.structs.replace(PEERS[0], keepalive_s=65536),)},
        {"peers": (msgspec.structs.replace(PEERS[0], endpoint=Endpoint("control.example", 1)),)},
        {"peers": (msgspec.structs.replace(PEERS[0], allowed_ips=("x",)),)},
    ],
    ids=repr,
)
def test_a_tunnel_that_no_machine_can_have_is_nothing_to_put_back(odd):
    before(
        msgspec.structs.replace(TUNNEL, public_key=None, routes=(TunnelRoute("10.77.0.0/20", "10.77.0.1"),))
    )
    with pytest.raises(BadInput):
        before(msgspec.structs.replace(TUNNEL, **odd))
