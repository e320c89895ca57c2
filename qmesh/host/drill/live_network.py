"""What the copy of this machine's network is made of: read where the machine is, and changed nowhere.

Source: rtnetlink(7), linux/if_link.h, if_addr.h, fib_rules.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from qmesh.host.drill.netlink_session import dump_raw
from qmesh.host.network.netlink import translate_errors
from qmesh.host.network.netlink_messages import DUMP, HEADER, build_attribute, build_request
from qmesh.host.network.rtnetlink_messages import parse_address
from qmesh.mesh.foreign.attributes import parse_attributes

_ROUTE_PROTOCOL: Final = 0  # NETLINK_ROUTE
GET_LINK, GET_ADDRESS, GET_ROUTE, GET_RULE = 18, 22, 26, 34  # RTM_*
LINK: Final = struct.Struct("=BxHiII")  # family, type, index, flags, what of them is changed
ADDRESS: Final = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
ROUTE: Final = struct.Struct("=BBBBBBBBI")  # family, lengths, tos, table, protocol, scope, type, flags
_UP: Final = 1  # IFF_UP
_ADDRESS, _NAME, _MTU, _MASTER, _LINKINFO, _GROUP, _EXT_MASK = 1, 3, 4, 10, 18, 27, 29  # IFLA_*
_INFO_KIND, _INFO_DATA = 1, 2
_NO_STATISTICS: Final = build_attribute(_EXT_MASK, struct.pack("=I", 1 << 3))
_ETHERNET: Final = 1  # ARPHRD_ETHER
_LOOPBACK: Final = 0x8  # IFF_LOOPBACK
MOST_ROUTES: Final = 20_000
SYSCTLS: Final = Path("/proc/sys/net")
_OF_INTERFACES: Final = {
    "ipv4": (
        "forwarding",
        "rp_filter",
        "accept_local",
        "route_localnet",
        "accept_source_route",
        "src_valid_mark",
        "bc_forwarding",
        "proxy_arp",
        "arp_ignore",
        "drop_unicast_in_l2_multicast",
    ),
    "ipv6": ("forwarding", "disable_ipv6", "accept_source_route", "drop_unsolicited_na", "proxy_ndp"),
}
_OF_ALL: Final = (
    "ipv4/ip_nonlocal_bind",
    "ipv4/fwmark_reflect",
    "ipv4/tcp_syncookies",
    "ipv4/tcp_l3mdev_accept",
    "ipv4/udp_l3mdev_accept",
    "ipv4/raw_l3mdev_accept",
    "ipv4/icmp_echo_ignore_broadcasts",
    "ipv6/ip_nonlocal_bind",
    "ipv6/bindv6only",
    "ipv6/fwmark_reflect",
    "netfilter/nf_conntrack_tcp_loose",
    "netfilter/nf_conntrack_tcp_be_liberal",
    "netfilter/nf_conntrack_checksum",
    "bridge/bridge-nf-call-iptables",
    "bridge/bridge-nf-call-ip6tables",
)
"""Settings of the namespace, and never of the whole kernel."""


class LiveLink(msgspec.Struct, frozen=True, kw_only=True):
    """An interface. kind: as the kernel calls it; None for hardware. data: of its kind.

    link_address: of its hardware, six octets; empty where it has none such.
    """

    name: str
    index: int
    kind: str | None
    is_up: bool
    mtu: int
    group: int
    master: int | None
    link_address: bytes
    data: bytes
    is_loopback: bool
    is_ethernet: bool


class LiveNetwork(msgspec.Struct, frozen=True):
    """All of it. Addresses, routes and rules are messages of the kernel's."""

    links: tuple[LiveLink, ...]
    addresses: tuple[bytes, ...]
    routes: tuple[bytes, ...]
    rules: tuple[bytes, ...]
    settings: dict[str, str]
    left_out: tuple[str, ...] = ()


def read_live_network() -> LiveNetwork:
    """Interfaces, addresses, routes, rules and settings of this machine. Raises MachineRefused."""
    links, addresses = read_interfaces()
    with translate_errors("read the interfaces of this machine"):
        routes = [
            each
            for family in (socket.AF_INET, socket.AF_INET6)
            for each in _dump(GET_ROUTE, ROUTE.pack(family, *(0,) * 8))
        ]
        rules = [
            each
            for family in (socket.AF_INET, socket.AF_INET6)
            for each in _dump(GET_RULE, ROUTE.pack(family, *(0,) * 8))
        ]
        settings = _read_settings(each.name for each in links)
    left_out = (f"{len(routes) - MOST_ROUTES} of {len(routes)} routes",) if len(routes) > MOST_ROUTES else ()
    return LiveNetwork(links, addresses, tuple(routes[:MOST_ROUTES]), tuple(rules), settings, left_out)


def read_interfaces() -> tuple[tuple[LiveLink, ...], tuple[bytes, ...]]:
    """Interfaces, and addresses as messages, of this machine. Raises MachineRefused."""
    with translate_errors("read the interfaces of this machine"):
        links = tuple(map(parse_live_link, _dump(GET_LINK, LINK.pack(0, 0, 0, 0, 0) + _NO_STATISTICS)))
        return links, tuple(_dump(GET_ADDRESS, ADDRESS.pack(0, 0, 0, 0, 0)))


def list_addresses(links: Iterable[LiveLink], addresses: Iterable[bytes]) -> dict[str, tuple[str, ...]]:
    """This machine's addresses, with prefix lengths, by the interface at which they are."""
    names = {each.index: each.name for each in links}
    listed: dict[str, tuple[str, ...]] = {}
    for message in addresses:
        found = parse_address(message)
        if found is not None and found.index in names:
            name = names[found.index]
            listed[name] = (*listed.get(name, ()), found.text)
    return listed


def _dump(kind: int, payload: bytes) -> list[bytes]:
    return dump_raw(_ROUTE_PROTOCOL, build_request(kind, DUMP, payload))


def parse_live_link(message: bytes) -> LiveLink:
    """An interface of a dump. Raises ValueError, LookupError or struct.error for what is none."""
    _, hardware, index, flags, _ = LINK.unpack_from(message, HEADER.size)
    found = dict(parse_attributes(message[HEADER.size + LINK.size :]))
    info = dict(parse_attributes(found.get(_LINKINFO, b"")))
    kind = info.get(_INFO_KIND)
    return LiveLink(
        name=found[_NAME].rstrip(b"\0").decode(),
        index=index,
        kind=None if kind is None else kind.rstrip(b"\0").decode(),
        is_up=bool(flags & _UP),
        mtu=_read_u32(found, _MTU, 1500),
        group=_read_u32(found, _GROUP, 0),
        master=_read_u32(found, _MASTER, 0) or None,
        link_address=found.get(_ADDRESS, b"") if hardware == _ETHERNET else b"",
        data=info.get(_INFO_DATA, b""),
        is_loopback=bool(flags & _LOOPBACK),
        is_ethernet=hardware == _ETHERNET,
    )


def _read_u32(found: dict[int, bytes], kind: int, default: int) -> int:
    return int(struct.unpack("=I", found[kind])[0]) if kind in found else default


def _read_settings(interfaces: Iterable[str]) -> dict[str, str]:
    """By their path below net; those that this kernel has."""
    names = ["all", "default", *interfaces]
    paths = [
        f"{family}/conf/{name}/{setting}"
        for name in names
        for family, settings in _OF_INTERFACES.items()
        for setting in settings
    ]
    found = {}
    for path in (*paths, *_OF_ALL):
        try:
            found[path] = (SYSCTLS / path).read_text(encoding="ascii").strip()
        except FileNotFoundError:
            continue
    return found
