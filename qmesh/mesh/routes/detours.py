"""Packets for members that do not go into the tunnel: what sends them elsewhere, and the command."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from qmesh.mesh.routes.lookup import RouteLookup, RouteVerdict, SentPacket, is_rule_met
from qmesh.mesh.routes.tables import (
    LOCAL,
    MAIN,
    PolicyRule,
    TableRoute,
    describe_rule,
    describe_table_route,
    name_table,
)

MOST_NAMED: Final = 3
_MAIN_PRIORITY: Final = 32766
"""Of the rule for the main table that the kernel starts with."""


class RouteAnswer(msgspec.Struct, frozen=True):
    """The kernel's word on a packet's way.

    error: why there is none, in words; None where there is one. interface: where it leaves, or arrives where
    `is_local`. source: the address that it has. table: None where it is not told.
    """

    error: str | None = None
    interface: str | None = None
    is_local: bool = False
    source: str | None = None
    table: int | None = None


class SentProbe(msgspec.Struct, frozen=True):
    """A packet to a member that the kernel was asked about, and its answer."""

    machine: str
    packet: SentPacket
    answer: RouteAnswer


class RoutingTables(msgspec.Struct, frozen=True):
    """What of a machine's routing concerns the tunnel's network.

    rules: of its family, in order. routes: of all tables, those that overlap with the network.
    addresses: own ones in it, `10.77.4.1/24`, with their interfaces, but for the tunnel's.
    is_whole: whether each route is here with all that it says: none is for some packets alone, or has several
        hops.
    """

    rules: tuple[PolicyRule, ...] = ()
    routes: tuple[TableRoute, ...] = ()
    addresses: tuple[tuple[str, str], ...] = ()
    is_whole: bool = True


class Detour(msgspec.Struct, frozen=True):
    """Packets for members that do not go into the tunnel, all for one reason.

    machines: to whom, in order. address: of the first. reason, cure: in words; the cure is a command.
    route: what sends them elsewhere, where it is a route.
    """

    machines: tuple[str, ...]
    address: str
    reason: str
    cure: str
    route: TableRoute | None = None


class TunnelPlace(msgspec.Struct, frozen=True):
    """Where the tunnel is: its interface, its network, and this machine's address in it."""

    interface: str
    network: str
    address: str


def is_answer_right(answer: RouteAnswer, packet: SentPacket, tunnel: TunnelPlace) -> bool:
    """Whether a packet goes into the tunnel, as one that the other end accepts.

    One for this machine's own address has to stay here: where it does not, nothing that comes arrives.
    """
    if packet.destination == tunnel.address:
        return answer.is_local
    if answer.error is not None or answer.is_local or answer.interface != tunnel.interface:
        return False
    return packet.source is not None or answer.source in {None, tunnel.address}


def group_detours(
    probes: Iterable[SentProbe], tables: RoutingTables | None, tunnel: TunnelPlace
) -> tuple[Detour, ...]:
    """The detours of packets whose answers are not right, those of one reason as one.

    tables: None where they could not be looked through.
    """
    found: dict[tuple[str, TableRoute | None], tuple[str, list[SentProbe]]] = {}
    lookup = None if tables is None else RouteLookup(tables.rules, tables.routes)
    for probe in probes:
        verdict = None if lookup is None else lookup.find_verdict(probe.packet)
        reason, cure, route = _explain(probe.packet, probe.answer, verdict, tables, tunnel)
        found.setdefault((reason, route), (cure, []))[1].append(probe)
    return tuple(
        Detour(
            machines=tuple(dict.fromkeys(each.machine for each in alike)),
            address=alike[0].packet.destination,
            reason=reason,
            cure=cure,
            route=route,
        )
        for (reason, route), (cure, alike) in found.items()
    )


def find_expected_detour(
    machines: Mapping[str, str], tables: RoutingTables, tunnel: TunnelPlace
) -> Detour | None:
    """The first detour that there would be once the tunnel were up; None without one.

    machines: addresses by name.
    """
    # Its route is added behind what is there already.
    own = build_own_route(tunnel)
    with_tunnel = (*(each for each in tables.routes if each.interface != tunnel.interface), own)
    tables = msgspec.structs.replace(tables, routes=with_tunnel)
    lookup = RouteLookup(tables.rules, with_tunnel)
    for machine, address in machines.items():
        for source in (None, tunnel.address):
            packet = SentPacket(address, source)
            verdict = lookup.find_verdict(packet)
            if verdict.route is not own:
                answer = _expect_answer(verdict)
                return Detour((machine,), address, *_explain(packet, answer, verdict, tables, tunnel))
    return None


def build_own_route(tunnel: TunnelPlace) -> TableRoute:
    """The route that comes with the tunnel's address."""
    metric = 256 if ":" in tunnel.network else 0
    return TableRoute(network=tunnel.network, interface=tunnel.interface, metric=metric, is_kernels=True)


def describe_machines(machines: Sequence[str]) -> str:
    """`a, b, c and 5 more`."""
    named = ", ".join(machines[:MOST_NAMED])
    return named if len(machines) <= MOST_NAMED else f"{named} and {len(machines) - MOST_NAMED} more"


def _expect_answer(verdict: RouteVerdict) -> RouteAnswer:
    route = verdict.route
    if route is None or not verdict.is_sent:
        return RouteAnswer(error="no way")
    return RouteAnswer(
        interface=route.interface,
        is_local=route.kind == "local",
        table=route.table,
    )


def _explain(
    packet: SentPacket,
    answer: RouteAnswer,
    verdict: RouteVerdict | None,
    tables: RoutingTables | None,
    tunnel: TunnelPlace,
) -> tuple[str, str, TableRoute | None]:
    """Why a packet does not go into the tunnel, the command, and the route that says so."""
    if packet.destination == tunnel.address:
        return _explain_own(verdict, tunnel)
    family, outcome = _family_option(tunnel), _describe_answer(answer, tunnel)
    if tables is None or verdict is None or not _is_agreed(verdict, answer):
        reason = f"the kernel says: {outcome}"
        cure = (
            f"`ip{family} route get {packet.destination}` and `ip{family} rule` show why; remove what sends"
            " these packets elsewhere"
        )
        return reason, cure, None
    rule, route = verdict.rule, verdict.route
    if rule is None:
        reason = f"no rule leads to a route for them ({outcome})"
        return reason, f"ip{family} rule add lookup main priority {_MAIN_PRIORITY}", None
    where = "" if route is None else f"the route `{describe_table_route(route)}`"
    if route is not None and route.table in {MAIN, LOCAL}:
        reason = f"{outcome}, by {where} of table {name_table(route.table)}"
        return reason, remove_route_command(route, tables, tunnel), route
    said = f"rule {rule.priority} (`{describe_rule(rule)}`)"
    if route is not None:
        said += f" and {where}"
    return f"{outcome}, by {said}", _precede(verdict, tables.rules, packet, tunnel), route


def _explain_own(verdict: RouteVerdict | None, tunnel: TunnelPlace) -> tuple[str, str, TableRoute | None]:
    first = (
        "no rule leads to it"
        if verdict is None or verdict.rule is None
        else f"rule {verdict.rule.priority} (`{describe_rule(verdict.rule)}`) comes before it"
    )
    reason = f"what comes for this machine is not taken in: the local table says what is, and {first}"
    return reason, f"ip{_family_option(tunnel)} rule add lookup local priority 0", None


def _is_agreed(verdict: RouteVerdict, answer: RouteAnswer) -> bool:
    if answer.error is not None:
        return not verdict.is_sent
    if not verdict.is_sent or verdict.route is None:
        return False
    same = {MAIN if table == LOCAL else table for table in (answer.table, verdict.route.table)}
    return answer.table is None or len(same) == 1


def _describe_answer(answer: RouteAnswer, tunnel: TunnelPlace) -> str:
    if answer.error is not None:
        return f"they are not sent: {answer.error}"
    if answer.is_local:
        return "they stay on this machine, as if the address were its own"
    if answer.interface != tunnel.interface:
        return f"they leave by {answer.interface or 'another interface'}"
    return f"they have {answer.source} as source, which the other end drops"


def _precede(
    verdict: RouteVerdict, rules: Sequence[PolicyRule], packet: SentPacket, tunnel: TunnelPlace
) -> str:
    """A rule before the one that is in the way; removing that would take from others what is theirs."""
    family, rule = _family_option(tunnel), verdict.rule
    assert rule is not None, "something is in the way"
    # One that jumps would jump over ours.
    jumps = (each.priority for each in rules if each.action == "goto" and is_rule_met(each, packet))
    priority = min((rule.priority, *jumps)) - 1
    if priority > 0:
        return f"ip{family} rule add to {tunnel.network} lookup main priority {priority}"
    if verdict.route is not None:
        return _delete(verdict.route, tunnel)
    return f"ip{family} rule delete {describe_rule(rule)} priority {rule.priority}"


def remove_route_command(route: TableRoute, tables: RoutingTables, tunnel: TunnelPlace) -> str:
    """The command that ends a route of the main or the local table."""
    if route.interface == tunnel.interface:
        return "qmesh apply"
    family = _family_option(tunnel)
    for address, interface in tables.addresses:
        own = ipaddress.ip_interface(address)
        networks = {str(own.network), str(ipaddress.ip_network(own.ip))}
        if route.is_kernels and interface == route.interface and route.network in networks:
            return f"ip{family} address delete {address} dev {interface}"
    return _delete(route, tunnel)


def _delete(route: TableRoute, tunnel: TunnelPlace) -> str:
    table = "" if route.table == MAIN else f" table {name_table(route.table)}"
    return f"ip{_family_option(tunnel)} route delete {describe_table_route(route)}{table}"


def _family_option(tunnel: TunnelPlace) -> str:
    return " -6" if ":" in tunnel.network else ""
