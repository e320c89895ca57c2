"""All matches of iptables by name and revision, and those that ask where a packet is, and by whom."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

from qmesh.mesh.foreign.packet_fields import PACKET_TYPES
from qmesh.mesh.foreign.rules import Evaluation
from qmesh.mesh.foreign.values import Truth, Value, all_of, negate
from qmesh.mesh.foreign.xtables.connection_matches import CONNECTION_MATCHES
from qmesh.mesh.foreign.xtables.header_matches import HEADER_MATCHES
from qmesh.mesh.foreign.xtables.match_types import NO, YES, Match, MatchBuilder
from qmesh.mesh.foreign.xtables.stateful_matches import STATEFUL_MATCHES

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


def _answer(truth: Truth) -> MatchBuilder:
    return lambda *_: lambda _: truth


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


def _build_reverse_path(_: int, content: bytes) -> Match:
    """The mesh's packets come by the interface that leads to their source: by it they were thought up."""
    return lambda _: negate(YES, content[0] & 8)


def _build_policy(_: int, content: bytes) -> Match:
    """IPsec's policies. The mesh has none."""
    (flags,) = struct.unpack_from("=H", content, 4 * (len(content) // 4 - 1))
    return lambda _: bool(flags & 4)  # XT_POLICY_MATCH_NONE


def _build_bridge_port(_: int, content: bytes) -> Match:
    """Of packets that no bridge has passed on; whether the interface has one is not asked."""
    return lambda _: None if content[64] else False


_BUILDERS: Final[Mapping[tuple[str, int], MatchBuilder]] = {
    **CONNECTION_MATCHES, **HEADER_MATCHES, **STATEFUL_MATCHES,
    ("comment", 0): _answer(YES), ("owner", 1): _build_owner, ("pkttype", 0): _build_packet_type,
    ("rpfilter", 0): _build_reverse_path, ("policy", 0): _build_policy, ("physdev", 0): _build_bridge_port,
    **{(name, revision): _answer(NO) for name in _OTHER_PROTOCOLS for revision in (0, 1)},
}  # fmt: skip
