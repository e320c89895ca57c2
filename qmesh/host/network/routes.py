"""What networks this machine is in, and its ways to others, by rtnetlink. Source: rtnetlink(7).

Nothing here may be called from a coroutine: pyroute2 runs an event loop of its own.
"""

from __future__ import annotations

import errno
import ipaddress
import itertools
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl.ifinfmsg import IFF_LOOPBACK, IFF_NOARP, IFF_UP

from qmesh.host.network.kernel_routes.tables import read_all_tables
from qmesh.host.network.links import find_interface_index
from qmesh.host.network.netlink import open_rtnetlink, read_pyroute2_dump, translate_errors
from qmesh.mesh.foreign.packets import UnderlayRoute
from qmesh.mesh.networks import OccupiedNetwork
from qmesh.mesh.routes.tables import MAIN, describe_rule, describe_table_route, name_table
from qmesh.mesh.values import parse_ip_address

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

RESOLVER_FILES: Final = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
"""The second has the true resolvers where the first names only systemd's own at 127.0.0.53."""

CONTAINER_BRIDGES: Final = ("docker", "br-", "virbr", "cni", "podman")
"""How names of bridges begin whose addresses are unreachable from outside."""

_SCOPE_GLOBAL = 0
_ETHERNET: Final = 1  # ARPHRD_ETHER
_NO_USE: Final = frozenset({"broadcast", "anycast", "multicast", "throw"})
_UNICAST = 1
_PASSING = 0x01 | 0x08 | 0x20  # IFA_F_TEMPORARY (for IPv6), IFA_F_DADFAILED, IFA_F_DEPRECATED


def list_occupied_networks(except_interface: str) -> tuple[OccupiedNetwork, ...]:
    """Every network that this machine has a use for, other than by `except_interface`.

    Those of routes in tables that a rule leads to, of addresses, of policy rules, and the resolvers; one that
    lies within another is left out, as are the default route (also in parts, `0.0.0.0/1`), loopback,
    link-local IPv6 and multicast. Raises MachineRefused when it cannot look.
    """
    found = [
        *(each for version in (4, 6) for each in _list_routed_networks(version, except_interface)),
        *(
            OccupiedNetwork(
                str(ipaddress.ip_network(resolver)), "a DNS server in /etc/resolv.conf", is_routed=False
            )
            for resolver in list_resolvers()
        ),
    ]
    return tuple(_remove_subnets(each for each in found if _is_specific_network(each.ip_network)))


def _list_routed_networks(version: int, except_interface: str) -> Iterator[OccupiedNetwork]:
    tables = read_all_tables(version)
    if tables is None:  # a router of the internet's; what is private is in its addresses all the same
        return
    reached = {rule.table for rule in tables.rules if rule.action == "lookup"}
    for route in tables.routes:
        if route.table in reached and route.interface != except_interface and route.kind not in _NO_USE:
            words = f"the route `{describe_table_route(route)}` of table {name_table(route.table)}"
            yield OccupiedNetwork(route.network, words)
    for rule in tables.rules:
        if rule.destination is not None and not (rule.action == "lookup" and rule.table == MAIN):
            yield OccupiedNetwork(rule.destination, f"rule {rule.priority} (`{describe_rule(rule)}`)")
    for address, interface in tables.addresses:
        if interface != except_interface:
            network = ipaddress.ip_interface(address).network
            yield OccupiedNetwork(str(network), f"the address {address} of {interface}")


def list_global_addresses(except_interface: str) -> tuple[str, ...]:
    """This machine's own addresses at which others may reach it, best first.

    Of global scope, lasting, on interfaces that are up and are no loopback or container bridge;
    first those of the default routes' interfaces, IPv4 before IPv6. Raises MachineRefused.
    """
    with open_rtnetlink("read the addresses") as netlink:
        outward = {link["index"] for link in read_pyroute2_dump(netlink.get_links) if _is_external_link(link)}
        routes, addresses = read_pyroute2_dump(netlink.get_routes), read_pyroute2_dump(netlink.get_addr)
    outward.discard(find_interface_index(except_interface))
    defaults = {
        family: _find_default_interface(routes, family) for family in (socket.AF_INET, socket.AF_INET6)
    }
    candidates = [message for message in addresses if message["index"] in outward and _is_lasting(message)]
    candidates.sort(
        key=lambda message: (
            message["index"] != defaults.get(message["family"]),
            message["family"] != socket.AF_INET,
            message["index"],
        )
    )
    found = (ipaddress.ip_interface(_address_text(message)).ip for message in candidates)
    return tuple(dict.fromkeys(str(address) for address in found if _is_reachable(address)))


def list_attached_networks(except_interface: str) -> tuple[str, ...]:
    """The networks that this machine has an address in, but for containers'. Raises MachineRefused."""
    with open_rtnetlink("read the addresses") as netlink:
        outward = {
            link["index"]
            for link in read_pyroute2_dump(netlink.get_links)
            if _is_external_link(link) and link.get_attr("IFLA_IFNAME") != except_interface
        }
        addresses = read_pyroute2_dump(netlink.get_addr)
    found = (_address_text(each) for each in addresses if each["index"] in outward)
    return tuple(sorted({str(ipaddress.ip_interface(address).network) for address in found}))


def list_inbound_routes(
    except_interface: str, strangers: Mapping[socket.AddressFamily, str], port: int
) -> tuple[UnderlayRoute, ...]:
    """How strangers' datagrams come to each of this machine's own addresses. Raises MachineRefused.

    strangers: an address that stands for all of its family, by socket.AF_*; port: theirs.
    """
    with open_rtnetlink("read the addresses") as netlink:
        outward = {
            link["index"]: link
            for link in read_pyroute2_dump(netlink.get_links)
            if _is_external_link(link) and link.get_attr("IFLA_IFNAME") != except_interface
        }
        addresses = [
            each
            for each in read_pyroute2_dump(netlink.get_addr)
            if each["index"] in outward and _is_lasting(each)
        ]
        return tuple(
            _build_inbound_route(netlink, outward[each["index"]], each, strangers[each["family"]], port)
            for each in addresses
        )


def _build_inbound_route(netlink: Any, link: Any, address: Any, stranger: str, port: int) -> UnderlayRoute:
    own, neighbour = ipaddress.ip_interface(_address_text(address)), None
    if own.version == 6 and _has_neighbours(link):
        try:
            (route, *_) = netlink.route("get", dst=stranger, oif=link["index"])
            neighbour = str(route.get_attr("RTA_GATEWAY") or stranger)
        except NetlinkError:  # only machines of its own network are reached there: any of them
            others = (each for each in itertools.islice(own.network, 1, 3) if each != own.ip)
            neighbour = next(map(str, others), None)
    return UnderlayRoute(link.get_attr("IFLA_IFNAME"), str(own.ip), stranger, port, neighbour)


def _has_neighbours(link: Any) -> bool:
    """Whether the kernel has to discover link-layer addresses there."""
    return link["ifi_type"] == _ETHERNET and not link["flags"] & (IFF_NOARP | IFF_LOOPBACK)


def find_route(address: str, port: int) -> UnderlayRoute | None:
    """The way of datagrams to another machine; None where the kernel knows none.

    Raises MachineRefused when it cannot look.
    """
    with open_rtnetlink(f"find the route to {address}") as netlink:
        try:
            (route, *_) = netlink.route("get", dst=address)
        except NetlinkError as error:
            if error.code in {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL}:
                return None
            raise
        (link,) = netlink.get_links(route.get_attr("RTA_OIF"))
    source = route.get_attr("RTA_PREFSRC")
    if source is None:
        return None
    neighbour = None
    if route["family"] == socket.AF_INET6 and _has_neighbours(link):
        neighbour = str(route.get_attr("RTA_GATEWAY") or address)
    return UnderlayRoute(link.get_attr("IFLA_IFNAME"), source, address, port, neighbour)


class FirstHop(NamedTuple):
    """How packets to another machine leave this one.

    is_routed: whether over a router. mtu: in octets, of the interface, or of the route where its
        administrator said less; what routers said is left out.
    """

    is_routed: bool
    mtu: int


def find_first_hop(address: str) -> FirstHop | None:
    """The first hop to another machine; None where the kernel knows no way. Raises MachineRefused."""
    with open_rtnetlink(f"find the route to {address}") as netlink:
        try:
            (route, *_) = netlink.route("get", dst=address)
        except NetlinkError:
            return None
        (link,) = netlink.get_links(route.get_attr("RTA_OIF"))
    mtu = link.get_attr("IFLA_MTU")
    metrics, cached = route.get_attr("RTA_METRICS"), route.get_attr("RTA_CACHEINFO")
    given = None if metrics is None else metrics.get_attr("RTAX_MTU")
    if given and not (cached and cached["rta_expires"]):  # what was learnt expires
        mtu = min(mtu, given)
    return FirstHop(any(route.get_attr(name) is not None for name in ("RTA_GATEWAY", "RTA_VIA")), mtu)


def list_resolvers() -> tuple[str, ...]:
    """The addresses of this machine's DNS servers, each once. Raises MachineRefused when it cannot look."""
    found: dict[str, None] = {}
    for file in RESOLVER_FILES:
        with translate_errors(f"read {file}"):
            text = file.read_text(errors="replace") if file.exists() else ""
        for words in map(str.split, text.splitlines()):
            if words[:1] == ["nameserver"]:
                found |= dict.fromkeys(_parse_resolver(words[1:]))
    return tuple(found)


def _parse_resolver(words: list[str]) -> Iterator[str]:
    address = parse_ip_address(words[0]) if words else None
    if address is not None:  # at anything else no resolver can be reached
        yield str(address)


def list_own_addresses() -> frozenset[str]:
    """Every address of this machine, on whichever interface. Raises MachineRefused when it cannot look."""
    with open_rtnetlink("read the addresses") as netlink:
        return frozenset(
            _address_text(message).partition("/")[0] for message in read_pyroute2_dump(netlink.get_addr)
        )


def _address_text(message: Any) -> str:
    # With a point-to-point address, IFA_ADDRESS is the other side's.
    own = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    return ipaddress.ip_interface(f"{own}/{message['prefixlen']}").with_prefixlen


def _is_lasting(message: Any) -> bool:
    flags = message.get_attr("IFA_FLAGS") or message["flags"]
    # For IPv4 the lowest flag means a second address of a network, which lasts.
    passing = flags & _PASSING if message["family"] == socket.AF_INET6 else 0
    return message["scope"] == _SCOPE_GLOBAL and not passing


def _is_external_link(link: Any) -> bool:
    up = link["flags"] & IFF_UP and not link["flags"] & IFF_LOOPBACK
    return bool(up) and not link.get_attr("IFLA_IFNAME").startswith(CONTAINER_BRIDGES)


def _read_table_id(route: Any) -> int:
    return int(route.get_attr("RTA_TABLE") or route["table"])


def _find_default_interface(routes: list[Any], family: int) -> int | None:
    defaults = [
        route
        for route in routes
        if (route["family"], route["dst_len"], route["type"]) == (family, 0, _UNICAST)
        and _read_table_id(route) == MAIN
    ]
    best = min(defaults, key=lambda route: route.get_attr("RTA_PRIORITY") or 0, default=None)
    if best is None:
        return None
    hops = best.get_attr("RTA_MULTIPATH") or ({"oif": best.get_attr("RTA_OIF")},)
    index: int | None = hops[0]["oif"]
    return index


def _is_specific_network(network: Network) -> bool:
    """Whether somebody's addresses are meant, and not the default route or a part of it."""
    shortest = 8 if network.version == 4 else 16
    return network.prefixlen >= shortest and _is_ordinary(network)


def _is_ordinary(place: Network | Address) -> bool:
    return not (place.is_multicast or place.is_loopback or (place.version == 6 and place.is_link_local))


def _is_reachable(address: Address) -> bool:
    return _is_ordinary(address) and not address.is_link_local


def _remove_subnets(networks: Iterable[OccupiedNetwork]) -> list[OccupiedNetwork]:
    found: list[OccupiedNetwork] = []
    for each in sorted(
        networks,
        key=lambda each: (
            each.ip_network.version,
            each.ip_network.network_address,
            each.ip_network.prefixlen,
        ),
    ):
        # Sorted so, what could hold a network comes before it with nothing in between that could.
        last = found[-1].ip_network if found else None
        if last is None or last.version != each.ip_network.version or not each.ip_network.subnet_of(last):  # type: ignore[arg-type] # versions are one
            found.append(each)
    return found
