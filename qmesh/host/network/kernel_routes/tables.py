"""Rules and routes of this machine, read whole and cheaply."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Final

from qmesh.host.network import rtnetlink_messages
from qmesh.host.network.kernel_routes import messages
from qmesh.host.network.kernel_routes.netlink_socket import open_route_socket
from qmesh.host.network.links import name_interface
from qmesh.host.network.netlink_messages import TooManyMessages, read_whole_dump, send_request
from qmesh.mesh.networks import IPNetwork
from qmesh.mesh.routes.detours import RoutingTables
from qmesh.mesh.routes.tables import TableRoute

MOST_ROUTES: Final = 100_000
"""Routes that are looked through: a router of the internet has a million, which would take too long."""


def read_routing_tables(network: str, *, except_interface: str) -> RoutingTables | None:
    """Rules of the network's family, routes that overlap with it, and own addresses in it.

    None where there are more routes than are looked through.
    except_interface: the tunnel's, whose addresses are left out. Raises MachineRefused.
    """
    wanted = ipaddress.ip_network(network)
    return _read(wanted.version, lambda message: messages.overlaps(message, wanted), wanted, except_interface)


def read_all_tables(version: int) -> RoutingTables | None:
    """The same of all networks of IPv4 or IPv6 (4, 6), with the addresses of all interfaces."""
    everywhere = ipaddress.ip_network("0.0.0.0/0" if version == 4 else "::/0")
    return _read(version, lambda _: True, everywhere, "")


def _read(
    version: int, is_meant: Callable[[bytes], bool], network: IPNetwork, except_interface: str
) -> RoutingTables | None:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    asked = (
        messages.build_rules_request(family),
        rtnetlink_messages.build_addresses_request(),
        messages.build_routes_request(family),
    )
    with open_route_socket("read the routes") as netlink:
        try:
            rules, addresses, routes = (
                read_whole_dump(lambda: send_request(netlink, request, most=MOST_ROUTES))  # noqa: B023 - called at once
                for request in asked
            )
        except TooManyMessages:
            return None
        name = lru_cache(None)(name_interface)
        meant = [message for message in routes if is_meant(message)]
        found = map(messages.parse_route, meant)
        return RoutingTables(
            rules=tuple(filter(None, map(messages.parse_rule, rules))),
            routes=tuple(_build_route(each, name) for each in found if each is not None),
            addresses=tuple(_list_addresses(addresses, network, except_interface, name)),
            is_whole=all(map(messages.is_plain_route, meant)),
        )


def _build_route(found: messages.FoundRoute, name: Callable[[int], str]) -> TableRoute:
    return TableRoute(
        network=found.network,
        kind=messages.KINDS.get(found.kind, "unicast"),
        table=found.table,
        interface=None if found.index is None else name(found.index),
        gateway=found.gateway,
        metric=found.metric,
        nexthop=found.nexthop,
        is_kernels=found.protocol == messages.KERNEL_PROTOCOL,
    )


def _list_addresses(
    dump: list[bytes], network: IPNetwork, except_interface: str, name: Callable[[int], str]
) -> Iterator[tuple[str, str]]:
    for index in sorted({rtnetlink_messages.read_address_index(message) for message in dump}):
        interface = name(index)
        if interface != except_interface:
            for text in rtnetlink_messages.parse_addresses(dump, index):
                own = ipaddress.ip_interface(text)
                if own.version == network.version and own.network.overlaps(network):
                    yield text, interface
