"""Whether steps would cut a login off: a session and steps in, the reason out."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

import msgspec

from qmesh.mesh.plan.steps import (
    DeleteTunnel,
    LoadGuard,
    ReleaseTunnel,
    RemoveAddress,
    RemovePeer,
    SetKey,
    SetListenPort,
    SetPeer,
    SetUp,
    Step,
)
from qmesh.mesh.state import Guard, Tunnel
from qmesh.mesh.values import parse_ip_address


class Session(msgspec.Struct, frozen=True):
    """A TCP connection by which somebody is logged in. Source: ssh(1), SSH_CONNECTION.

    client, server: addresses in canonical text; server is this machine's.
    """

    client: str
    client_port: int
    server: str
    server_port: int


def find_lockout_reason(session: Session, steps: Iterable[Step], tunnel: Tunnel | None) -> str | None:
    """Why taking these steps would cut the session, in words; None where they would not.

    tunnel: as it is before the steps. A step that goes back on itself, an address taken off and put
    on again, counts as a cut: TCP might outlive it, and might not.
    """
    inside = tunnel is not None and _is_through_tunnel(session, tunnel)
    for step in steps:
        reason = (
            _find_guard_lockout(session, step.new, inside=inside) if isinstance(step, LoadGuard) else None
        )
        if reason is None and inside:
            reason = _find_tunnel_lockout(session, step)
        if reason is not None:
            return reason
    return None


def _is_through_tunnel(session: Session, tunnel: Tunnel) -> bool:
    """Whether the session is one with the tunnel's own address, or from its network."""
    client = parse_ip_address(session.client)
    interfaces = [ipaddress.ip_interface(address) for address in tunnel.addresses]
    return any(
        str(interface.ip) == session.server or (client is not None and client in interface.network)
        for interface in interfaces
    )


def _find_guard_lockout(session: Session, guard: Guard, *, inside: bool) -> str | None:
    if inside:
        return (
            None
            if _is_allowed_by_guard(session, guard)
            else f"the guard lets no login through {guard.interface}"
        )
    server = parse_ip_address(session.server)
    guarded = session.server_port in guard.guarded_ports
    own = (guarded or guard.role == "control") and server is not None and server.is_loopback
    if session.server_port in guard.closed_ports and not own:
        return f"the guard closes port {session.server_port}, which this session uses"
    return None


def _is_allowed_by_guard(session: Session, guard: Guard) -> bool:
    """Whether the guard lets this session through the tunnel."""
    if session.server_port in guard.mesh_ports:
        return True
    if guard.role == "control":
        return (session.server, session.server_port) == (guard.control_address, guard.service_port)
    return session.client == guard.control_address and session.server_port in (
        *guard.ports,
        *guard.control_ports,
    )


def _find_tunnel_lockout(session: Session, step: Step) -> str | None:
    match step:
        case DeleteTunnel(old=tunnel):
            return f"{tunnel.interface}, which this session uses, is deleted"
        case RemoveAddress(subject=interface, old=address):
            return f"{address} is removed from {interface}, which this session uses"
        case SetKey(subject=interface) | SetListenPort(subject=interface):
            return f"{interface}, which this session uses, gets another key or port"
        case ReleaseTunnel(subject=interface, old=master):
            return f"{interface}, which this session uses, is taken out of {master}"
        case SetUp(subject=interface, new=False):
            return f"{interface}, which this session uses, goes down"
        case RemovePeer(old=peer) | SetPeer(new=peer) if _is_from_networks(session, peer.allowed_ips):
            return f"the peer {peer.public_key}, from which this session comes, is changed"
        case _:
            return None


def _is_from_networks(session: Session, allowed_ips: Iterable[str]) -> bool:
    client = parse_ip_address(session.client)
    return client is not None and any(client in ipaddress.ip_network(network) for network in allowed_ips)
