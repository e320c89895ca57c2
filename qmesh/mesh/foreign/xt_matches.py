"""iptables' matches, as the kernel has them in nftables' rules and in iptables' own tables.

Each is a structure of C in native byte order. Source: linux/netfilter/xt_*.h, net/netfilter/xt_*.c.
One that is not here is not understood; so is one of another revision or size.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Final

from qmesh.mesh.foreign.lookups import Question
from qmesh.mesh.foreign.packet_fields import LEAST_MSS, PACKET_TYPES
from qmesh.mesh.foreign.packets import PROTOCOL_NUMBERS, Protocol
from qmesh.mesh.foreign.rates import MOST_CONNECTIONS, allows_rate
from qmesh.mesh.foreign.registers import compare_equal, compare_order
from qmesh.mesh.foreign.rules import Evaluation
from qmesh.mesh.foreign.values import Truth, Value, all_of, negate

_YES: Final[Truth] = True
_NO: Final[Truth] = False
Match = Callable[[Evaluation], Truth]
_Builder = Callable[[int, bytes], Match]

_STATES: Final = {"invalid": 1, "established": 2, "related": 4, "new": 8, "untracked": 256}
_OLD_STATES: Final = _STATES | {"untracked": 64}
_TYPES: Final = {"unicast": 2, "local": 4, "multicast": 32}
_ROUTED_TYPES: Final = 4 | 16 | 128 | 256
"""Of IPv6 those that the kernel asks its routes for: local, anycast, unreachable, prohibited."""
_STATE, _PROTOCOL, _ENDS, _STATUS, _DIRECTION = 1, 2, 0x3C, 64, 0x1000  # XT_CONNTRACK_*
_NOT_READ: Final = 0xF80  # XT_CONNTRACK_EXPIRES and the ports of both ends
_STATUS_BITS: Final = {(): 0, ("seen-reply",): 2 | 8, ("dnat",): 32}
_TRANSLATED_STATE: Final = 128  # XT_CONNTRACK_STATE_DNAT
_UNKNOWN_STATUS: Final = 4
_ANY_TYPE: Final = 0xFF
"""Of ICMP, not of ICMPv6. Source: linux/netfilter/ip_tables.h."""
_OTHER_PROTOCOLS: Final = (
    "sctp",
    "dccp",
    "esp",
    "ah",
    "ipcomp",
    "frag",
    "rt",
    "hbh",
    "dst",
    "eui64",
)


def build_match(name: str, revision: int, content: bytes) -> Match:
    """A match as a question. Raises struct.error for what is too short."""
    builder = _BUILDERS.get((name, revision))
    return _doubt if builder is None else builder(revision, content)


def _doubt(_: Evaluation) -> Truth:
    return None


def _answer(truth: Truth) -> _Builder:
    return lambda *_: lambda _: truth


def _build_conntrack(revision: int, content: bytes) -> Match:
    form = "=136xH8xHHBB" if revision == 1 else "=136xH8xHHHH"
    protocol, flags, inverted, states, statuses = struct.unpack_from(form, content)
    addresses = content[:128]

    def match(at: Evaluation) -> Truth:
        truths: list[Truth] = []
        if flags & _STATE:
            truths.append(negate(_has_state(at, states, _STATES), inverted & _STATE))
        if at.fields.get("ct direction", "") is None:  # no connection: nothing else holds
            return False if flags & ~(_STATE | 0x2000) else all_of(truths)
        if flags & _PROTOCOL:
            truths.append(negate(protocol == PROTOCOL_NUMBERS[at.packet.protocol], inverted & _PROTOCOL))
        if flags & _DIRECTION:
            direction = at.fields.get("ct direction")
            truths.append(
                negate(None if direction is None else direction == "original", inverted & _DIRECTION)
            )
        if flags & _STATUS:
            truths.append(negate(_has_status(at, statuses), inverted & _STATUS))
        for bit, field, is_reply, start in _ENDS_OF_TUPLES:
            if flags & bit:
                found = at.load_tuple(field, is_reply=is_reply) or b""
                truths.append(negate(_is_in_network(found, addresses[start : start + 32]), inverted & bit))
        return all_of([*truths, None] if flags & _NOT_READ else truths)

    return match


_ENDS_OF_TUPLES: Final = (
    (4, "ct saddr", False, 0), (8, "ct daddr", False, 32), (16, "ct saddr", True, 64),
    (32, "ct daddr", True, 96),
)  # fmt: skip


def _has_state(at: Evaluation, states: int, bits: Mapping[str, int]) -> Truth:
    if "ct state" not in at.fields:
        return None
    is_translated = at.fields.get("ct status") == ("dnat",)
    known = bits[str(at.fields["ct state"])] | (_TRANSLATED_STATE if is_translated else 0)
    return bool(known & states)


def _has_status(at: Evaluation, wanted: int) -> Truth:
    status = at.fields.get("ct status")
    if not isinstance(status, tuple):
        return None
    if _STATUS_BITS[status] & wanted:
        return True
    return None if wanted & _UNKNOWN_STATUS and status else False


def _is_in_network(address: bytes, network: bytes) -> bool:
    """Whether an address is in one: 16 bytes of address, 16 of mask; of IPv4 the first four."""
    pairs = zip(address, network[:16], network[16:], strict=False)
    return all((a ^ b) & mask == 0 for a, b, mask in pairs)


def _build_state(_: int, content: bytes) -> Match:
    (states,) = struct.unpack_from("=I", content)
    return lambda at: _has_state(at, states, _OLD_STATES)


def _build_address_type(_: int, content: bytes) -> Match:
    source, target, flags = struct.unpack_from("=HHI", content)

    def match(at: Evaluation) -> Truth:
        truths = []
        for wanted, field, is_inverted in (
            (source, "fib type saddr", flags & 1), (target, "fib type daddr", flags & 2),
        ):  # fmt: skip
            if wanted:
                is_meant = _has_address_type(str(at.fields[field]), wanted, at.packet.family)
                truths.append(negate(is_meant, is_inverted))
        return all_of(truths)

    return match


def _has_address_type(found: str, wanted: int, family: str) -> bool:
    """Of IPv6 every kind that is wanted must fit, and an own address is unicast too."""
    if family == "ip":
        return bool(_TYPES[found] & wanted)
    kinds = _TYPES[found] | (_TYPES["unicast"] if found == "local" else 0)
    return (
        not wanted & _TYPES["unicast"] & ~kinds
        and not wanted & _TYPES["multicast"] & ~kinds
        and (not wanted & _ROUTED_TYPES or bool(wanted & kinds & _ROUTED_TYPES))
    )


def _build_multiport(_: int, content: bytes) -> Match:
    kind, count = content[:2]
    ports = struct.unpack_from("=15H", content, 2)
    begins, is_inverted = content[32:47], content[47]
    spans = [
        (port, ports[at + 1] if begins[at] else port)
        for at, port in enumerate(ports[:count])
        if at == 0 or not begins[at - 1]
    ]

    def match(at: Evaluation) -> Truth:
        asked = {0: (at.packet.source_port,), 1: (at.packet.target_port,)}
        both = (at.packet.source_port, at.packet.target_port)
        return negate(_is_one_in(asked.get(kind, both), spans), is_inverted)

    return match


def _is_one_in(ports: tuple[int, ...], spans: list[tuple[int, int]]) -> bool:
    return any(first <= port <= last for port in ports for first, last in spans)


def _build_mark(field: str) -> _Builder:
    def build(_: int, content: bytes) -> Match:
        mark, mask, is_inverted = struct.unpack_from("=IIB", content)

        def match(at: Evaluation) -> Truth:
            if field not in at.fields:
                return None
            value = at.fields[field]
            return isinstance(value, int) and negate(value & mask == mark, is_inverted)

        return match

    return build


def _build_tcp(_: int, content: bytes) -> Match:
    *ports, option, mask, wanted, inverted = struct.unpack_from("=4H4B", content)

    def match(at: Evaluation) -> Truth:
        if at.packet.protocol != "tcp":
            return False
        flags = negate(at.packet.tcp_flags & mask == wanted, inverted & 4)
        return all_of([*_match_ports(at, ports, inverted), flags, *([None] if option else [])])

    return match


def _build_udp(_: int, content: bytes) -> Match:
    *ports, inverted = struct.unpack_from("=4HB", content)
    return lambda at: at.packet.protocol == "udp" and all_of(_match_ports(at, ports, inverted))


def _match_ports(at: Evaluation, ports: list[int], inverted: int) -> list[Truth]:
    first, last, first_target, last_target = ports
    return [
        negate(first <= at.packet.source_port <= last, inverted & 1),
        negate(first_target <= at.packet.target_port <= last_target, inverted & 2),
    ]


def _ask_limit(at: Evaluation, per_second: float, *, in_bytes: bool = False) -> Truth:
    within = allows_rate(at.packet, per_second, in_bytes=in_bytes)
    at.asked_limit |= within is None
    return within


def _build_limit(_: int, content: bytes) -> Match:
    (interval,) = struct.unpack_from("=I", content)  # in 1/10,000 s
    return lambda at: _ask_limit(at, 10_000 / max(1, interval))


def _build_hashlimit(revision: int, content: bytes) -> Match:
    if revision == 1:
        mode, interval, scale = *struct.unpack_from("=16xII", content), 10_000
    else:
        interval, mode, scale = *struct.unpack_from("=256xQ8xI", content), 1_000_000
    in_bytes = bool(mode & 0x20)  # XT_HASHLIMIT_BYTES: then it counts 16 bytes
    per_second = 16 * interval if in_bytes else scale / max(1, interval)
    return lambda at: negate(_ask_limit(at, per_second, in_bytes=in_bytes), mode & 0x10)


def _build_connection_limit(_: int, content: bytes) -> Match:
    limit, flags = struct.unpack_from("=16xII", content)

    def match(at: Evaluation) -> Truth:
        within: Truth = True if limit >= MOST_CONNECTIONS else None
        at.asked_limit |= within is None
        return negate(within, not flags & 1)  # without the flag it asks for more than the limit

    return match


def _build_recent(_: int, content: bytes) -> Match:
    """A list of addresses that were seen. It matches by being asked to remember; else by what it has."""
    seconds, hits, what, inverted = struct.unpack_from("=IIBB", content)
    name, of_target = content[10:210].rstrip(b"\0").split(b"\0")[0], content[210]
    text = name.decode("utf-8", "surrogateescape")

    def match(at: Evaluation) -> Truth:
        if what & 2:  # XT_RECENT_SET
            return negate(_YES, inverted)
        if hits > 1:
            return negate(negate(_ask_limit(at, hits / max(1, seconds))), inverted)
        address = at.packet.packed_target if of_target else at.packet.packed_source
        is_known, element = at.lookups.find_element(Question("recent", "", text, address))
        return negate(element is not None, inverted) if is_known else None

    return match


def _build_ipset(_: int, content: bytes) -> Match:
    """A set of `ipset`, asked by its number. Its key says how many ends, which are sources, and the ends."""
    index, dimension, flags = struct.unpack_from("=HBB", content)

    def match(at: Evaluation) -> Truth:
        packet = at.packet
        key = struct.pack("!BBHH", dimension, flags & 0x0E, packet.source_port, packet.target_port)
        key += bytes([PROTOCOL_NUMBERS[packet.protocol]]) + packet.packed_source + packet.packed_target
        is_known, element = at.lookups.find_element(Question("ipset", packet.interface, str(index), key))
        return negate(element is not None, flags & 1) if is_known else None

    return match


def _build_owner(_: int, content: bytes) -> Match:
    *spans, flags, inverted = struct.unpack_from("=4IBB", content)

    def match(at: Evaluation) -> Truth:
        if at.packet.iif:
            return None
        if at.fields.get("meta skuid", "") is None:  # no process has its socket
            return not flags & ~inverted & 3
        truths: list[Truth] = [None] if flags & 4 else []
        for bit, field, (first, last) in ((1, "meta skuid", spans[:2]), (2, "meta skgid", spans[2:])):
            if flags & bit:
                found: Value | None = at.fields.get(field)
                truths.append(
                    negate(first <= found <= last, inverted & bit) if isinstance(found, int) else None
                )
        return all_of(truths)

    return match


def _build_packet_type(_: int, content: bytes) -> Match:
    kind, is_inverted = struct.unpack_from("=ii", content)
    return lambda at: negate(kind == PACKET_TYPES[str(at.fields["meta pkttype"])], is_inverted)


def _build_range(_: int, content: bytes) -> Match:
    first, last, first_target, last_target = (content[start : start + 16] for start in range(0, 64, 16))
    flags = content[64]

    def match(at: Evaluation) -> Truth:
        source, target = at.packet.packed_source, at.packet.packed_target
        return all_of(
            [
                not flags & 1 or negate(_is_between(source, first, last), flags & 0x10),
                not flags & 2 or negate(_is_between(target, first_target, last_target), flags & 0x20),
            ]
        )

    return match


def _is_between(address: bytes, first: bytes, last: bytes) -> bool:
    return first[: len(address)] <= address <= last[: len(address)]


def _build_icmp(protocol: Protocol) -> _Builder:
    def build(_: int, content: bytes) -> Match:
        kind, first_code, last_code, inverted = content[:4]
        is_any = protocol == "icmp" and kind == _ANY_TYPE

        def match(at: Evaluation) -> Truth:
            packet = at.packet
            is_meant = is_any or (packet.icmp_type == kind and first_code <= packet.icmp_code <= last_code)
            return packet.protocol == protocol and negate(is_meant, inverted & 1)

        return match

    return build


def _build_hops(_: int, content: bytes) -> Match:
    """A header's TTL or hop limit. Source: linux/netfilter_ipv6/ip6t_hl.h: is, is not, less, greater."""
    mode, wanted = content[:2]

    def match(at: Evaluation) -> Truth:
        is_ipv6 = at.packet.family == "ip6"
        found = at.headers[0].take(7 if is_ipv6 else 8, 1)
        less, greater = compare_order(found, bytes([wanted]))
        is_same = compare_equal(found, bytes([wanted]))
        return (is_same, negate(is_same), less, greater)[mode]

    return match


def _build_reverse_path(_: int, content: bytes) -> Match:
    """The mesh's packets come by the interface that leads to their source: by it they were thought up."""
    return lambda _: negate(_YES, content[0] & 8)


def _build_policy(_: int, content: bytes) -> Match:
    """IPsec's policies. The mesh has none."""
    (flags,) = struct.unpack_from("=H", content, 4 * (len(content) // 4 - 1))
    return lambda _: bool(flags & 4)  # XT_POLICY_MATCH_NONE


def _build_bridge_port(_: int, content: bytes) -> Match:
    """Of packets that no bridge has passed on; whether the interface has one is not asked."""
    return lambda _: None if content[64] else False


def _build_segment_size(_: int, content: bytes) -> Match:
    first, last, is_inverted = struct.unpack_from("=HHB", content)

    def match(at: Evaluation) -> Truth:
        if at.packet.protocol != "tcp" or not at.packet.opens:
            return negate(_NO, is_inverted) if at.packet.protocol == "tcp" else False
        most = 2 * LEAST_MSS - 1
        truth: Truth = True if first <= LEAST_MSS and last >= most else None
        truth = False if last < LEAST_MSS or first > most else truth
        return negate(truth, is_inverted)

    return match


_BUILDERS: Final[Mapping[tuple[str, int], _Builder]] = {
    **{("conntrack", revision): _build_conntrack for revision in (1, 2, 3)},
    **{("hashlimit", revision): _build_hashlimit for revision in (1, 2, 3)},
    **{("set", revision): _build_ipset for revision in (1, 2, 3, 4)},
    ("state", 0): _build_state, ("addrtype", 1): _build_address_type, ("multiport", 1): _build_multiport,
    ("mark", 1): _build_mark("meta mark"), ("connmark", 1): _build_mark("ct mark"),
    ("tcp", 0): _build_tcp, ("udp", 0): _build_udp, ("comment", 0): _answer(_YES), ("limit", 0): _build_limit,
    ("connlimit", 1): _build_connection_limit, ("recent", 0): _build_recent, ("recent", 1): _build_recent,
    ("owner", 1): _build_owner, ("pkttype", 0): _build_packet_type, ("iprange", 1): _build_range,
    ("rpfilter", 0): _build_reverse_path, ("policy", 0): _build_policy, ("physdev", 0): _build_bridge_port,
    ("tcpmss", 0): _build_segment_size, ("hl", 0): _build_hops, ("ttl", 0): _build_hops,
    ("icmp6", 0): _build_icmp("icmpv6"), ("icmp", 0): _build_icmp("icmp"),
    **{(name, revision): _answer(_NO) for name in _OTHER_PROTOCOLS for revision in (0, 1)},
}  # fmt: skip
