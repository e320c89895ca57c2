"""Routes, policy rules and questions for a route, as octets. Source: linux/rtnetlink.h, fib_rules.h.

pyroute2 makes an object of each attribute; a control node asks for thousands of addresses.
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
    parse_attributes,
)

MAIN, LOCAL = 254, 255
"""Numbers of tables. Source: linux/rtnetlink.h, RT_TABLE_*."""
UNICAST, LOCAL_TYPE = 1, 2
"""Types of routes, RTN_*."""

_NEW_ROUTE, _DELETE_ROUTE, _GET_ROUTE, _GET_RULE = 24, 25, 26, 34  # RTM_*
_CREATE = 0x400  # NLM_F_CREATE
_ROUTE: Final = Struct("=BBBBBBBBI")  # family, lengths, tos, table, protocol, scope, type, flags
_RULE: Final = _ROUTE  # fib_rule_hdr has the same places: the last are action and flags
_U32: Final = Struct("=I")
_U16: Final = Struct("=H")
_TO, _OIF, _GATEWAY, _PRIORITY, _SOURCE_HINT, _MULTIPATH = 1, 4, 5, 6, 7, 9  # RTA_*
_FROM, _TABLE, _VIA, _UID, _IP_PROTOCOL, _DPORT = 2, 15, 18, 25, 27, 29
_HOP: Final = Struct("=HBBi")  # struct rtnexthop
_LOOKUP_TABLE: Final = 0x1000  # RTM_F_LOOKUP_TABLE: tell the table that had the route
_CLONED: Final = 0x200  # RTM_F_CLONED: of the kernel's own making, in no table
_KERNEL_PROTOCOL, _LINK_SCOPE, _HOST_SCOPE, _ANY_SCOPE = 2, 253, 254, 255
_LENGTHS: Final = {socket.AF_INET: 32, socket.AF_INET6: 128}


class FoundRoute(msgspec.Struct, frozen=True, gc=False):
    """A route as the kernel has it, or its answer to a question.

    network: where it leads. kind: one of RTN_*. index: of the interface; None without one, and of several
    hops the first's. gateway: a router's address, of either family. source: preferred; None for any.
    """

    family: int
    network: str
    table: int
    kind: int
    metric: int
    index: int | None
    gateway: str | None
    source: str | None


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
    to = ipaddress.ip_address(destination)
    family = socket.AF_INET if to.version == 4 else socket.AF_INET6
    payload = _ROUTE.pack(
        family, to.max_prefixlen, 0 if source is None else to.max_prefixlen, 0, 0, 0, 0, 0, _LOOKUP_TABLE
    ) + build_attribute(_TO, to.packed)
    if source is not None:
        payload += build_attribute(_FROM, ipaddress.ip_address(source).packed)
    payload += build_attribute(_UID, _U32.pack(uid))
    if port is not None:
        payload += build_attribute(_IP_PROTOCOL, bytes([socket.IPPROTO_TCP]))
        payload += build_attribute(_DPORT, port.to_bytes(2, "big"))
    return HEADER.pack(HEADER.size + len(payload), _GET_ROUTE, 1, number, 0) + payload


def build_route_change(route: FoundRoute, *, add: bool) -> bytes:
    """Add a route beside what there is, before others of its metric; or delete this one."""
    to = ipaddress.ip_network(route.network)
    scope = _choose_scope(route, to.version) if add else _ANY_SCOPE
    payload = _ROUTE.pack(
        route.family, to.prefixlen, 0, 0, 0, _KERNEL_PROTOCOL if add else 0, scope, route.kind, 0
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
    """A route of a dump, or an answer to a question; None for what is in no table (a cached one).

    Raises ValueError where that is cut short.
    """
    try:
        family, length, _, _, table, _, _, kind, flags = _ROUTE.unpack_from(message, HEADER.size)
        if family not in _LENGTHS:
            return None
        found = _attribute_values(message, HEADER.size + _ROUTE.size)
        if flags & _CLONED and _TO not in found:
            return None
        index, gateway = _read_hop(found)
        return FoundRoute(
            family=family,
            network=_format_network(family, found.get(_TO, b""), length),
            table=_U32.unpack(found[_TABLE])[0] if _TABLE in found else table,
            kind=kind,
            metric=_U32.unpack(found[_PRIORITY])[0] if _PRIORITY in found else 0,
            index=index,
            gateway=gateway,
            source=None if _SOURCE_HINT not in found else str(ipaddress.ip_address(found[_SOURCE_HINT])),
        )
    except (LookupError, struct.error):
        raise ValueError("this is no route") from None


def _read_hop(found: dict[int, bytes]) -> tuple[int | None, str | None]:
    if _MULTIPATH in found:
        hops = found[_MULTIPATH]
        size, _, _, index = _HOP.unpack_from(hops)
        found = {_OIF: _U32.pack(index), **_attribute_values(hops[:size], _HOP.size)}
    index = _U32.unpack(found[_OIF])[0] if _OIF in found else None
    if _GATEWAY in found:
        return index, str(ipaddress.ip_address(found[_GATEWAY]))
    # Of the other family: that comes first.
    return index, str(ipaddress.ip_address(found[_VIA][_U16.size :])) if _VIA in found else None


def _format_network(family: int, address: bytes, length: int) -> str:
    """Raises ValueError for a length that this family does not have."""
    octets = address or bytes(_LENGTHS[socket.AddressFamily(family)] // 8)
    return str(ipaddress.ip_network((octets, length)))


def _attribute_values(message: bytes, start: int) -> dict[int, bytes]:
    return {
        kind: message[first:last] for kind, (first, last) in parse_attributes(message, start, len(message))
    }
