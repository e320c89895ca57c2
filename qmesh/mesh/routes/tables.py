"""Policy rules and routes as the kernel has them. Source: ip-rule(8), ip-route(8)."""

from __future__ import annotations

import ipaddress
from typing import Final, Literal, TypeAlias

import msgspec

Action: TypeAlias = Literal["lookup", "goto", "nop", "blackhole", "unreachable", "prohibit"]
RouteKind: TypeAlias = Literal[
    "unicast", "local", "broadcast", "anycast", "multicast", "blackhole", "unreachable", "prohibit", "throw"
]

MAIN, LOCAL = 254, 255
"""Numbers of tables."""
_TABLE_NAMES: Final = {253: "default", MAIN: "main", LOCAL: "local"}


class PolicyRule(msgspec.Struct, frozen=True, kw_only=True):
    """A policy rule. What is None or 0 is not asked of a packet.

    source, destination: networks. mark, mask: of a packet's mark. incoming, outgoing: interfaces; `lo` is
        where packets of this machine's own come from.
    users: first and last user of the socket. ports, source_ports: first and last.
    is_other: whether it has a condition that no packet of a usual socket meets.
    target: the rule to go on at. suppress: routes of prefixes up to this length are passed over.
    """

    priority: int
    action: Action
    table: int = 0
    source: str | None = None
    destination: str | None = None
    mark: int = 0
    mask: int = 0
    incoming: str | None = None
    outgoing: str | None = None
    users: tuple[int, int] | None = None
    protocol: int = 0
    ports: tuple[int, int] | None = None
    source_ports: tuple[int, int] | None = None
    is_other: bool = False
    is_inverted: bool = False
    suppress: int | None = None
    target: int = 0


class TableRoute(msgspec.Struct, frozen=True, kw_only=True):
    """A route of a table.

    network: where it leads. interface: None where it leads nowhere. gateway: a router's address.
    is_kernels: whether the kernel made it, for an address. metric: the lowest of a network counts.
    nexthop: the number of the object that says how it leads there; None without one.
    """

    network: str
    kind: RouteKind = "unicast"
    table: int = MAIN
    interface: str | None = None
    gateway: str | None = None
    metric: int = 0
    is_kernels: bool = False
    nexthop: int | None = None


def name_table(number: int) -> str:
    """`main`, or the number."""
    return _TABLE_NAMES.get(number, str(number))


def describe_rule(rule: PolicyRule) -> str:
    """A rule as ip(8) writes it: `from all to 10.0.0.0/8 lookup 52`."""
    words = ["not"] if rule.is_inverted else []
    words += ["from", rule.source or "all"]
    if rule.destination is not None:
        words += ["to", rule.destination]
    if rule.mark or rule.mask:
        mask = "" if rule.mask == 0xFFFFFFFF else f"/{rule.mask:#x}"
        words += ["fwmark", f"{rule.mark:#x}{mask}"]
    for name, value in (("iif", rule.incoming), ("oif", rule.outgoing)):
        words += [] if value is None else [name, value]
    for name, span in (("uidrange", rule.users), ("sport", rule.source_ports), ("dport", rule.ports)):
        words += [] if span is None else [name, f"{span[0]}-{span[1]}"]
    if rule.protocol:
        words += ["ipproto", str(rule.protocol)]
    if rule.action == "lookup":
        words += ["lookup", name_table(rule.table)]
    elif rule.action == "goto":
        words += ["goto", str(rule.target)]
    else:
        words.append(rule.action)
    if rule.suppress is not None:
        words += ["suppress_prefixlength", str(rule.suppress)]
    return " ".join(words)


def describe_table_route(route: TableRoute) -> str:
    """A route as ip(8) takes it, but for its table: `10.0.0.0/8 via 10.0.0.1 dev eth0`."""
    network = ipaddress.ip_network(route.network)
    words: list[str] = [] if route.kind == "unicast" else [route.kind]
    words.append(route.network if network.prefixlen else "default")
    if route.nexthop is not None:
        words = [words[-1], "nhid", str(route.nexthop)]
    elif route.gateway is not None:
        version = ipaddress.ip_address(route.gateway).version
        words += ["via", *(() if version == network.version else ("inet6",)), route.gateway]
    if route.interface is not None and route.nexthop is None:
        words += ["dev", route.interface]
    if route.metric:
        words += ["metric", str(route.metric)]
    return " ".join(words)
