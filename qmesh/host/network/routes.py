"""What networks this machine is in, and its ways to others, by rtnetlink. Source: rtnetlink(7)."""

from __future__ import annotations

import errno
import ipaddress
import itertools
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from qmesh.host.network import rtnetlink_messages, sysctls
from qmesh.host.network.kernel_routes import messages
from qmesh.host.network.kernel_routes.tables import read_all_tables
from qmesh.host.network.links import find_interface_index, name_interface
from qmesh.host.network.netlink import open_rtnetlink, suppress_errnos, translate_errors
from qmesh.host.network.netlink_messages import read_whole_dump, send_request
from qmesh.host.network.rtnetlink_messages import FoundAddress, FoundInterface
from qmesh.mesh.foreign.other_hooks.source_checks import Arrival
from qmesh.mesh.foreign.packets import UnderlayRoute
from qmesh.mesh.networks import OccupiedNetwork
from qmesh.mesh.routes.tables import MAIN, describe_rule, describe_table_route, name_table
from qmesh.mesh.sysctls import STRICT
from qmesh.mesh.values import parse_ip_address

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

RESOLVER_FILES: Final = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
"""The second has the true resolvers where the first names only systemd's own at 127.0.0.53."""

CONTAINER_BRIDGES: Final = ("docker", "br-", "virbr", "cni", "podman")
"""How names of bridges begin whose addresses are unreachable from outside."""

_EVERYWHERE: Final = ("0.0.0.0/0", "::/0")
_NO_WAY: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL})
_NO_USE: Final = frozenset({"broadcast", "anycast", "multicast", "throw"})


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
        outward = {link.index for link in _list_links(netlink) if _is_external(link)}
        defaults = _find_default_interfaces(netlink)
        addresses = _list_addresses(netlink)
    outward.discard(find_interface_index(except_interface) or 0)
    candidates = [each for each in addresses if each.index in outward and each.is_lasting]
    candidates.sort(
        key=lambda each: (
            each.index != defaults.get(each.family),
            each.family != socket.AF_INET,
            each.index,
        )
    )
    found = (ipaddress.ip_interface(each.text).ip for each in candidates)
    return tuple(dict.fromkeys(str(address) for address in found if _is_reachable(address)))


def list_attached_networks(except_interface: str) -> tuple[str, ...]:
    """The networks that this machine has an address in, but for containers'. Raises MachineRefused."""
    with open_rtnetlink("read the addresses") as netlink:
        outward = {
            link.index
            for link in _list_links(netlink)
            if _is_external(link) and link.name != except_interface
        }
        found = [each.text for each in _list_addresses(netlink) if each.index in outward]
    return tuple(sorted({str(ipaddress.ip_interface(text).network) for text in found}))


def list_inbound_routes(
    except_interface: str, strangers: Mapping[socket.AddressFamily, str], port: int
) -> tuple[UnderlayRoute, ...]:
    """How strangers' datagrams come to each of this machine's own addresses. Raises MachineRefused.

    strangers: an address that stands for all of its family, by socket.AF_*; port: theirs.
    """
    with open_rtnetlink("read the addresses") as netlink:
        outward = {
            link.index: link
            for link in _list_links(netlink)
            if _is_external(link) and link.name != except_interface
        }
        return tuple(
            _build_inbound_route(netlink, outward[each.index], each, strangers[each.family], port)
            for each in _list_addresses(netlink)
            if each.index in outward and each.is_lasting
        )


def _build_inbound_route(
    netlink: socket.socket, link: FoundInterface, address: FoundAddress, stranger: str, port: int
) -> UnderlayRoute:
    own, neighbour = ipaddress.ip_interface(address.text), None
    if own.version == 6 and link.has_neighbours:
        try:
            neighbour = _ask_for_way(netlink, stranger, link.index).gateway or stranger
        except OSError:  # only machines of its own network are reached there: any of them
            others = (each for each in itertools.islice(own.network, 1, 3) if each != own.ip)
            neighbour = next(map(str, others), None)
    return UnderlayRoute(link.name, str(own.ip), stranger, port, neighbour)


def find_route(address: str, port: int) -> UnderlayRoute | None:
    """The way of datagrams to another machine; None where the kernel knows none.

    Raises MachineRefused when it cannot look.
    """
    with open_rtnetlink(f"find the route to {address}") as netlink:
        try:
            way = _ask_for_way(netlink, address)
        except OSError as error:
            if error.errno in _NO_WAY:
                return None
            raise
        link = _read_link(netlink, way.index)
    if way.source is None:
        return None
    neighbour = way.gateway or address if way.family == socket.AF_INET6 and link.has_neighbours else None
    return UnderlayRoute(link.name, way.source, address, port, neighbour)


def find_arrivals(sources: Iterable[str], targets: Collection[str]) -> tuple[Arrival, ...]:
    """How packets of IPv4 come from each source to each target that is an address of this machine.

    Raises MachineRefused.
    """
    if not targets:
        return ()
    found: list[Arrival] = []
    with open_rtnetlink("ask for the ways of packets that come") as netlink:
        links = {link.index: link for link in _list_links(netlink)}
        own = {
            str(ipaddress.ip_interface(each.text).ip): links[each.index]
            for each in _list_addresses(netlink)
            if each.family == socket.AF_INET and each.index in links
        }
        for source in sources:
            found += (
                _build_arrival(netlink, source, target, own[target])
                for target in targets
                if target in own and source not in own
            )
    return tuple(found)


def _build_arrival(netlink: socket.socket, source: str, target: str, link: FoundInterface) -> Arrival:
    refused_for = None
    try:
        send_request(netlink, messages.build_arrival_request(source, target, link.index))
    except OSError as error:
        # Older kernels say EXDEV; since Linux 6.13 it is the same of whatever is refused.
        if error.errno in {errno.EXDEV, errno.EINVAL} and sysctls.read_source_check(link.name) == STRICT:
            with suppress_errnos(*_NO_WAY):  # without a way there, none of its packets would be answered
                back = _ask_for_way(netlink, source).index
                refused_for = None if back == link.index else name_interface(back)
    return Arrival(source, target, link.name, refused_for)


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
            way = _ask_for_way(netlink, address)
        except OSError:
            return None
        link = _read_link(netlink, way.index)
    return FirstHop(way.is_routed, link.mtu if way.mtu is None else min(link.mtu, way.mtu))


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
        return frozenset(each.text.partition("/")[0] for each in _list_addresses(netlink))


def _list_links(netlink: socket.socket) -> list[FoundInterface]:
    dump = read_whole_dump(lambda: send_request(netlink, rtnetlink_messages.build_links_request()))
    return [rtnetlink_messages.parse_link(message) for message in dump]


def _list_addresses(netlink: socket.socket) -> list[FoundAddress]:
    dump = read_whole_dump(lambda: send_request(netlink, rtnetlink_messages.build_addresses_request()))
    return list(filter(None, map(rtnetlink_messages.parse_address, dump)))


def _read_link(netlink: socket.socket, index: int) -> FoundInterface:
    (message,), _ = send_request(netlink, rtnetlink_messages.build_index_request(index))
    return rtnetlink_messages.parse_link(message)


def _ask_for_way(netlink: socket.socket, address: str, index: int | None = None) -> messages.FoundWay:
    """The kernel's answer which way packets go. Raises OSError where there is none."""
    (message, *_), _ = send_request(netlink, messages.build_way_request(address, index))
    return messages.parse_way(message)


def _find_default_interfaces(netlink: socket.socket) -> dict[int, int | None]:
    """By family the interface of the best default route, of several hops the first."""
    dump = read_whole_dump(lambda: send_request(netlink, messages.build_routes_request(socket.AF_UNSPEC)))
    defaults: dict[int, messages.FoundRoute] = {}
    for route in filter(None, map(messages.parse_route, dump)):
        is_default = route.network in _EVERYWHERE and route.kind == messages.UNICAST and route.table == MAIN
        if is_default and (route.family not in defaults or route.metric < defaults[route.family].metric):
            defaults[route.family] = route
    return {family: route.index for family, route in defaults.items()}


def _is_external(link: FoundInterface) -> bool:
    return link.up and not link.is_loopback and not link.name.startswith(CONTAINER_BRIDGES)


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
