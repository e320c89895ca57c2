"""Matches that ask what was before: limits, and sets of ipset and recent."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

from qmesh.mesh.foreign.lookups import Question
from qmesh.mesh.foreign.packets import PROTOCOL_NUMBERS
from qmesh.mesh.foreign.rates import MOST_CONNECTIONS, allows_rate
from qmesh.mesh.foreign.rules import Evaluation
from qmesh.mesh.foreign.values import Truth, negate
from qmesh.mesh.foreign.xtables.match_types import YES, Match, MatchBuilder


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
            return negate(YES, inverted)
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


STATEFUL_MATCHES: Final[Mapping[tuple[str, int], MatchBuilder]] = {
    **{("hashlimit", revision): _build_hashlimit for revision in (1, 2, 3)},
    **{("set", revision): _build_ipset for revision in (1, 2, 3, 4)},
    ("limit", 0): _build_limit, ("connlimit", 1): _build_connection_limit,
    ("recent", 0): _build_recent, ("recent", 1): _build_recent,
}  # fmt: skip
