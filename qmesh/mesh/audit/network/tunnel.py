"""The tunnel and its peers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from qmesh.mesh.audit.findings import APPLY, Finding, error_finding
from qmesh.mesh.audit.network.mtu import black_hole_finding
from qmesh.mesh.audit.surroundings import AuditContext
from qmesh.mesh.plan.describe import describe_route
from qmesh.mesh.routes.detours import describe_machines
from qmesh.mesh.state import Peer, Tunnel, TunnelRoute


def tunnel_findings(wanted: Tunnel | None, seen: Tunnel | None, around: AuditContext) -> Iterator[Finding]:
    """What of the interface and its peers is not as it should be."""
    assert wanted is not None, "an audit is of a machine that should have its tunnel"
    interface = wanted.interface
    if seen is None:
        why = "`qmesh down` removed it" if around.taken_down else "no such interface"
        yield Finding(
            "tunnel-missing", "warning" if around.taken_down else "error", interface, "a tunnel", why, APPLY
        )
        return
    if seen.public_key != wanted.public_key:
        yield error_finding(
            "key-mismatch", interface, f"the key of {wanted.public_key}", seen.public_key or "no key"
        )
    if not seen.up:
        yield error_finding("tunnel-down", interface, "up", "down")
    if seen.addresses != wanted.addresses:
        had = ", ".join(seen.addresses) or "none"
        yield error_finding("tunnel-address", interface, ", ".join(wanted.addresses), had)
    if seen.listen_port != wanted.listen_port:
        had = str(seen.listen_port or "none")
        yield error_finding("tunnel-port", interface, f"listen port {wanted.listen_port}", had)
    if seen.mtu != wanted.mtu:
        yield error_finding("tunnel-mtu", interface, f"MTU {wanted.mtu}", str(seen.mtu))
    elif around.black_hole is not None:  # what is lost of packets of another size says nothing of the path
        yield black_hole_finding(interface, around.black_hole)
    yield from _route_findings(wanted, seen)
    yield from _peers_findings(wanted.peers, seen.peers, around.names)


def _route_findings(wanted: Tunnel, seen: Tunnel) -> Iterator[Finding]:
    """The interface's own routes. Of one that is down, or has another address, there is no more to say."""
    interface = wanted.interface
    if wanted.master is None and seen.master is not None:
        there = f"a part of {seen.master}: programs outside of that reach no member"
        yield error_finding("tunnel-route", interface, "an interface that is part of no other", there)
    if not seen.up or seen.addresses != wanted.addresses or None in (wanted.routes, seen.routes):
        return
    for route in sorted(_list_missing_routes(wanted, seen)):
        yield error_finding("tunnel-route", interface, f"the route {describe_route(route)}", "no such route")
    for route in sorted(set(seen.routes or ()).difference(wanted.routes or ())):
        yield error_finding("tunnel-route", interface, "no such route", f"the route {describe_route(route)}")


def collision_findings(wanted: Tunnel | None, seen: Tunnel | None, around: AuditContext) -> Iterator[Finding]:
    """What else uses the tunnel's network.

    Where packets go is no news while the tunnel is not there, or its own routes are missing.
    """
    if (
        wanted is None
        or seen is None
        or not seen.up
        or seen.master is not None
        or _list_missing_routes(wanted, seen)
    ):
        return
    own = {address.partition("/")[0] for address in wanted.addresses}
    for detour in around.detours:
        way = "stay here" if detour.address in own else f"go into {wanted.interface}"
        yield error_finding(
            "route-collision",
            wanted.interface,
            f"packets for {describe_machines(detour.machines)} ({detour.address}) {way}",
            detour.reason,
            detour.cure,
        )
    named = {detour.route for detour in around.detours} - {None}
    for overlap in around.overlaps:
        if overlap.route in named:
            continue
        yield Finding(
            "route-collision",
            "error" if overlap.is_harmful else "info",
            wanted.interface,
            f"{overlap.tunnel} for the mesh only",
            overlap.reason,
            overlap.cure,
        )


def _list_missing_routes(wanted: Tunnel, seen: Tunnel) -> set[TunnelRoute]:
    if seen.routes is None:
        return set()
    return set(wanted.routes or ()).difference(seen.routes)


def _peers_findings(
    wanted: Iterable[Peer], seen: Iterable[Peer], names: Mapping[str, str]
) -> Iterator[Finding]:
    by_key = {peer.public_key: peer for peer in seen}
    for peer in wanted:
        name = names.get(peer.public_key, peer.public_key)
        there = by_key.pop(peer.public_key, None)
        if there is None:
            yield error_finding("peer-missing", name, f"a peer {peer.public_key}", "no such peer")
        else:
            yield from _peer_findings(name, peer, there)
    for key, peer in by_key.items():
        networks = ", ".join(peer.allowed_ips) or "no networks"
        yield error_finding("peer-unexpected", names.get(key, key), "no such peer", f"a peer for {networks}")


def _peer_findings(name: str, wanted: Peer, seen: Peer) -> Iterator[Finding]:
    if seen.allowed_ips != wanted.allowed_ips:
        had = ", ".join(seen.allowed_ips) or "none"
        yield error_finding("peer-allowed-ips", name, ", ".join(wanted.allowed_ips), had)
    if wanted.endpoint is not None and seen.endpoint != wanted.endpoint:
        yield error_finding("peer-endpoint", name, str(wanted.endpoint), str(seen.endpoint or "none"))
    if seen.preshared_key != wanted.preshared_key:
        which = "none" if seen.preshared_key is None else "another one"
        yield error_finding("peer-psk", name, "the preshared key of its enrolment", which)
    if seen.keepalive_s != wanted.keepalive_s:
        yield error_finding(
            "peer-keepalive", name, f"every {wanted.keepalive_s} s", f"every {seen.keepalive_s} s"
        )
