"""The routes of the tunnel's interface: those that it has, and to add or remove one.

The kernel makes them with the addresses; `ip route flush`, a VPN or a DHCP client may remove them alone.
For an address of IPv6 it makes the local one later than it says that the address or the interface is there.
Source: net/ipv6/addrconf.c, addrconf_dad_start.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import time
from collections.abc import Iterator
from typing import Final

from qmesh.host.network import links
from qmesh.host.network.kernel_routes import messages
from qmesh.host.network.kernel_routes.netlink_socket import open_route_socket, read_routes
from qmesh.host.network.kernel_routes.route_notices import RouteNotices
from qmesh.host.network.links import Link, find_interface_index
from qmesh.host.network.netlink import build_kernel_error, translate_errors
from qmesh.host.network.netlink_messages import send_request
from qmesh.mesh.routes.tables import LOCAL, MAIN
from qmesh.mesh.state import TunnelRoute, list_address_routes

KERNEL_PATIENCE_S: Final = 10.0
"""How long the kernel is waited for: its work takes milliseconds, behind others' on a busy machine."""
_CONNECTED_METRIC_V6 = 256
"""That of the kernel's own routes. Source: linux/ipv6_route.h, IP6_RT_PRIO_ADDRCONF."""


def list_tunnel_routes(link: Link) -> tuple[TunnelRoute, ...]:
    """The routes of this interface, sorted; none while it is down. Raises MachineRefused.

    Of the family of its addresses; the main table's, and those of its own addresses in the local one.
    """
    return tuple(sorted({route for route, _ in _find_tunnel_routes(link)})) if link.up else ()


def add_tunnel_route(interface: str, route: TunnelRoute) -> None:
    """Add a route of this interface; one that is there is fine. Raises MachineRefused."""
    to = ipaddress.ip_network(route.network)
    is_main = not route.is_local
    wanted = messages.FoundRoute(
        family=socket.AF_INET if to.version == 4 else socket.AF_INET6,
        network=route.network,
        table=MAIN if is_main else LOCAL,
        kind=messages.UNICAST if is_main else messages.LOCAL_TYPE,
        metric=_CONNECTED_METRIC_V6 if is_main and to.version == 6 else 0,
        index=_require_index(interface),
        gateway=route.gateway or None,
        source=route.source if to.version == 4 else None,
    )
    with open_route_socket(f"add a route to {route.network} by {interface}") as netlink:
        try:
            send_request(netlink, messages.build_route_change(wanted, add=True))
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise


def remove_tunnel_route(link: Link, route: TunnelRoute) -> None:
    """Remove a route of this interface; one that is not there is fine. Raises MachineRefused."""
    for found, exact in list(_find_tunnel_routes(link)):
        if found == route:
            with open_route_socket(f"remove the route to {route.network} by {link.name}") as netlink:
                try:
                    send_request(netlink, messages.build_route_change(exact, add=False))
                except OSError as error:
                    if error.errno not in {errno.ESRCH, errno.ENOENT}:
                        raise


def wait_for_local_routes(interface: str) -> None:
    """Wait until the kernel has made the local routes of an interface's addresses of IPv6, if it is up.

    One that is not there after `KERNEL_PATIENCE_S` is left to whoever looks next. Raises MachineRefused.
    """
    if not _lacks_local_route(interface):
        return
    ends_at = time.monotonic() + KERNEL_PATIENCE_S
    with translate_errors("listen for changes of routes"), contextlib.closing(RouteNotices()) as notices:
        while _lacks_local_route(interface) and notices.wait(ends_at - time.monotonic()):
            notices.take()


def _lacks_local_route(interface: str) -> bool:
    link = links.read(interface)
    own = () if link is None else tuple(address for address in link.addresses if ":" in address)
    if link is None or not link.up or not own:
        return False
    local = {route for route in list_address_routes(own) if route.is_local}
    return not local.issubset(list_tunnel_routes(link))


def remove_routes_of_address(link: Link, address: str) -> None:
    """Remove what is left of the routes of an address that `link` had, and has no more.

    The kernel removes what it made itself. A route of IPv6 that was added in place of such a one outlasts its
    address. Raises MachineRefused.
    """
    left = list_address_routes(other for other in link.addresses if other != address)
    for route in list_address_routes((address,)):
        if route not in left:
            remove_tunnel_route(link, route)


def _find_tunnel_routes(link: Link) -> Iterator[tuple[TunnelRoute, messages.FoundRoute]]:
    """The routes of this interface, each also as the kernel has it."""
    own = [ipaddress.ip_interface(address) for address in link.addresses]
    with open_route_socket(f"read the routes of {link.name}") as netlink:
        for version in sorted({address.version for address in own}):
            sources = [address for address in own if address.version == version]
            family = socket.AF_INET if version == 4 else socket.AF_INET6
            for table, kind in (
                (MAIN, messages.UNICAST),
                (LOCAL, messages.LOCAL_TYPE),
            ):
                for route in _read(netlink, family, table, link.index):
                    if route.kind == kind and _is_ordinary(route.network):
                        yield _name_source(route, sources), route


def _read(netlink: socket.socket, family: int, table: int, index: int) -> list[messages.FoundRoute]:
    try:
        return read_routes(netlink, family, table=table, index=index)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENODEV}:  # no such table or interface has no routes
            return []
        raise


def _is_ordinary(network: str) -> bool:
    to = ipaddress.ip_network(network)
    return not (to.is_multicast or (to.version == 6 and to.is_link_local))


def _name_source(
    route: messages.FoundRoute, own: list[ipaddress.IPv4Interface | ipaddress.IPv6Interface]
) -> TunnelRoute:
    """With the address that the kernel would choose where the route names none."""
    to = ipaddress.ip_network(route.network)
    is_local = route.kind == messages.LOCAL_TYPE
    inside = [address for address in own if address.network == to] or own
    chosen = str(to.network_address if is_local else inside[0].ip)
    return TunnelRoute(route.network, route.source or chosen, is_local, route.gateway or "")


def _require_index(interface: str) -> int:
    index = find_interface_index(interface)
    if index is None:
        raise build_kernel_error(errno.ENODEV, f"find {interface}")
    return index
