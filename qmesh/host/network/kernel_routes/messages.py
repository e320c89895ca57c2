"""Routes, policy rules and questions for a route, as octets. Source: linux/rtnetlink.h, fib_rules.h.

A control node asks for thousands of addresses.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from struct import Struct
from typing import Final

import msgspec

from qmesh.host.network.netlink_messages import (
    ACK,
    DUMP,
    HEADER,
    build_attribute,
    build_request,
)
from qmesh.mesh.foreign.attributes import parse_attributes
from qmesh.mesh.networks import IPNetwork
from qmesh.mesh.routes.tables import Action, PolicyRule, RouteKind

UNICAST, LOCAL_TYPE = 1, 2
"""Types of routes, RTN_*."""

KINDS: Final[dict[int, RouteKind]] = {
    1: "unicast",
    2: "local",
    3: "broadcast",
    4: "anycast",
    5: "multicast",
    6: "blackhole",
    7: "unreachable",
    8: "prohibit",
    9: "throw",
}
"""RTN_* by their words in ip(8)."""
KERNEL_PROTOCOL: Final = 2
"""Who made the route: RTPROT_KERNEL."""

_NEW_ROUTE, _DELETE_ROUTE, _GET_ROUTE, _GET_RULE = 24, 25, 26, 34  # RTM_*
_CREATE = 0x400  # NLM_F_CREATE
_ROUTE: Final = Struct("=BBBBBBBBI")  # family, lengths, tos, table, protocol, scope, type, flags
_RULE: Final = _ROUTE  # fib_rule_hdr has the same places: the last are action and flags
_ROUTE_PAYLOAD: Final = HEADER.size + _ROUTE.size
_U32: Final = Struct("=I")
_S32: Final = Struct("=i")
_U16: Final = Struct("=H")
_RANGE: Final = Struct("=II")
_PORTS: Final = Struct("=HH")
_ERROR: Final = 2  # NLMSG_ERROR
_NEXTHOP: Final = 30  # RTA_NH_ID
_TO, _INCOMING, _OIF, _GATEWAY, _PRIORITY, _SOURCE_HINT, _MULTIPATH = 1, 3, 4, 5, 6, 7, 9  # RTA_*
_FROM, _TABLE, _VIA, _UID, _IP_PROTOCOL, _DPORT = 2, 15, 18, 25, 27, 29
_METRICS, _CACHE, _METRIC_MTU = 8, 12, 2  # RTA_METRICS, RTA_CACHEINFO, RTAX_MTU
_EXPIRES: Final = Struct("=8xi")  # of struct rta_cacheinfo: what routers said expires, as nothing else does
_HOP: Final = Struct("=HBBi")  # struct rtnexthop
_LOOKUP_TABLE: Final = 0x1000  # RTM_F_LOOKUP_TABLE: tell the table that had the route
_WITHOUT_CARRIER: Final = 0x1 | 0x10  # RTNH_F_DEAD, _LINKDOWN
_NOT_IN_FORCE: Final = 0x200 | 0x1  # RTM_F_CLONED, RTNH_F_DEAD
_LINK_SCOPE, _HOST_SCOPE, _ANY_SCOPE = 253, 254, 255
_ACTIONS: Final[dict[int, Action]] = {
    1: "lookup",
    2: "goto",
    3: "nop",
    6: "blackhole",
    7: "unreachable",
    8: "prohibit",
}
"""FR_ACT_* by their words in ip(8)."""
_INVERT: Final = 0x2  # FIB_RULE_INVERT
_RULE_TO, _RULE_FROM, _IIF, _TARGET, _RULE_PRIORITY, _MARK, _TUNNEL = 1, 2, 3, 4, 6, 10, 12  # FRA_*
_SUPPRESS, _RULE_TABLE, _MASK, _RULE_OIF, _L3MDEV, _USERS = 14, 15, 16, 17, 19, 20
_RULE_PROTOCOL, _RULE_SPORTS, _RULE_DPORTS = 22, 23, 24
_NO_SUPPRESS: Final = 0xFFFFFFFF
_LENGTHS: Final = {socket.AF_INET: 32, socket.AF_INET6: 128}


class FoundRoute(msgspec.Struct, frozen=True, gc=False):
    """A route as the kernel has it, or its answer to a question.

    network: where it leads. kind: one of RTN_*. index: of the interface; None without one, and of several
    hops the first's. gateway: a router's address, of either family. source: preferred; None for any.
    nexthop: the number of the object that says how it leads there; None without one.
    """

    family: int
    network: str
    table: int
    kind: int
    metric: int
    index: int | None
    gateway: str | None
    source: str | None
    protocol: int = 0
    nexthop: int | None = None


class FoundAnswer(msgspec.Struct, frozen=True, gc=False):
    """The kernel's answer to a question. error: an errno; 0 where there is a way, else as `FoundRoute`."""

    error: int
    kind: int = 0
    table: int = 0
    index: int | None = None
    source: str | None = None


class FoundWay(msgspec.Struct, frozen=True, gc=False):
    """How packets to an address leave this machine.

    gateway: a router's address of the same family; None without one. is_routed: whether there is one of any.
    mtu: what the route's administrator set; None where nobody did.
    """

    family: int
    index: int
    source: str | None
    gateway: str | None
    is_routed: bool
    mtu: int | None


def build_routes_request(family: int, table: int = 0, index: int | None = None) -> bytes:
    """Ask for the routes of a table (0: of all), of an interface alone where that is named.

    The socket must have NETLINK_GET_STRICT_CHK, or the kernel leaves table and interface out of account.
    """
    wanted = build_attribute(_TABLE, _U32.pack(table)) if table else b""
    if index is not None:
        wanted += build_attribute(_OIF, _U32.pack(index))
    return build_request(_GET_ROUTE, DUMP, _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0) + wanted)


def build_rules_request(family: int) -> bytes:
    """Ask for the policy rules."""
    return build_request(_GET_RULE, DUMP, _RULE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))


def build_question(number: int, destination: str, source: str | None, uid: int, port: int | None) -> bytes:
    """Ask which way a packet of a socket would go that is bound to no interface and has no mark.

    number: of the message, by which its answer is known. uid: of the socket's owner. port: of TCP at the
    destination; None leaves the protocol open.
    """
    # Thousands are asked for: `ipaddress` would take most of the time.
    family = socket.AF_INET6 if ":" in destination else socket.AF_INET
    bits = _LENGTHS[family]
    # Of IPv6 the kernel tells the table anyway, and refuses the flag where it checks strictly.
    flags = _LOOKUP_TABLE if family == socket.AF_INET else 0
    payload = _ROUTE.pack(
        family, bits, 0 if source is None else bits, 0, 0, 0, 0, 0, flags
    ) + build_attribute(_TO, socket.inet_pton(family, destination))
    if source is not None:
        payload += build_attribute(_FROM, socket.inet_pton(family, source))
    payload += build_attribute(_UID, _U32.pack(uid))
    if port is not None:
        payload += build_attribute(_IP_PROTOCOL, bytes([socket.IPPROTO_TCP]))
        payload += build_attribute(_DPORT, port.to_bytes(2, "big"))
    return build_request(_GET_ROUTE, 0, payload, sequence=number)


def build_way_request(destination: str, index: int | None = None) -> bytes:
    """Ask which way packets to an address go; by one interface, where that is named."""
    to = ipaddress.ip_address(destination)
    family = socket.AF_INET if to.version == 4 else socket.AF_INET6
    payload = _ROUTE.pack(family, to.max_prefixlen, 0, 0, 0, 0, 0, 0, 0) + build_attribute(_TO, to.packed)
    if index is not None:
        payload += build_attribute(_OIF, _U32.pack(index))
    return build_request(_GET_ROUTE, ACK, payload)


def build_arrival_request(source: str, destination: str, index: int) -> bytes:
    """Ask what becomes of a packet of IPv4 that comes by an interface."""
    by, to = ipaddress.IPv4Address(source), ipaddress.IPv4Address(destination)
    payload = _ROUTE.pack(socket.AF_INET, to.max_prefixlen, by.max_prefixlen, 0, 0, 0, 0, 0, 0)
    payload += build_attribute(_TO, to.packed) + build_attribute(_FROM, by.packed)
    return build_request(_GET_ROUTE, ACK, payload + build_attribute(_INCOMING, _U32.pack(index)))


def build_route_change(route: FoundRoute, *, add: bool) -> bytes:
    """Add a route beside what there is, before others of its metric; or delete this one."""
    to = ipaddress.ip_network(route.network)
    scope = _choose_scope(route, to.version) if add else _ANY_SCOPE
    payload = _ROUTE.pack(
        route.family, to.prefixlen, 0, 0, 0, KERNEL_PROTOCOL if add else 0, scope, route.kind, 0
    )
    payload += build_attribute(_TO, to.network_address.packed)
    payload += build_attribute(_TABLE, _U32.pack(route.table))
    if route.index is not None:
        payload += build_attribute(_OIF, _U32.pack(route.index))
    if route.metric:
        payload += build_attribute(_PRIORITY, _U32.pack(route.metric))
    if route.source is not None:
        payload += build_attribute(_SOURCE_HINT, ipaddress.ip_address(route.source).packed)
    if route.gateway is not None:
        by = ipaddress.ip_address(route.gateway)
        family = socket.AF_INET if by.version == 4 else socket.AF_INET6
        is_same = family == route.family
        payload += build_attribute(
            _GATEWAY if is_same else _VIA, by.packed if is_same else _U16.pack(family) + by.packed
        )
    return build_request(_NEW_ROUTE if add else _DELETE_ROUTE, ACK | (_CREATE if add else 0), payload)


def _choose_scope(route: FoundRoute, version: int) -> int:
    if version == 6 or route.gateway is not None:
        return 0
    return _HOST_SCOPE if route.kind == LOCAL_TYPE else _LINK_SCOPE


def parse_route(message: bytes) -> FoundRoute | None:
    """A route of a dump; None for one that usual packets do not take: cached, of a dead link, for some TOS.

    Raises ValueError where that is cut short.
    """
    try:
        family, length, _, tos, table, protocol, _, kind, flags = _ROUTE.unpack_from(message, HEADER.size)
        if family not in _LENGTHS or tos or flags & _NOT_IN_FORCE:
            return None
        found = dict(parse_attributes(message[_ROUTE_PAYLOAD:]))
        index, gateway = _read_hop(found)
        return FoundRoute(
            family=family,
            network=_format_network(family, found.get(_TO, b""), length),
            table=_read_u32(found, _TABLE, table),
            kind=kind,
            metric=_read_u32(found, _PRIORITY, 0),
            index=index,
            gateway=gateway,
            source=None if _SOURCE_HINT not in found else str(ipaddress.ip_address(found[_SOURCE_HINT])),
            protocol=protocol,
            nexthop=_read_u32(found, _NEXTHOP, 0) or None,
        )
    except (LookupError, struct.error):
        raise ValueError("this is no route") from None


def parse_way(message: bytes) -> FoundWay:
    """The answer to `build_way_request`. Raises ValueError where that is cut short."""
    try:
        family, *_ = _ROUTE.unpack_from(message, HEADER.size)
        found = dict(parse_attributes(message[_ROUTE_PAYLOAD:]))
        gateway = found.get(_GATEWAY)
        is_learnt = any(_EXPIRES.unpack_from(found[_CACHE])) if _CACHE in found else False
        mtu = _read_u32(dict(parse_attributes(found.get(_METRICS, b""))), _METRIC_MTU, 0)
        return FoundWay(
            family=family,
            index=_U32.unpack(found[_OIF])[0],
            source=None if _SOURCE_HINT not in found else str(ipaddress.ip_address(found[_SOURCE_HINT])),
            gateway=None if gateway is None else str(ipaddress.ip_address(gateway)),
            is_routed=gateway is not None or _VIA in found,
            mtu=None if is_learnt else mtu or None,
        )
    except (LookupError, struct.error):
        raise ValueError("this is no answer about a route") from None


def is_plain_route(message: bytes) -> bool:
    """Whether `parse_route` tells all of a route. Raises as it does."""
    try:
        _, _, source, tos, _, _, _, _, flags = _ROUTE.unpack_from(message, HEADER.size)
        hops = dict(parse_attributes(message[_ROUTE_PAYLOAD:])).get(_MULTIPATH)
        return not (
            source or tos or flags & _WITHOUT_CARRIER or (hops and len(hops) > _HOP.unpack_from(hops)[0])
        )
    except struct.error:
        raise ValueError("this is no route") from None


def overlaps(message: bytes, network: IPNetwork) -> bool:
    """Whether a route of a dump and a network have addresses in common. Raises as `parse_route` does."""
    try:
        family, length, *_ = _ROUTE.unpack_from(message, HEADER.size)
        bits = _LENGTHS.get(family, 0)
        to = next((value for kind, value in parse_attributes(message[_ROUTE_PAYLOAD:]) if kind == _TO), b"")
    except struct.error:
        raise ValueError("this is no route") from None
    if bits != network.max_prefixlen or length > bits:
        return False
    beyond = bits - min(length, network.prefixlen)
    return bool((int.from_bytes(to, "big") ^ int(network.network_address)) >> beyond == 0)


def parse_answer(kind: int, message: bytes) -> tuple[int, FoundAnswer]:
    """The number of a question, and its answer. kind: of the message.

    Raises ValueError where that is cut short.
    """
    try:
        _, _, _, number, _ = HEADER.unpack_from(message)
        if kind == _ERROR:
            return number, FoundAnswer(-_S32.unpack_from(message, HEADER.size)[0])
        found = dict(parse_attributes(message[_ROUTE_PAYLOAD:]))
        family, _, _, _, table, _, _, type_, _ = _ROUTE.unpack_from(message, HEADER.size)
        index, _ = _read_hop(found)
        source = found.get(_SOURCE_HINT)
        return number, FoundAnswer(
            error=0,
            kind=type_,
            table=_read_u32(found, _TABLE, table),
            index=index,
            source=None if source is None else socket.inet_ntop(family, source),
        )
    except (struct.error, OSError):
        raise ValueError("this is no answer about a route") from None


def parse_rule(message: bytes) -> PolicyRule | None:
    """A policy rule of a dump; None for one of another kind. Raises ValueError where it is cut short."""
    try:
        family, to, by, tos, table, _, _, action, flags = _RULE.unpack_from(message, HEADER.size)
        if family not in _LENGTHS or action not in _ACTIONS:
            return None
        found = dict(parse_attributes(message[_ROUTE_PAYLOAD:]))
        suppress = _read_u32(found, _SUPPRESS, _NO_SUPPRESS)
        return PolicyRule(
            priority=_read_u32(found, _RULE_PRIORITY, 0),
            action=_ACTIONS[action],
            table=_read_u32(found, _RULE_TABLE, table),
            source=_format_network(family, found[_RULE_FROM], by) if _RULE_FROM in found else None,
            destination=_format_network(family, found[_RULE_TO], to) if _RULE_TO in found else None,
            mark=_read_u32(found, _MARK, 0),
            mask=_read_u32(found, _MASK, 0),
            incoming=_decode_name(found, _IIF),
            outgoing=_decode_name(found, _RULE_OIF),
            users=_RANGE.unpack(found[_USERS]) if _USERS in found else None,
            protocol=found[_RULE_PROTOCOL][0] if found.get(_RULE_PROTOCOL) else 0,
            ports=_PORTS.unpack(found[_RULE_DPORTS]) if _RULE_DPORTS in found else None,
            source_ports=_PORTS.unpack(found[_RULE_SPORTS]) if _RULE_SPORTS in found else None,
            is_other=bool(tos) or any(found.get(each, b"").strip(b"\0") for each in (_L3MDEV, _TUNNEL)),
            is_inverted=bool(flags & _INVERT),
            suppress=None if suppress == _NO_SUPPRESS else suppress,
            target=_read_u32(found, _TARGET, 0),
        )
    except struct.error:
        raise ValueError("this is no rule") from None


def _read_u32(found: dict[int, bytes], kind: int, otherwise: int) -> int:
    return int(_U32.unpack(found[kind])[0]) if kind in found else otherwise


def _decode_name(found: dict[int, bytes], kind: int) -> str | None:
    return found[kind].rstrip(b"\0").decode("utf-8", "replace") if kind in found else None


def _read_hop(found: dict[int, bytes]) -> tuple[int | None, str | None]:
    if _MULTIPATH in found:
        hops = found[_MULTIPATH]
        size, _, _, index = _HOP.unpack_from(hops)
        found = {_OIF: _U32.pack(index), **dict(parse_attributes(hops[_HOP.size : size]))}
    index = _U32.unpack(found[_OIF])[0] if _OIF in found else None
    if _GATEWAY in found:
        return index, str(ipaddress.ip_address(found[_GATEWAY]))
    # Of the other family: that comes first.
    return index, str(ipaddress.ip_address(found[_VIA][_U16.size :])) if _VIA in found else None


def _format_network(family: int, address: bytes, length: int) -> str:
    """Raises ValueError for a length that this family does not have.

    A rule may have more bits than its length: the kernel leaves them out of account.
    """
    octets = address or bytes(_LENGTHS[socket.AddressFamily(family)] // 8)
    return str(ipaddress.ip_network((octets, length), strict=False))
