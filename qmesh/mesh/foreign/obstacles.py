"""Other firewalls' rules that drop the mesh's packets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from qmesh.mesh.foreign.firewall_fixes import (
    build_fix,
    build_port_fix,
    find_server_port,
    name_iptables_command,
)
from qmesh.mesh.foreign.lookups import Lookups
from qmesh.mesh.foreign.packets import Packet, Traffic
from qmesh.mesh.foreign.rules import Table, Translation
from qmesh.mesh.foreign.walk import Budget, Drop, walk_rulesets
from qmesh.mesh.ports.port_ranges import format_port_ranges

_ONE_WAY: Final[dict[Traffic, str]] = {
    "wireguard in": "WireGuard's packets come in via",
    "wireguard out": "WireGuard's packets go out via",
    "discovery in": "IPv6 neighbour discovery, without which no packet goes there, comes in via",
    "discovery out": "IPv6 neighbour discovery, without which no packet goes there, goes out via",
    "tunnel in": "the mesh's packets come in via",
    "tunnel out": "the mesh's packets go out via",
    "loopback": "this machine's packets reach its own workers via",
    "path errors in": "what routers say of packets that are too large comes in via",
}
_ICMP: Final = {"icmp": "ICMP", "icmpv6": "ICMPv6"}


class Obstacle(msgspec.Struct, frozen=True, kw_only=True):
    """A rule or policy of another program that drops the mesh's packets, or might.

    place: table and chain. seen: the rule. wanted: the packets. cure: a shell command.
    is_certain: False where the rule could not be understood.
    """

    place: str
    seen: str
    wanted: str
    cure: str
    is_certain: bool


def find_obstacles(
    tables: Iterable[Table],
    packets: Iterable[Packet],
    lasting: str | None = None,
    *,
    lookups: Lookups | None = None,
    interfaces: Mapping[str, int] | None = None,
) -> tuple[Obstacle, ...]:
    """Each obstacle once, with all packets that it drops: as of `judge_packets`."""
    return judge_packets(tables, packets, lasting, lookups=lookups, interfaces=interfaces)[0]


def judge_packets(
    tables: Iterable[Table],
    packets: Iterable[Packet],
    lasting: str | None = None,
    *,
    lookups: Lookups | None = None,
    interfaces: Mapping[str, int] | None = None,
) -> tuple[tuple[Obstacle, ...], tuple[Translation, ...]]:
    """Each obstacle once, with all packets that it drops; and where connections are sent on to.

    packets: of a connection the first before the others, which go where that has gone.
    lasting: text of /etc/nftables.conf, None without one. lookups: what is known of sets; it then has the
    questions that are open. interfaces: numbers by name.
    """
    tables = tuple(tables)
    found: dict[tuple[str, str, str, bool], list[Packet]] = {}
    translations: dict[Packet, Translation] = {}
    budget = Budget()
    for packet in packets:
        if packet.first_of_connection in translations:
            continue
        drops, translation = walk_rulesets(
            tables, packet, budget=budget, lookups=lookups, interfaces=interfaces
        )
        if translation is not None:
            translations[packet] = translation
        for drop in drops:
            key = (
                _describe_chain(drop),
                _describe_rule(drop),
                build_fix(drop, packet, lasting),
                drop.is_certain,
            )
            found.setdefault(key, []).append(packet)
    obstacles = tuple(
        Obstacle(place=place, seen=seen, wanted=describe_packets(taken), cure=cure, is_certain=is_certain)
        for (place, seen, cure, is_certain), taken in found.items()
    )
    return obstacles, tuple(translations.values())


def build_forwarded_packet(translation: Translation, interface: str) -> Packet:
    """The packet as it goes on, by an interface that leads to its new target."""
    return msgspec.structs.replace(
        translation.packet, oif=interface, target=translation.address, target_port=translation.port
    )


def build_translation_obstacle(translation: Translation, *, listens_here: bool) -> Obstacle:
    """Of a rule that sends a worker's calls to where nothing answers.

    listens_here: whether the worker listens on this machine itself.
    """
    packet = translation.packet
    drop = Drop(table=translation.table, chain=translation.chain, rule=translation.rule, is_certain=True)
    where = f"{translation.address} port {translation.port}"
    return Obstacle(
        place=_describe_chain(drop),
        seen=f"{_describe_rule(drop)} sends them on to {where}, where nothing answers",
        wanted=describe_packets((packet,)),
        cure=build_port_fix(drop, packet)
        if listens_here
        else f"start what has to answer at {where}, as a container's worker; or delete this rule",
        is_certain=True,
    )


def _describe_chain(drop: Drop) -> str:
    table = drop.table
    by = "" if table.program == "nft" else f" of {name_iptables_command(table)}"
    return f"table {table.family} {_show(table.name)} chain {_show(drop.chain)}{by}"


def _show(name: str) -> str:
    """A name, with what of it is not UTF-8 escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _describe_rule(drop: Drop) -> str:
    doubt = "" if drop.is_certain else "beyond a limit: " if drop.is_limit else "not understood: "
    if drop.rule is None:
        return f"{doubt}policy drop"
    handle = "" if drop.rule.handle is None else f" (handle {drop.rule.handle})"
    return f"{doubt}{drop.rule.text}{handle}"


def describe_packets(packets: Sequence[Packet]) -> str:
    """Whose packets, by which interface, and the ports that they are about."""
    first = packets[0]
    protocols = sorted({packet.protocol for packet in packets})
    parts = []
    for protocol in protocols:
        if protocol in _ICMP:
            types = sorted({each.icmp_type for each in packets if each.protocol == protocol})
            parts.append(f"{_ICMP[protocol]} type {', '.join(map(str, types))}")
            continue
        ports = {find_server_port(each) for each in packets if each.protocol == protocol}
        parts.append(f"{protocol.upper()} port {format_port_ranges(tuple(sorted(ports)))}")
    return f"{_ONE_WAY[first.traffic]} {first.interface}: {', '.join(parts)}"
