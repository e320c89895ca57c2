"""What else of a machine's network has addresses of the tunnel's, though nothing for a member goes there."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Iterator

import msgspec

from qmesh.mesh.routes.detours import RoutingTables, TunnelPlace, remove_route_command
from qmesh.mesh.routes.tables import MAIN, TableRoute, describe_table_route


class NetworkOverlap(msgspec.Struct, frozen=True):
    """Another use of the tunnel's network.

    tunnel: that network. reason, cure: in words. is_harmful: whether it is in the way of something now, or
        after the next start. route: which one it is, where it is a route.
    """

    tunnel: str
    reason: str
    cure: str
    is_harmful: bool
    route: TableRoute | None = None


def list_overlaps(
    tables: RoutingTables, resolvers: Iterable[str], members: Collection[str], tunnel: TunnelPlace
) -> Iterator[NetworkOverlap]:
    """What else uses the network, beside what packets to members are asked for.

    resolvers: addresses of DNS servers. members: addresses of machines of the mesh.
    """
    network = ipaddress.ip_network(tunnel.network)
    for resolver in resolvers:
        if ipaddress.ip_address(resolver) in network and resolver not in members:
            yield NetworkOverlap(
                tunnel.network,
                f"the DNS server {resolver} of this machine has an address of it, and is not reached",
                "use another DNS server in /etc/resolv.conf, or the tunnel's own address of that machine",
                is_harmful=True,
            )
    for route in find_other_routes(tables, tunnel):
        # One of the same length wins where it comes first, as after the next start.
        same = ipaddress.ip_network(route.network) == network
        yield NetworkOverlap(
            tunnel.network,
            f"the route `{describe_table_route(route)}` overlaps with it; "
            + ("after the next start it may be the first" if same else "nothing for a member goes there"),
            remove_route_command(route, tables, tunnel)
            if same
            else "nothing, while no member has an address there",
            is_harmful=same,
            route=route,
        )


def find_other_routes(tables: RoutingTables, tunnel: TunnelPlace) -> Iterator[TableRoute]:
    """Routes of the main table to parts of the tunnel's network or to it, beside the tunnel's own.

    A wider network takes nothing from the tunnel's, which is the nearer one to each of its addresses.
    """
    network = ipaddress.ip_network(tunnel.network)
    for route in tables.routes:
        length = ipaddress.ip_network(route.network).prefixlen
        if route.table == MAIN and route.interface != tunnel.interface and length >= network.prefixlen:
            yield route
