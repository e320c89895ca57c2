"""Matches that ask for a packet's connection: conntrack, state, mark, connmark."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

from qmesh.mesh.foreign.packets import PROTOCOL_NUMBERS
from qmesh.mesh.foreign.rules import Evaluation
from qmesh.mesh.foreign.values import Truth, all_of, negate
from qmesh.mesh.foreign.xtables.match_types import Match, MatchBuilder

_STATES: Final = {"invalid": 1, "established": 2, "related": 4, "new": 8, "untracked": 256}
_OLD_STATES: Final = _STATES | {"untracked": 64}
_STATE, _PROTOCOL, _ENDS, _STATUS, _DIRECTION = 1, 2, 0x3C, 64, 0x1000  # XT_CONNTRACK_*
_NOT_READ: Final = 0xF80  # XT_CONNTRACK_EXPIRES and the ports of both ends
_STATUS_BITS: Final = {(): 0, ("seen-reply",): 2 | 8, ("dnat",): 32}
_TRANSLATED_STATE: Final = 128  # XT_CONNTRACK_STATE_DNAT
_UNKNOWN_STATUS: Final = 4


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


def _build_mark(field: str) -> MatchBuilder:
    def build(_: int, content: bytes) -> Match:
        mark, mask, is_inverted = struct.unpack_from("=IIB", content)

        def match(at: Evaluation) -> Truth:
            if field not in at.fields:
                return None
            value = at.fields[field]
            return isinstance(value, int) and negate(value & mask == mark, is_inverted)

        return match

    return build


CONNECTION_MATCHES: Final[Mapping[tuple[str, int], MatchBuilder]] = {
    **{("conntrack", revision): _build_conntrack for revision in (1, 2, 3)},
    ("state", 0): _build_state, ("mark", 1): _build_mark("meta mark"),
    ("connmark", 1): _build_mark("ct mark"),
}  # fmt: skip
