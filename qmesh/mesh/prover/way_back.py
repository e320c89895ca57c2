"""Whether an address is reached by the interface by which a packet came: by this machine's routes, as gates.

Source: net/ipv4/netfilter/nft_fib_ipv4.c, ipt_rpfilter.c and those of IPv6; net/core/fib_rules.c.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Final

from qmesh.mesh.foreign.kernel_rules import KernelRule
from qmesh.mesh.foreign.packet_fields import ORDER
from qmesh.mesh.prover.gates import FALSE, TRUE, Wires, make_constant
from qmesh.mesh.prover.rule_run import RuleRun
from qmesh.mesh.prover.traveller import NAME_OCTETS, PacketInterface
from qmesh.mesh.routes.detours import RoutingTables
from qmesh.mesh.routes.tables import PolicyRule, TableRoute

MOST_ROUTES: Final = 2000
"""Of a family; of more it is left open which leads where."""
_ENDS: Final = frozenset({"blackhole", "unreachable", "prohibit"})
_LINK_LOCAL: Final = [(0xFE80 << 112, (0xFEBF << 112) + (1 << 112) - 1)]
_NOBODY: Final = [(0, 0x00FFFFFF)]
_TO_ALL_HERE: Final = [(0xE0000000, 0xE00000FF), (0xFFFFFFFF, 0xFFFFFFFF)]
_DISCOVERY: Final = b"\x3a"  # ICMPv6


def asks_routes(rule: KernelRule) -> bool:
    """Whether a rule has to know the routes."""
    return any(
        each.name == "fib"
        or (each.name == "match" and each.attributes.get(1, b"").rstrip(b"\0") == b"rpfilter")
        for each in rule.expressions
    )


def leads_back(run: RuleRun, address: Wires, *, asks_mark: bool, takes_all: bool) -> int:
    """Whether a packet to that address would leave by where this one came.

    asks_mark: with the same mark. takes_all: broadcasts of IPv4 count too, as nft counts them.
    """
    at, gates, tables = run.at, run.gates, run.routes.get(run.at.family)
    if at.iif is None or tables is None or not tables.is_whole or len(tables.routes) > MOST_ROUTES:
        return run.unknowns.doubt()
    found = _Search(run, at.iif, tables, address, asks_mark=asks_mark, takes_all=takes_all).find()
    if at.family == "ip6":
        unset = gates.both(gates.equal(at.protocol, _DISCOVERY), gates.equal(at.source, bytes(16)))
        found = gates.choose(unset, run.unknowns.chance(), found)
    else:
        unset = gates.both(gates.is_within(at.source, _NOBODY), gates.is_within(at.target, _TO_ALL_HERE))
        found = gates.either(unset, found)
    looped = TRUE if at.hook == "prerouting" else run.unknowns.doubt()
    return gates.choose(at.is_looped, looped, found)


class _Search:
    """Of one address, by the rules and routes of a family."""

    def __init__(
        self,
        run: RuleRun,
        came_by: PacketInterface,
        tables: RoutingTables,
        address: Wires,
        *,
        asks_mark: bool,
        takes_all: bool,
    ) -> None:
        self._run, self._gates = run, run.gates
        self._came_by = came_by
        self._tables, self._address = tables, address
        self._mark = run.at.mark if asks_mark else make_constant(bytes(4))
        is_ip = run.at.family == "ip"
        self._kinds = {"unicast", "broadcast", "multicast", "anycast"} if is_ip and takes_all else {"unicast"}

    def find(self) -> int:
        """Whether it leads back, by the rules from the last one on: what an earlier one says counts more."""
        found, gates = FALSE, self._gates
        for rule in reversed(self._tables.rules):
            if rule.action in _ENDS:
                said = FALSE
            elif rule.action == "lookup":
                said = self._look_up(_drop_short(rule, self._tables.routes), found)
            elif rule.action == "nop":
                said = found
            else:  # it goes on elsewhere
                said = self._run.unknowns.doubt()
            found = gates.choose(self._meet(rule), said, found)
        if self._run.at.family == "ip6":
            found = gates.choose(gates.is_within(self._address, _LINK_LOCAL), self._look_up_there(), found)
        return found

    def _meet(self, rule: PolicyRule) -> int:
        """Whether a rule is for such a packet; open where it asks for more than its mark."""
        plain = PolicyRule(
            priority=rule.priority, action=rule.action, table=rule.table, mark=rule.mark, mask=rule.mask,
            suppress=rule.suppress, target=rule.target, is_inverted=rule.is_inverted,
        )  # fmt: skip
        if rule != plain:
            return self._run.unknowns.doubt()
        kept = make_constant(rule.mask.to_bytes(4, ORDER))
        asked = tuple(
            bit if is_kept == TRUE else FALSE for bit, is_kept in zip(self._mark, kept, strict=True)
        )
        is_marked = self._gates.equal(asked, rule.mark.to_bytes(4, ORDER))
        return -is_marked if rule.is_inverted else is_marked

    def _look_up(self, routes: Iterable[TableRoute], below: int) -> int:
        """The longest network with the address says; below: what is said where no route of the table does."""
        found = below
        alike: dict[tuple[int, str], list[TableRoute]] = {}
        for route in routes:
            alike.setdefault((_count_bits(route), route.network), []).append(route)
        for (_, network), of_network in sorted(alike.items()):
            best = min(each.metric for each in of_network)
            chosen = [each for each in of_network if each.metric == best]
            said = below if chosen[0].kind == "throw" else self._follow(chosen)
            found = self._gates.choose(self._is_in(network), said, found)
        return found

    def _follow(self, chosen: Sequence[TableRoute]) -> int:
        """Whether a route, or any of several alike, leads to where the packet came from."""
        route = chosen[0]
        if route.kind not in self._kinds:
            return FALSE
        if len(chosen) > 1 or route.interface is None or route.nexthop is not None:
            return self._run.unknowns.doubt()
        return self._is_by(route.interface)

    def _look_up_there(self) -> int:
        """Of a link-local address: among the routes of that interface alone, whatever the rules."""
        routes = self._tables.routes
        if any(each.nexthop is not None for each in routes):
            return self._run.unknowns.doubt()
        names = dict.fromkeys(each.interface for each in routes if each.interface is not None)
        return self._gates.any_of(
            self._gates.both(
                self._is_by(name), self._look_up([each for each in routes if each.interface == name], FALSE)
            )
            for name in names
        )

    def _is_by(self, name: str) -> int:
        octets = name.encode("utf-8", "surrogateescape")[:NAME_OCTETS].ljust(NAME_OCTETS, b"\0")
        return self._gates.equal(self._came_by.name, octets)

    def _is_in(self, network: str) -> int:
        found = ipaddress.ip_network(network)
        ends = int(found.network_address), int(found.broadcast_address)
        return self._gates.is_within(self._address, [ends])


def _drop_short(rule: PolicyRule, routes: Iterable[TableRoute]) -> list[TableRoute]:
    """A rule's table without what the rule passes over: then no shorter network has a say instead."""
    least = -1 if rule.suppress is None else rule.suppress
    found = (each for each in routes if each.table == rule.table)
    return [each for each in found if each.kind in _ENDS or _count_bits(each) > least]


def _count_bits(route: TableRoute) -> int:
    return ipaddress.ip_network(route.network).prefixlen
