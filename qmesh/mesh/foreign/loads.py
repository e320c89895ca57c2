"""Expressions that load something of a packet into a register, or set its mark."""

from __future__ import annotations

import struct
from typing import Final

from qmesh.mesh.foreign.expressions import (
    Attributes,
    Run,
    Step,
    go_on,
    load_bits,
    read_number,
)
from qmesh.mesh.foreign.packet_fields import LEAST_MSS, ORDER, encode_field
from qmesh.mesh.foreign.registers import (
    Bits,
    make_unknown,
)
from qmesh.mesh.foreign.values import Truth

_META: Final = {
    1: "meta protocol", 3: "meta mark", 4: "meta iif", 5: "meta oif", 6: "meta iifname", 7: "meta oifname",
    8: "meta iiftype", 9: "meta oiftype", 10: "meta skuid", 11: "meta skgid", 15: "meta nfproto",
    16: "meta l4proto", 19: "meta pkttype", 25: "meta secpath", 26: "meta iifkind", 27: "meta oifkind",
}  # fmt: skip
_META_LENGTHS: Final = {6: 16, 7: 16, 26: 16, 27: 16, 1: 2, 8: 2, 9: 2, 15: 1, 16: 1, 19: 1, 25: 1}
_CT: Final = {
    0: "ct state", 1: "ct direction", 2: "ct status", 3: "ct mark", 7: "ct l3proto", 8: "ct saddr",
    9: "ct daddr", 10: "ct protocol", 11: "ct sport", 12: "ct dport", 19: "ct saddr", 20: "ct daddr",
    21: "ct saddr", 22: "ct daddr",
}  # fmt: skip
_CT_LENGTHS: Final = {
    1: 1, 7: 1, 10: 1, 11: 2, 12: 2, 8: 16, 9: 16, 13: 16, 14: 8, 15: 8, 16: 8, 17: 2, 21: 16, 22: 16,
}  # fmt: skip
_CT_ADDRESS_FAMILIES: Final = {19: 4, 20: 4, 21: 16, 22: 16}
_FIB: Final = {1: "oif", 2: "oifname", 3: "type"}
_OF_SOURCE, _BY_INPUT, _PRESENT = 1, 8, 32  # NFTA_FIB_F_*
_TCP_OPTION, _MSS = 1, 2
_ABSENT_HEADERS: Final = frozenset({0, 2})
"""NFT_EXTHDR_OP_IPV6, _IPV4: extension headers and options of the network's header."""
_ETHERTYPE: Final = (0, 12, 2)
"""Place of the protocol in Ethernet's header; rules ask first whether there is one."""


def build_unknown_load(attributes: Attributes, register_in: int) -> Step:
    """Something that is not known of the mesh's packets, into the register that this attribute names."""
    register = read_number(attributes, register_in)
    return lambda run: load_bits(run, register, make_unknown(16))


def build_payload(attributes: Attributes) -> Step:
    """A part of a header; nothing where a header is changed: TTL, DSCP, MAC."""
    register, base, offset, length = (read_number(attributes, kind) for kind in (1, 2, 3, 4))
    if 5 in attributes:
        return go_on

    def load(run: Run) -> Truth:
        if (base, offset, length) == _ETHERTYPE:
            return load_bits(run, register, encode_field("meta protocol", run.at.packet.family, {}))
        if base not in (1, 2):
            return load_bits(run, register, make_unknown(length))
        header = run.at.headers[base - 1]
        is_there = offset + length <= len(header.value)
        return load_bits(run, register, header.take(offset, length) if is_there else make_unknown(length))

    return load


def build_meta(attributes: Attributes) -> Step:
    """What the kernel knows of a packet; or it sets that."""
    key = read_number(attributes, 2)
    field, length = _META.get(key, ""), _META_LENGTHS.get(key, 4)
    if 3 in attributes:
        source = read_number(attributes, 3)
        return lambda run: _change(run, field, run.registers.read(source, 4))
    return _build_field_load(read_number(attributes, 1), field, length)


def _build_field_load(register: int, field: str, length: int) -> Step:
    """A step that loads what is known of a packet; the rule ends where it has no such thing."""

    def load(run: Run) -> Truth:
        if field in run.at.fields:
            value = run.at.fields[field]
            if value is None:
                return False
            return load_bits(run, register, encode_field(field, value, run.at.interfaces))
        return load_bits(run, register, make_unknown(length))

    return load


def _change(run: Run, field: str, bits: Bits) -> Truth:
    is_clear = bits.mask is None and run.truth is True
    value = int.from_bytes(bits.value, ORDER) if is_clear else None
    run.at.change(field, value)
    return True


def build_ct(attributes: Attributes) -> Step:
    """What the kernel knows of a packet's connection; or it sets that."""
    key = read_number(attributes, 2)
    field, length = _CT.get(key, ""), _CT_LENGTHS.get(key, 4)
    if 4 in attributes:
        source = read_number(attributes, 4)
        return lambda run: _change(run, field, run.registers.read(source, 4))
    register = read_number(attributes, 1)
    if 3 not in attributes:
        return _build_field_load(register, field, length)
    is_reply = bool(read_number(attributes, 3))

    def load(run: Run) -> Truth:
        if run.at.fields.get("ct direction", "") is None:  # no connection
            return False
        found = run.at.load_tuple(field, is_reply=is_reply)
        if found is None:
            return load_bits(run, register, make_unknown(length))
        wanted = _CT_ADDRESS_FAMILIES.get(key, len(found))
        return False if wanted != len(found) else load_bits(run, register, Bits(found))

    return load


def build_fib(attributes: Attributes) -> Step:
    """What the routes say of a packet's addresses."""
    register, result, flags = (read_number(attributes, kind) for kind in (1, 2, 3))
    field = f"fib {_FIB.get(result, '')} {'saddr' if flags & _OF_SOURCE else 'daddr'}"
    if result == 3:
        own = "fib type daddr . iif" if flags & _BY_INPUT and not flags & _OF_SOURCE else field
        return _build_field_load(register, own, 4)

    def load(run: Run) -> Truth:
        name = run.at.fields.get("fib oif saddr" if flags & _OF_SOURCE else "fib oif daddr")
        if not name:
            return load_bits(run, register, make_unknown(1 if flags & _PRESENT else 16))
        if flags & _PRESENT:
            return load_bits(run, register, Bits(b"\x01"))
        key = "meta iif" if result == 1 else "meta iifname"
        return load_bits(run, register, encode_field(key, name, run.at.interfaces))

    return load


def build_exthdr(attributes: Attributes) -> Step:
    """An option of a header; nothing where one is changed: the MSS."""
    if 7 in attributes:
        return go_on
    register, kind, offset, length, flags, of = (read_number(attributes, each) for each in (1, 2, 3, 4, 5, 6))
    is_mss = of == _TCP_OPTION and (kind, offset, length) == (_MSS, 2, 2)

    def load(run: Run) -> Truth:
        if of in _ABSENT_HEADERS:  # the mesh's packets have none
            return load_bits(run, register, Bits(b"\0")) if flags & 1 else False
        has_mss = run.at.packet.protocol == "tcp" and run.at.packet.opens
        if of == _TCP_OPTION and run.at.packet.protocol != "tcp":
            return False
        if of == _TCP_OPTION and kind == _MSS:
            if flags & 1:
                return load_bits(run, register, Bits(bytes([has_mss])))
            if not has_mss:
                return False
        bits = Bits(struct.pack("!H", LEAST_MSS), b"\xfc\x00") if is_mss else make_unknown(length)
        return load_bits(run, register, bits)

    return load
