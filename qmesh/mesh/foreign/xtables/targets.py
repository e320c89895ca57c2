"""iptables' targets: what becomes of a packet. Source: linux/netfilter/xt_*.h."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol

from qmesh.mesh.foreign.packet_queues import judge_queues, read_queue_target
from qmesh.mesh.foreign.packets import may_send_on
from qmesh.mesh.foreign.rules import Ending, Evaluation


class Target(Protocol):
    """A target, to be asked. is_certain: whether the rule surely means the packet."""

    def __call__(self, at: Evaluation, /, *, is_certain: bool) -> Ending: ...


_ENDINGS: Final[Mapping[str, Ending]] = {
    "REJECT": "drop", "DROP": "drop", "MASQUERADE": "accept",
    **dict.fromkeys(
        ("LOG", "NFLOG", "ULOG", "TRACE", "TCPMSS", "SET", "TOS", "DSCP", "TTL", "HL", "CLASSIFY", "CHECKSUM",
         "AUDIT", "TEE", "ECN", "LED", "IDLETIMER", "RATEEST", "TCPOPTSTRIP", "SECMARK",
         "CONNSECMARK"), "continue",
    ),
}  # fmt: skip
_SET_MARK, _SAVE_MARK, _RESTORE_MARK = 0, 1, 2  # XT_CONNMARK_*
_NOTRACK: Final = 1  # XT_CT_NOTRACK
_MAP_IPS, _PROTO_SPECIFIED = 1, 2  # NF_NAT_RANGE_*
_IPV6_RANGE: Final = 40
"""Octets of one of IPv6; of IPv4 there are 20, with how many ranges there are before it."""


def build_target(name: str, revision: int, content: bytes) -> Target:
    """A target as a function. Raises struct.error for what is too short."""
    match name, revision:
        case "NOTRACK", _:
            return _untrack
        case "CT", _:
            return _untrack if struct.unpack_from("=H", content)[0] & _NOTRACK else _end("continue")
        case "MARK", 2:
            return _build_mark(content)
        case "CONNMARK", 1 | 2:
            return _build_connection_mark(content)
        case "SNAT", 0 | 1 | 2:
            return _build_source_translation(revision, content)
        case "REDIRECT", 0:
            return _build_redirection(content)
        case "NFQUEUE", 0 | 1 | 2 | 3:
            return _build_queue(revision, content)
        case "DNAT", 0 | 1 | 2:
            return _build_translation(revision, content)
    return _end(_ENDINGS.get(name, "unclear"))


def _end(ending: Ending) -> Target:
    def act(_: Evaluation, /, *, is_certain: bool) -> Ending:
        del is_certain
        return ending

    return act


def _untrack(at: Evaluation, /, *, is_certain: bool) -> Ending:
    at.untrack(is_certain=is_certain)
    return "continue"


def _build_queue(revision: int, content: bytes) -> Target:
    first, count, bypasses = read_queue_target(revision, content)

    def act(at: Evaluation, /, *, is_certain: bool) -> Ending:
        del is_certain
        return judge_queues(at.lookups, first, count, bypasses=bypasses)

    return act


def _build_mark(content: bytes) -> Target:
    mark, mask = struct.unpack_from("=II", content)

    def act(at: Evaluation, /, *, is_certain: bool) -> Ending:
        before = at.fields.get("meta mark")
        value = (before & ~mask) ^ mark if isinstance(before, int) and is_certain else None
        at.change("meta mark", value)
        return "continue"

    return act


def _build_connection_mark(content: bytes) -> Target:
    mode = content[12]

    def act(at: Evaluation, /, *, is_certain: bool) -> Ending:
        if mode == _RESTORE_MARK:
            both = at.fields.get("ct mark"), at.fields.get("meta mark")
            at.change("meta mark", 0 if both == (0, 0) and is_certain else None)
        else:
            at.change("ct mark", None)
        return "continue"

    return act


class _Range(NamedTuple):
    """What is set: addresses and ports, each first and last; which of them counts is in the flags."""

    flags: int
    first: bytes
    last: bytes
    port: int
    last_port: int


def _read_range(revision: int, content: bytes) -> _Range:
    """Source: linux/netfilter/nf_nat.h, linux/netfilter/xt_nat.c."""
    width = 16
    if revision == 0:  # of IPv4 alone, with how many ranges there are before it
        width, content = 4, content[4:]
    ports = struct.unpack_from("!HH", content, 4 + 2 * width)
    return _Range(
        struct.unpack_from("=I", content)[0],
        content[4 : 4 + width],
        content[4 + width : 4 + 2 * width],
        *ports,
    )


def _build_translation(revision: int, content: bytes) -> Target:
    """A target that is set, where it is one."""
    to = _read_range(revision, content)
    is_one = to.first == to.last and (to.port == to.last_port or not to.flags & _PROTO_SPECIFIED)

    def act(at: Evaluation, /, *, is_certain: bool) -> Ending:
        packet = at.packet
        if not (is_certain and is_one and may_send_on(packet)):
            return "unclear"
        own = packet.packed_target
        address = to.first[: len(own)] if to.flags & _MAP_IPS else own
        number = to.port if to.flags & _PROTO_SPECIFIED else packet.target_port
        is_sent = at.translate_target(str(ipaddress.ip_address(address)), number)
        return "accept" if is_sent else "unclear"

    return act


def _build_redirection(content: bytes) -> Target:
    """To this machine itself: what is for others does not get there. Source: linux/netfilter/nf_nat.h."""
    is_ipv6 = len(content) >= _IPV6_RANGE
    flags = struct.unpack_from("=I", content, 0 if is_ipv6 else 4)[0]
    port, last_port = struct.unpack_from("!HH", content, 36 if is_ipv6 else 16)

    def act(at: Evaluation, /, *, is_certain: bool) -> Ending:
        packet, is_set = at.packet, bool(flags & _PROTO_SPECIFIED)
        if packet.is_for_others:
            return "drop" if is_certain else "unclear"
        if not (is_certain and may_send_on(packet)) or (is_set and port != last_port):
            return "unclear"
        is_sent = at.translate_target(packet.redirected_target, port if is_set else packet.target_port)
        return "accept" if is_sent else "unclear"

    return act


def _build_source_translation(revision: int, content: bytes) -> Target:
    """Of WireGuard's packets the other end learns each address; of the tunnel's it drops all but one."""
    to = _read_range(revision, content)

    def act(at: Evaluation, /, *, is_certain: bool) -> Ending:
        packet, own = at.packet, at.packet.packed_source
        first, last = to.first[: len(own)], to.last[: len(own)]
        is_kept = not to.flags & _MAP_IPS or first == last == own
        if is_kept or not packet.traffic.startswith("tunnel"):
            return "accept"
        is_other = packet.traffic == "tunnel out" and not first <= own <= last
        return "drop" if is_other and is_certain else "unclear"

    return act
