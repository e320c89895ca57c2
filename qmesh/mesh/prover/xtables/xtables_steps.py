"""iptables' matches and targets, for all packets at once. Source: linux/netfilter/xt_*.h, net/netfilter."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from qmesh.mesh.prover.gates import FALSE, TRUE, Wires
from qmesh.mesh.prover.rule_run import RuleRun
from qmesh.mesh.prover.traveller import SOURCE_NAT, TARGET_NAT
from qmesh.mesh.prover.xtables.xtables_facts import (
    match_address_type,
    match_option,
    match_owner,
    match_reverse_path,
    match_routing_header,
    match_segment_size,
)
from qmesh.mesh.prover.xtables.xtables_fields import (
    match_address_ranges,
    match_connection_mark,
    match_hops,
    match_icmp,
    match_mark,
    match_packet_type,
    set_connection_mark,
    set_mark,
    untrack_always,
)
from qmesh.mesh.prover.xtables.xtables_translations import redirect, translate_ipv4_target, translate_target

_Match: TypeAlias = Callable[[RuleRun, bytes], int]
_STATES: Final = {"invalid": 1, "established": 2, "related": 4, "new": 8, "untracked": 64}
_NEW_STATES: Final = _STATES | {"untracked": 256}
_ONLY_STATE: Final = 1 | 0x2000  # XT_CONNTRACK_STATE, _STATE_ALIAS
_TRANSLATED: Final = (64, 128)  # XT_CONNTRACK_STATE_SNAT, _DNAT
_HARMLESS_TARGETS: Final = frozenset(
    {"LOG", "NFLOG", "ULOG", "TRACE", "CLASSIFY", "CHECKSUM", "AUDIT", "LED", "IDLETIMER", "RATEEST",
     "SECMARK", "CONNSECMARK"}
)  # fmt: skip
_OF_OPTIONS: Final = frozenset({"TCPMSS", "TCPOPTSTRIP"})
_OF_HEADERS: Final = frozenset({"TOS", "DSCP", "TTL", "HL"})
_TRANSLATIONS: Final = frozenset({"DNAT", "SNAT", "MASQUERADE", "REDIRECT", "NETMAP"})


def run_match(run: RuleRun, name: str, revision: int, content: bytes) -> int:
    """Which packets it means; a doubt where it is not known. Raises struct.error for what is too short."""
    if name == "socket":  # it may restore the socket's mark
        run.change_mark(run.unknowns.doubt_bits(32))
    match = _MATCHES.get((name, revision))
    return run.unknowns.doubt() if match is None else match(run, content)


def run_target(run: RuleRun, name: str, revision: int, content: bytes) -> None:
    """What becomes of the packets that come so far."""
    known = _TARGETS.get((name, revision))
    if known is None or not known(run, content):
        _run_other_target(run, name)


def _run_other_target(run: RuleRun, name: str) -> None:
    if name in {"REJECT", "DROP"}:
        run.end("drop")
    elif name in _TRANSLATIONS:
        run.translate()
    elif name in {"MARK", "CONNMARK", "SET"}:  # a set may have marks
        run.change_mark(run.unknowns.doubt_bits(32))
        run.change_connection_mark(run.unknowns.doubt_bits(32))
    elif name in _OF_OPTIONS:
        run.at.are_options_its_own = False
    elif name == "ECN":
        run.change_headers()  # also TCP's flags
    elif name in _OF_HEADERS:
        run.change_service_fields()
    elif name == "NOTRACK":
        run.untrack()
    elif name == "CT":
        run.untrack(run.unknowns.doubt())
        run.add_template()
    elif name not in _HARMLESS_TARGETS:
        run.give_up()


def _match_all(_: RuleRun, __: bytes) -> int:
    return TRUE


def _match_chance(run: RuleRun, _: bytes) -> int:
    return run.unknowns.chance()


def _match_ports(run: RuleRun, ports: list[int], inverted: int) -> int:
    first, last, first_target, last_target = ports
    at, gates = run.at, run.gates
    source, target = (
        _is_in_span(run, at.source_port, first, last),
        _is_in_span(run, at.target_port, first_target, last_target),
    )
    return gates.all_of(
        (-source if inverted & 1 else source, -target if inverted & 2 else target, -at.is_piece)
    )


def _is_in_span(run: RuleRun, port: Wires, first: int, last: int) -> int:
    return run.gates.is_within(port, [(first, last)]) if first <= last else FALSE


def _match_tcp(run: RuleRun, content: bytes) -> int:
    *ports, option, mask, wanted, inverted = struct.unpack_from("=4H4B", content)
    at, gates = run.at, run.gates
    asked = ((bit, at.flag(7 - bit)) for bit in range(8) if mask >> bit & 1)
    flags = gates.all_of(wire if wanted >> bit & 1 else -wire for bit, wire in asked)
    if wanted & ~mask:
        flags = FALSE
    return gates.all_of(
        (
            at.is_tcp,
            _match_ports(run, ports, inverted),
            -flags if inverted & 4 else flags,
            match_option(run, option, is_inverted=bool(inverted & 8)) if option else TRUE,
        )
    )


def _match_udp(run: RuleRun, content: bytes) -> int:
    *ports, inverted = struct.unpack_from("=4HB", content)
    return run.gates.both(run.at.is_udp, _match_ports(run, ports, inverted))


def _match_multiport(run: RuleRun, content: bytes) -> int:
    kind, count = content[:2]
    ports = struct.unpack_from("=15H", content, 2)
    begins, is_inverted = content[32:47], content[47]
    spans = [
        (port, ports[place + 1] if begins[place] else port)
        for place, port in enumerate(ports[:count])
        if place == 0 or not begins[place - 1]
    ]
    at, gates = run.at, run.gates
    asked = {0: (at.source_port,), 1: (at.target_port,)}.get(kind, (at.source_port, at.target_port))
    found = gates.any_of(_is_in_span(run, port, *span) for port in asked for span in spans)
    return gates.both(-found if is_inverted else found, -at.is_piece)


def _match_states(run: RuleRun, wanted: int, bits: Mapping[str, int]) -> int:
    at, gates, has = run.at, run.gates, run.at.connection
    if at.phase != "after conntrack":
        return run.unknowns.doubt()
    inside = at.is_in_connection
    found = {
        "invalid": gates.both(-at.untracked, -has.is_tracked), "untracked": at.untracked,
        "established": gates.both(inside, has.is_established),
        "related": gates.both(inside, has.is_related), "new": at.is_new,
    }  # fmt: skip
    return gates.any_of(wire for name, wire in found.items() if wanted & bits[name])


def _match_conntrack(run: RuleRun, content: bytes) -> int:
    flags, inverted, states = struct.unpack_from("=HHH", content, 146)
    at, gates = run.at, run.gates
    if flags & ~_ONLY_STATE or (states & sum(_TRANSLATED) and at.phase != "after conntrack"):
        return run.unknowns.doubt()
    found = _match_states(run, states, _NEW_STATES) if flags & 1 else TRUE
    for bit, weight in zip(_TRANSLATED, (SOURCE_NAT, TARGET_NAT), strict=True):
        if states & bit:
            found = gates.either(found, gates.both(at.is_in_connection, at.connection.status[weight]))
    return -found if inverted & 1 else found


def _match_state(run: RuleRun, content: bytes) -> int:
    (states,) = struct.unpack_from("=I", content)
    return _match_states(run, states, _STATES)


_TARGETS: Final[Mapping[tuple[str, int], Callable[[RuleRun, bytes], bool]]] = {
    ("MARK", 2): set_mark, ("CONNMARK", 2): set_connection_mark, ("CT", 1): untrack_always,
    ("CT", 2): untrack_always, ("DNAT", 0): translate_ipv4_target, ("DNAT", 1): translate_target,
    ("DNAT", 2): translate_target, ("REDIRECT", 0): redirect,
}  # fmt: skip
_MATCHES: Final[Mapping[tuple[str, int], _Match]] = {
    ("comment", 0): _match_all, ("tcp", 0): _match_tcp, ("udp", 0): _match_udp,
    ("multiport", 1): _match_multiport, ("conntrack", 3): _match_conntrack, ("state", 0): _match_state,
    ("addrtype", 1): match_address_type, ("owner", 1): match_owner, ("rt", 0): match_routing_header,
    ("tcpmss", 0): match_segment_size, ("rpfilter", 0): match_reverse_path,
    ("mark", 1): match_mark, ("connmark", 1): match_connection_mark,
    ("icmp", 0): match_icmp, ("icmp6", 0): match_icmp, ("ttl", 0): match_hops, ("hl", 0): match_hops,
    ("pkttype", 0): match_packet_type, ("iprange", 1): match_address_ranges,
    **{(name, revision): _match_chance
       for name in ("limit", "hashlimit", "connlimit", "recent", "statistic", "quota", "time")
       for revision in range(5)},
}  # fmt: skip
