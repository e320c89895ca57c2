"""Which steps cut a login off, and which do not."""

from __future__ import annotations

import msgspec
import pytest

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
    UnloadGuard,
)
from qmesh.mesh.ssh_lockout import Session, find_lockout_reason
from qmesh.mesh.state import Guard, Peer, Tunnel, TunnelRoute
from qmesh.mesh.values import Endpoint

KEY = "A" * 43 + "="
WORKER = Guard(
    role="worker",
    interface="qmesh0",
    kind="tun",
    listen_port=51820,
    control_address="10.77.0.1",
    service_port=51820,
    ports=(40003, 40004),
)
CONTROL = msgspec.structs.replace(WORKER, role="control")
FURTHER = {"own_ports": (2221,), "control_ports": (2222,), "mesh_ports": (2223,)}
WORKER_MORE, CONTROL_MORE = (msgspec.structs.replace(each, **FURTHER) for each in (WORKER, CONTROL))
TUNNEL = Tunnel(
    interface="qmesh0",
    kind="tun",
    public_key=KEY,
    listen_port=51820,
    addresses=("10.77.0.2/20",),
    mtu=1420,
    up=True,
)
PEER = Peer(public_key=KEY, allowed_ips=("10.77.0.1/32",), endpoint=Endpoint("203.0.113.5", 51820))
OTHER = msgspec.structs.replace(PEER, allowed_ips=("10.77.0.9/32",))


def session(client: str, server: str, port: int) -> Session:
    return Session(client, 50000, server, port)


OUTSIDE = session("203.0.113.9", "192.0.2.1", 22)
INSIDE = session("10.77.0.1", "10.77.0.2", 22)


@pytest.mark.parametrize(
    ("login", "guard", "reason"),
    [
        (OUTSIDE, WORKER, None),
        (session("203.0.113.9", "192.0.2.1", 40003), WORKER, "closes port 40003"),
        (session("2001:db8::9", "2001:db8::1", 40004), CONTROL, "closes port 40004"),
        (session("203.0.113.9", "192.0.2.1", 40005), WORKER, None),
        (session("127.0.0.1", "127.0.0.1", 40003), CONTROL, None),
        (session("127.0.0.1", "127.0.0.1", 40003), WORKER, "closes port 40003"),
        (session("203.0.113.9", "?", 40003), CONTROL, "closes port 40003"),
        (INSIDE, WORKER, "no login through qmesh0"),
        (INSIDE, CONTROL, "no login through qmesh0"),
        (session("10.77.0.1", "10.77.0.2", 40003), WORKER, None),
        (session("10.77.0.9", "10.77.0.2", 40003), WORKER, "no login through qmesh0"),
        (session("10.77.0.1", "10.77.0.2", 51820), CONTROL, "no login through qmesh0"),
        (session("10.77.0.2", "10.77.0.1", 51820), CONTROL, None),
        *(
            (session("203.0.113.9", "192.0.2.1", port), WORKER_MORE, f"port {port}")
            for port in range(2221, 2224)
        ),
        (session("203.0.113.9", "192.0.2.1", 2223), CONTROL_MORE, "closes port 2223"),
        (session("127.0.0.1", "127.0.0.1", 2221), WORKER_MORE, None),
        (session("127.0.0.1", "127.0.0.1", 2221), CONTROL_MORE, None),
        (session("10.77.0.1", "10.77.0.2", 2221), WORKER_MORE, "no login through qmesh0"),
        (session("10.77.0.1", "10.77.0.2", 2222), WORKER_MORE, None),
        (session("10.77.0.9", "10.77.0.2", 2222), WORKER_MORE, "no login through qmesh0"),
        (session("10.77.0.9", "10.77.0.2", 2223), WORKER_MORE, None),
        (session("10.77.0.2", "10.77.0.1", 2222), CONTROL_MORE, "no login through qmesh0"),
        (session("10.77.0.2", "10.77.0.1", 2223), CONTROL_MORE, None),
    ],
)
def test_a_guard_cuts_what_it_closes(login, guard, reason):
    found = find_lockout_reason(login, [LoadGuard(None, guard)], TUNNEL)
    assert found is None if reason is None else reason in str(found)


@pytest.mark.parametrize(
    ("step", "cuts"),
    [
        (DeleteTunnel(TUNNEL), True),
        (RemoveAddress("qmesh0", "10.77.0.2/20"), True),
        (SetKey("qmesh0", None, KEY), True),
        (SetListenPort("qmesh0", 1, 2), True),
        (SetUp("qmesh0", new=False), True),
        (SetUp("qmesh0", new=True), False),
        (ReleaseTunnel("qmesh0", "vrf-blue"), True),
        (AddRoute("qmesh0", TunnelRoute("10.77.0.0/20", "10.77.0.2")), False),
        (RemoveRoute("qmesh0", TunnelRoute("10.77.0.0/20", "192.0.2.1")), False),
        (RemovePeer("qmesh0", PEER), True),
        (SetPeer("qmesh0", None, PEER), True),
        (RemovePeer("qmesh0", OTHER), False),
        (SetPeer("qmesh0", None, OTHER), False),
        (SetMtu("qmesh0", 1, 2), False),
        (AddAddress("qmesh0", "10.77.0.3/20"), False),
        (CreateTunnel("qmesh0", "tun"), False),
        (ReservePorts((), (1,)), False),
        (UnloadGuard(WORKER), False),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_a_step_of_the_tunnel_cuts_who_comes_through_it_and_nobody_else(step, cuts):
    assert (find_lockout_reason(INSIDE, [step], TUNNEL) is not None) == cuts
    assert find_lockout_reason(OUTSIDE, [step], TUNNEL) is None
    assert find_lockout_reason(INSIDE, [step], None) is None


def test_the_first_step_that_cuts_is_named():
    steps: list[Step] = [SetMtu("qmesh0", 1, 2), DeleteTunnel(TUNNEL), SetUp("qmesh0", new=False)]
    assert "is deleted" in str(find_lockout_reason(INSIDE, steps, TUNNEL))


def test_a_session_of_no_address_is_from_nowhere():
    nowhere = session("UNKNOWN", "10.77.0.2", 22)
    assert find_lockout_reason(nowhere, [RemovePeer("qmesh0", PEER)], TUNNEL) is None
    assert find_lockout_reason(session("UNKNOWN", "192.0.2.1", 22), [DeleteTunnel(TUNNEL)], TUNNEL) is None


def test_no_steps_cut_nobody():
    assert find_lockout_reason(INSIDE, [], TUNNEL) is None
