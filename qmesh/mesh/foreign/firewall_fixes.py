"""The command of a firewall that lets a packet of the mesh pass which a rule of it drops."""

from __future__ import annotations

import json
import re
import shlex
from typing import Final, Literal, TypeAlias

from qmesh.mesh.foreign.packets import ADVERTISEMENT, SOLICITATION, Packet, may_send_on
from qmesh.mesh.foreign.rules import Table
from qmesh.mesh.foreign.walk import Drop

Firewall: TypeAlias = Literal["ufw", "firewalld", "fail2ban", "nft", "iptables"]

_WORD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_UFW_FILES: Final = "add it to ufw's files /etc/ufw/*.rules too, or a reload removes it"
_TYPES: Final = {SOLICITATION: "nd-neighbor-solicit", ADVERTISEMENT: "nd-neighbor-advert"}
"""Of ICMPv6, in nft's words. Both are let pass where one is dropped: a machine asks and answers."""
_FIREWALLD_TYPES: Final = ("neighbour-solicitation", "neighbour-advertisement")
_FIREWALLD_ERRORS: Final = {"ipv4": "fragmentation-needed", "ipv6": "packet-too-big"}
_ERRORS: Final = {"icmp": "destination-unreachable", "icmpv6": "packet-too-big"}
"""In nft's words: what routers say of packets that are too large."""


def find_server_port(packet: Packet) -> int:
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


def build_fix(drop: Drop, packet: Packet, lasting: str | None) -> str:
    """A shell command that lets the packet pass. lasting: text of /etc/nftables.conf, None without one."""
    if may_send_on(packet) and _translates_targets(drop):
        fix = build_port_fix(drop, packet)
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


def build_port_fix(drop: Drop, packet: Packet) -> str:
    """Of one worker's port alone: what else is published there stays so."""
    port, interface = packet.target_port, shlex.quote(packet.interface)
    way = "-i" if packet.iif else "-o"
    if drop.table.program != "nft":
        table = "" if drop.table.name == "filter" else f" -t {drop.table.name}"
        insert = f"{name_iptables_command(drop.table)}{table} -I {_quote(drop.chain)}"
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
    if packet.protocol in {"icmp", "icmpv6"}:  # of which ufw's own command knows nothing
        return f"{_build_iptables_fix(drop, packet)}  # {_UFW_FILES}"
    ufw = "ufw" if drop.rule is None else "ufw prepend"
    port = find_server_port(packet)
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
    insert = f"{name_iptables_command(drop.table)}{table} -I {_quote(drop.chain)}"
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


def name_iptables_command(table: Table) -> str:
    """The program that speaks to that table."""
    name = "iptables-legacy" if table.program == "iptables-legacy" else "iptables"
    return name.replace("iptables", "ip6tables") if table.family == "ip6" else name
