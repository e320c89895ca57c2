"""iptables' matches and targets about one field, for all packets at once. Source: net/netfilter/xt_*.c."""

from __future__ import annotations

import struct
from typing import Final

from qmesh.mesh.foreign.packet_fields import ORDER
from qmesh.mesh.prover.gates import FALSE, TRUE, Wires, make_constant
from qmesh.mesh.prover.rule_run import RuleRun

_ANY_TYPE: Final = 0xFF
_HOPS: Final = {"ip": 8, "ip6": 7}
"""Where the header has how many hops are left: octets."""
_LOOPED: Final = b"\5"  # PACKET_LOOPBACK
_SOURCES, _TARGETS, _NOT_SOURCES, _NOT_TARGETS = 1, 2, 16, 32  # IPRANGE_*
_SET, _RESTORE = 0, 2  # XT_CONNMARK_*; 1 saves the packet's
_NOTRACK: Final = 1  # XT_CT_NOTRACK


def match_mark(run: RuleRun, content: bytes) -> int:
    """`mark`."""
    return _is_marked(run, run.at.mark, content)


def match_connection_mark(run: RuleRun, content: bytes) -> int:
    """`connmark`: of no connection none."""
    if run.at.phase != "after conntrack":
        return run.unknowns.doubt()
    return run.gates.both(run.at.is_in_connection, _is_marked(run, run.at.connection_mark, content))


def _is_marked(run: RuleRun, mark: Wires, content: bytes) -> int:
    wanted, mask, is_inverted = struct.unpack_from("=IIB", content)
    found = run.gates.equal(_mask(mark, mask), wanted.to_bytes(4, ORDER))
    return -found if is_inverted else found


def _mask(mark: Wires, mask: int) -> Wires:
    kept = make_constant(mask.to_bytes(4, ORDER))
    return tuple(bit if known == TRUE else FALSE for bit, known in zip(mark, kept, strict=True))


def _flip(run: RuleRun, mark: Wires, flips: Wires) -> Wires:
    return tuple(-run.gates.same(bit, flip) for bit, flip in zip(mark, flips, strict=True))


def match_icmp(run: RuleRun, content: bytes) -> int:
    """`icmp` and `icmp6`: type, and a range of codes. That it is ICMP the rule asks beside it."""
    kind, first, last, is_inverted = content[:4]
    at, gates = run.at, run.gates
    code = gates.is_within(at.transport[8:16], [(first, last)]) if first <= last else FALSE
    found = gates.both(gates.equal(at.transport[:8], bytes([kind])), code)
    if kind == _ANY_TYPE and run.at.family == "ip":
        found = TRUE
    return gates.both(-found if is_inverted & 1 else found, -at.is_piece)


def match_hops(run: RuleRun, content: bytes) -> int:
    """`ttl` and `hl`."""
    mode, wanted = content[:2]
    start = 8 * _HOPS[run.at.family]
    hops, number = run.at.network[start : start + 8], bytes([wanted])
    equal, less = run.gates.equal(hops, number), run.gates.less(hops, number)
    return (equal, -equal, less, -run.gates.either(less, equal))[mode]


def match_packet_type(run: RuleRun, content: bytes) -> int:
    """`pkttype`; of what the machine sends to itself it asks the address instead."""
    wanted, is_inverted = struct.unpack_from("=ii", content)
    gates, kind = run.gates, run.at.packet_type
    found = gates.equal(kind, bytes([wanted & 0xFF]))
    found = gates.choose(gates.equal(kind, _LOOPED), run.unknowns.chance(), found)
    return -found if is_inverted else found


def match_address_ranges(run: RuleRun, content: bytes) -> int:
    """`iprange`: of the source, the target or both."""
    flags, at, found = content[64], run.at, TRUE
    for asked, inverted, address, start in (
        (_SOURCES, _NOT_SOURCES, at.source, 0),
        (_TARGETS, _NOT_TARGETS, at.target, 32),
    ):
        if flags & asked:
            count = len(address) // 8
            first, last = (
                int.from_bytes(content[place : place + count], "big") for place in (start, start + 16)
            )
            inside = run.gates.is_within(address, [(first, last)]) if first <= last else FALSE
            found = run.gates.both(found, -inside if flags & inverted else inside)
    return found


def set_mark(run: RuleRun, content: bytes) -> bool:
    """`MARK`. Of each target: whether it is one that is known."""
    value, mask = struct.unpack_from("=II", content)
    kept = _mask(run.at.mark, ~mask & 0xFFFFFFFF)
    run.change_mark(_flip(run, kept, make_constant(value.to_bytes(4, ORDER))))
    return True


def set_connection_mark(run: RuleRun, content: bytes) -> bool:
    """`CONNMARK`, where it shifts nothing and conntrack has seen the packet."""
    value, mask, packet_mask, _, shift, mode = struct.unpack_from("=IIIBBB", content)
    at = run.at
    if shift or at.phase != "after conntrack":
        return False
    if mode == _RESTORE:
        kept = _mask(at.mark, ~packet_mask & 0xFFFFFFFF)
        restored = _flip(run, kept, _mask(at.connection_mark, mask))
        run.change_mark(run.gates.choose_each(at.is_in_connection, restored, at.mark))
        return True
    flips = make_constant(value.to_bytes(4, ORDER)) if mode == _SET else _mask(at.mark, packet_mask)
    run.change_connection_mark(_flip(run, _mask(at.connection_mark, ~mask & 0xFFFFFFFF), flips))
    return True


def untrack_always(run: RuleRun, content: bytes) -> bool:
    """`CT --notrack`; any other says what a connection will be like."""
    is_known = bool(struct.unpack_from("=H", content)[0] == _NOTRACK)
    if is_known:
        run.untrack()
    return is_known
