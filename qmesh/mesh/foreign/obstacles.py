"""Other firewalls' rules that drop the mesh's packets, and the command of that firewall that fixes it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, TypeAlias

import msgspec

from qmesh.mesh.foreign.lookups import Lookups
from qmesh.mesh.foreign.packets import ADVERTISEMENT, SOLICITATION, Packet, Traffic, may_send_on
from qmesh.mesh.foreign.rules import Table, Translation
from qmesh.mesh.foreign.walk import Budget, Drop, walk_rulesets
from qmesh.mesh.values import format_port_ranges

Firewall: TypeAlias = Literal["ufw", "firewalld", "fail2ban", "nft", "iptables"]

_WORD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
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


_UFW_FILES: Final = "add it to ufw's files /etc/ufw/*.rules too, or a reload removes it"
_ICMP: Final = {"icmp": "ICMP", "icmpv6": "ICMPv6"}
_TYPES: Final = {SOLICITATION: "nd-neighbor-solicit", ADVERTISEMENT: "nd-neighbor-advert"}
"""Of ICMPv6, in nft's words. Both are let pass where one is dropped: a machine asks and answers."""
_FIREWALLD_ERRORS: Final = {"ipv4": "fragmentation-needed", "ipv6": "packet-too-big"}
_FIREWALLD_TYPES: Final = ("neighbour-solicitation", "neighbour-advertisement")


_ERRORS: Final = {"icmp": "destination-unreachable", "icmpv6": "packet-too-big"}
"""In nft's words: what routers say of packets that are too large."""


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
                _build_fix(drop, packet, lasting),
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
        cure=_build_port_fix(drop, packet)
        if listens_here
        else f"start what has to answer at {where}, as a container's worker; or delete this rule",
        is_certain=True,
    )


def _describe_chain(drop: Drop) -> str:
    table = drop.table
    by = "" if table.program == "nft" else f" of {_iptables_command(table)}"
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
        ports = {_server_port(each) for each in packets if each.protocol == protocol}
        parts.append(f"{protocol.upper()} port {format_port_ranges(tuple(sorted(ports)))}")
    return f"{_ONE_WAY[first.traffic]} {first.interface}: {', '.join(parts)}"


def _server_port(packet: Packet) -> int:
    """The port that the packet is about: of whom is asked, or WireGuard's own."""
    if packet.traffic.startswith("wireguard"):
        return packet.target_port if packet.iif else packet.source_port
    return packet.source_port if packet.is_reply else packet.target_port


def identify_firewall(drop: Drop) -> Firewall:
    """Whose table it is, by the names of its table and chains."""
    table = drop.table
    text = "" if drop.rule is None else drop.rule.text
    if "f2b-" in f"{table.name} {drop.chain} {text}":
        return "fail2ban"
    if any(chain.startswith(("ufw-", "ufw6-")) for chain in table.chains):
        return "ufw"
    if table.name.startswith("firewalld") or "INPUT_ZONES" in table.chains:
        return "firewalld"
    return "nft" if table.program == "nft" else "iptables"


def _build_fix(drop: Drop, packet: Packet, lasting: str | None) -> str:
    if may_send_on(packet) and _translates_targets(drop):
        fix = _build_port_fix(drop, packet)
        return f"nothing, if a container has the worker; if it runs on this machine itself: `{fix}`"
    match identify_firewall(drop):
        case "fail2ban":
            return f"fail2ban-client unban {packet.remote}"
        case "ufw":
            return _build_ufw_fix(drop, packet)
        case "firewalld":
            return _build_firewalld_fix(drop, packet)
        case "nft":
            return _build_nft_fix(drop, packet, lasting)
    return _build_iptables_fix(drop, packet)


def _translates_targets(drop: Drop) -> bool:
    """Whether a rule may send packets elsewhere, for all that is known of it."""
    base = drop.table.chains.get(drop.visited[0] if drop.visited else drop.chain)
    return base is not None and base.kind == "nat" and not drop.is_certain


def _build_port_fix(drop: Drop, packet: Packet) -> str:
    """Of one worker's port alone: what else is published there stays so."""
    port, interface = packet.target_port, shlex.quote(packet.interface)
    way = "-i" if packet.iif else "-o"
    if drop.table.program != "nft":
        table = "" if drop.table.name == "filter" else f" -t {drop.table.name}"
        insert = f"{_iptables_command(drop.table)}{table} -I {_quote(drop.chain)}"
        return f"{insert} {way} {interface} -p {packet.protocol} --dport {port} -j ACCEPT"
    names = (drop.table.family, drop.table.name, drop.chain)
    if not all(map(_WORD.fullmatch, names)):
        return "nft -a list ruleset  # then delete that rule by its handle"
    match = f"{'iifname' if packet.iif else 'oifname'} {interface} {packet.protocol} dport {port}"
    return f"nft insert rule {names[0]} {names[1]} {names[2]} {match} accept"


def _build_ufw_fix(drop: Drop, packet: Packet) -> str:
    if drop.rule is not None and not drop.chain.startswith(
        ("ufw-user", "ufw6-user", "ufw-reject", "ufw-skip")
    ):
        fix = _build_iptables_fix(drop, packet)
        return f"{fix}  # {_UFW_FILES}"
    if packet.protocol in _ICMP:  # of which ufw's own command knows nothing
        return f"{_build_iptables_fix(drop, packet)}  # {_UFW_FILES}"
    ufw = "ufw" if drop.rule is None else "ufw prepend"
    port = _server_port(packet)
    match packet.traffic:
        case "wireguard in":
            return f"{ufw} allow {port}/udp"
        case "wireguard out":
            return f"{ufw} allow out on {shlex.quote(packet.oif)} to any port {packet.target_port} proto udp"
    return f"{ufw} allow {'in' if packet.iif else 'out'} on {shlex.quote(packet.interface)}"


def _build_firewalld_fix(drop: Drop, packet: Packet) -> str:
    if drop.table.name == "firewalld_policy_drop":
        return "firewall-cmd --panic-off"
    if packet.traffic == "tunnel in":
        change = f"--zone=trusted --change-interface={shlex.quote(packet.iif)}"
    elif packet.traffic == "wireguard in":
        allow = f"--add-port={packet.target_port}/udp"
        if drop.chain.endswith(("_deny", "_pre")):
            rule = f'rule priority="-32768" port port="{packet.target_port}" protocol="udp" accept'
            allow = f"--add-rich-rule='{rule}'"
        change = f"--zone={shlex.quote(_find_zone(drop))} {allow}"
    elif packet.traffic in {"discovery in", "path errors in"}:
        family = "ipv4" if packet.family == "ip" else "ipv6"
        rule = f'rule family="{family}" priority="-32768" icmp-type name="{{}}" accept'
        names = (_FIREWALLD_ERRORS[family],) if packet.is_path_error else _FIREWALLD_TYPES
        rules = " ".join(f"--add-rich-rule={shlex.quote(rule.format(each))}" for each in names)
        change = f"--zone={shlex.quote(_find_zone(drop))} {rules}"
    else:
        return "firewall-cmd --list-all-policies  # then remove the rule that drops them"
    return f"firewall-cmd --permanent {change} && firewall-cmd --reload"


def _find_zone(drop: Drop) -> str:
    """The zone by which the packet came in: that of the first chain of one."""
    for chain in drop.visited:
        for beginning in ("filter_IN_", "IN_"):
            zone = chain.removeprefix(beginning)
            if zone != chain and not zone.startswith("policy_"):
                return zone.removesuffix("_to_HOST")  # firewalld 2.5 has one for each pair
    return "public"


def _build_nft_fix(drop: Drop, packet: Packet, lasting: str | None) -> str:
    names = (drop.table.family, drop.table.name, drop.chain)
    if any(map(_is_no_text, names)):
        return "nft -a list ruleset  # then delete that rule by its handle"
    if not all(map(_WORD.fullmatch, names)):
        return f"nft -j {shlex.quote(_build_json_insert(names, packet))}"
    table = f"{drop.table.family} {drop.table.name}"
    insert = f"nft insert rule {table} {drop.chain} {_render_nft_match(packet)} accept"
    is_lasting = lasting is not None and f"table {table}" in " ".join(lasting.split())
    return f"{insert}  # add it to /etc/nftables.conf too, or a reload removes it" if is_lasting else insert


def _build_json_insert(names: tuple[str, str, str], packet: Packet) -> str:
    """The same where a name is none that nft's own language has a way to write."""
    family, table, chain = names
    left: dict[str, object]
    right: int | str | dict[str, object]
    match packet.traffic:
        case "wireguard in":
            left, right = {"payload": {"protocol": "udp", "field": "dport"}}, packet.target_port
        case "wireguard out":
            left, right = {"payload": {"protocol": "udp", "field": "sport"}}, packet.source_port
        case "discovery in" | "discovery out":
            left, right = {"payload": {"protocol": "icmpv6", "field": "type"}}, {"set": list(_TYPES.values())}
        case "path errors in":
            left = {"payload": {"protocol": packet.protocol, "field": "type"}}
            right = _ERRORS[packet.protocol]
        case _:
            left, right = {"meta": {"key": "iifname" if packet.iif else "oifname"}}, packet.interface
    asked = {"match": {"op": "==", "left": left, "right": right}}
    rule = {"family": family, "table": table, "chain": chain, "expr": [asked, {"accept": None}]}
    return json.dumps({"nftables": [{"insert": {"rule": rule}}]})


def _render_nft_match(packet: Packet) -> str:
    """The packets, in nft's words."""
    match packet.traffic:
        case "wireguard in":
            return f"udp dport {packet.target_port}"
        case "wireguard out":
            return f"udp sport {packet.source_port}"
        case "discovery in" | "discovery out":
            return f"icmpv6 type '{{ {', '.join(_TYPES.values())} }}'"
        case "path errors in":
            return f"{packet.protocol} type {_ERRORS[packet.protocol]}"
    return f"{'iifname' if packet.iif else 'oifname'} {shlex.quote(packet.interface)}"


def _build_iptables_fix(drop: Drop, packet: Packet) -> str:
    match packet.traffic:
        case "wireguard in":
            asked = f"-p udp --dport {packet.target_port}"
        case "wireguard out":
            asked = f"-p udp --sport {packet.source_port}"
        case _:
            asked = f"{'-i' if packet.iif else '-o'} {shlex.quote(packet.interface)}"
    table = "" if drop.table.name == "filter" else f" -t {drop.table.name}"
    insert = f"{_iptables_command(drop.table)}{table} -I {_quote(drop.chain)}"
    if packet.is_path_error:
        kind = "-p icmp --icmp-type fragmentation-needed"
        if packet.family == "ip6":
            kind = "-p icmpv6 --icmpv6-type packet-too-big"
        return f"{insert} {kind} -j ACCEPT"
    if packet.protocol == "icmpv6":
        return " && ".join(f"{insert} -p icmpv6 --icmpv6-type {each} -j ACCEPT" for each in _TYPES)
    return f"{insert} {asked} -j ACCEPT"


def _is_no_text(name: str) -> bool:
    """Whether a name is not UTF-8."""
    return any("\ud800" <= letter <= "\udfff" for letter in name)


def _quote(name: str) -> str:
    """A name as a word of the shell's."""
    if not _is_no_text(name):
        return shlex.quote(name)
    octal = "".join(f"\\{octet:03o}" for octet in name.encode("utf-8", "surrogateescape"))
    return f"\"$(printf '{octal}')\""


def _iptables_command(table: Table) -> str:
    names = {"iptables": "iptables", "iptables-legacy": "iptables-legacy"}
    name = names.get(table.program, "iptables")
    return name.replace("iptables", "ip6tables") if table.family == "ip6" else name
