"""nftables' rules as the kernel has them, run over a packet as the kernel runs them.

Each expression is built once into a function that says whether the rule goes on: yes, no, or None where
that is not known. Source: linux/netfilter/nf_tables.h for numbers, net/netfilter/nft_*.c for what they do.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from qmesh.mesh.foreign.attributes import list_attributes
from qmesh.mesh.foreign.lookups import Element, Question
from qmesh.mesh.foreign.packet_fields import LEAST_MSS, ORDER, encode_field
from qmesh.mesh.foreign.rates import MOST_CONNECTIONS, allows_rate
from qmesh.mesh.foreign.registers import (
    Bits,
    RegisterFile,
    compare_equal,
    compare_order,
    join_bits,
    make_unknown,
    mask_bits,
)
from qmesh.mesh.foreign.rule_text import render_rule
from qmesh.mesh.foreign.rules import Ending, Evaluation, Outcome
from qmesh.mesh.foreign.values import Truth, all_of, negate
from qmesh.mesh.foreign.xt_matches import build_match
from qmesh.mesh.foreign.xt_targets import build_target

Attributes = Mapping[int, bytes]


class Expression(msgspec.Struct, frozen=True):
    """One expression of a rule. attributes: by number, as the kernel sends them."""

    name: str
    attributes: dict[int, bytes]


class KernelRule(msgspec.Struct, frozen=True):
    """A rule as the kernel lists it. Names that are not UTF-8 have surrogates."""

    family: str
    table: str
    chain: str
    handle: int
    expressions: tuple[Expression, ...]

    @property
    def marks_connection(self) -> bool:
        """Whether it may set the mark of a packet's connection."""
        return any(
            (each.name == "ct" and _CT_SOURCE in each.attributes)
            or (each.name == "target" and each.attributes.get(1, b"").startswith(b"CONNMARK"))
            for each in self.expressions
        )


class Run(msgspec.Struct):
    """One rule over one packet. truth: whether it came so far; verdict: what it said."""

    at: Evaluation
    registers: RegisterFile
    truth: Truth = True
    verdict: Ending = "continue"
    target: str = ""


Step = Callable[[Run], Truth]

_NAT_TARGETS: Final = 1
_CT_SOURCE: Final = 4
"""NFTA_CT_SREG: of an expression that sets something of the connection."""
_VERDICTS: Final[Mapping[int, Ending]] = {
    -5: "return", -4: "goto", -3: "jump", -1: "continue", 0: "drop", 1: "accept",
}  # fmt: skip
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
_HARMLESS: Final = frozenset({"counter", "log", "last", "dup", "flow_offload"})
_UNLOADED: Final = frozenset({"hash", "numgen", "osf", "socket", "xfrm", "tunnel", "rt"})
"""They load something that is not known of the mesh's packets."""
_COUNTS: Final = frozenset({"limit", "connlimit", "quota"})
_LIMIT_OBJECTS: Final = frozenset({2, 4, 5})  # NFT_OBJECT_QUOTA, _LIMIT, _CONNLIMIT
_TCP_OPTION, _MSS = 1, 2
_MOST_DATA: Final = 16
"""Bytes of a map's value that rules compare."""
_ETHERTYPE: Final = (0, 12, 2)
"""Place of the protocol in Ethernet's header; rules ask first whether there is one."""
_U64 = struct.Struct("!Q")


class BuiltRule:
    """A rule that can be asked; as `rules.Rule` is."""

    def __init__(self, found: KernelRule) -> None:
        self.handle: int | None = found.handle
        self._found = found
        self._steps: tuple[Step, ...] | None = None

    @property
    def text(self) -> str:
        """In words like nft's."""
        return render_rule([(each.name, each.attributes) for each in self._found.expressions])

    def judge(self, at: Evaluation) -> Outcome:
        """What becomes of a packet here. Raises whatever odd expressions raise."""
        if self._steps is None:
            self._steps = tuple(map(_build_step, self._found.expressions))
        run, is_limit = Run(at, RegisterFile()), True
        for step in self._steps:
            at.asked_limit = False
            truth = step(run)
            if truth is False:
                return Outcome(truth=False)
            if truth is None:
                run.truth = None
                is_limit = is_limit and at.asked_limit
            if run.verdict != "continue":
                break
        return Outcome(run.truth, run.verdict, run.target, is_limit=run.truth is None and is_limit)


def _build_step(expression: Expression) -> Step:
    name, attributes = expression.name, expression.attributes
    if name in _HARMLESS:
        return _pass
    if name in _UNLOADED and 1 in attributes:
        return _build_unknown_load(attributes)
    try:
        return _BUILDERS.get(name, _build_doubt)(attributes)
    except Exception:  # noqa: BLE001 - whatever it is, others wrote it
        return _give_up


def _build_doubt(_: Attributes) -> Step:
    return _doubt


def _give_up(run: Run) -> Truth:
    run.verdict = "unclear"
    return None


def _pass(_: Run) -> Truth:
    return True


def _doubt(_: Run) -> Truth:
    return None


def _read_number(attributes: Attributes, kind: int, default: int = 0) -> int:
    return int.from_bytes(attributes[kind], "big") if kind in attributes else default


def _read_data(attributes: Attributes, kind: int) -> bytes:
    return dict(list_attributes(attributes[kind]))[1]


def _set_verdict(run: Run, code: int, chain: str) -> Truth:
    run.verdict, run.target = _VERDICTS.get(code, "unclear"), chain
    return True


def _build_immediate(attributes: Attributes) -> Step:
    data = dict(list_attributes(attributes[2]))
    register = _read_number(attributes, 1)
    if register:
        value = Bits(data[1])
        return lambda run: _load(run, register, value)
    verdict = dict(list_attributes(data[2]))
    code = int.from_bytes(verdict[1], "big", signed=True)
    chain = verdict.get(2, b"").rstrip(b"\0").decode("utf-8", "surrogateescape")
    return lambda run: _set_verdict(run, code, chain)


def _load(run: Run, register: int, bits: Bits) -> Truth:
    run.registers.load(register, bits)
    return True


def _build_unknown_load(attributes: Attributes) -> Step:
    register = _read_number(attributes, 1)
    return lambda run: _load(run, register, make_unknown(16))


def _build_comparison(attributes: Attributes) -> Step:
    register, operator = _read_number(attributes, 1), _read_number(attributes, 2)
    wanted = _read_data(attributes, 3)

    def compare(run: Run) -> Truth:
        found = run.registers.read(register, len(wanted))
        if operator <= 1:
            return negate(compare_equal(found, wanted), operator == 1)
        less, greater = compare_order(found, wanted)
        return (less, negate(greater), greater, negate(less))[operator - 2]

    return compare


def _build_range(attributes: Attributes) -> Step:
    register, is_outside = _read_number(attributes, 1), bool(_read_number(attributes, 2))
    first, last = _read_data(attributes, 3), _read_data(attributes, 4)

    def compare(run: Run) -> Truth:
        found = run.registers.read(register, len(first))
        ends = compare_order(found, first)[0], compare_order(found, last)[1]
        inside = all_of(map(negate, ends))
        return negate(inside, is_outside)

    return compare


def _build_bitwise(attributes: Attributes) -> Step:
    source, target, length = (_read_number(attributes, kind) for kind in (1, 2, 3))
    if _read_number(attributes, 6):  # a shift, or of two registers
        return lambda run: _load(run, target, make_unknown(length))
    mask, xor = _read_data(attributes, 4), _read_data(attributes, 5)
    return lambda run: _load(run, target, mask_bits(run.registers.read(source, length), mask, xor))


def _build_byteorder(attributes: Attributes) -> Step:
    source, target, length, size = (_read_number(attributes, kind) for kind in (1, 2, 4, 5))

    def swap(run: Run) -> Truth:
        found = run.registers.read(source, length)
        whole = length - length % size  # of what is less than one number nothing is turned
        turned = [found.take(start, size).reverse() for start in range(0, whole, size)]
        return _load(run, target, join_bits(*turned, found.take(whole, length - whole)))

    return swap


def _build_payload(attributes: Attributes) -> Step:
    register, base, offset, length = (_read_number(attributes, kind) for kind in (1, 2, 3, 4))
    if 5 in attributes:  # a header is changed: TTL, DSCP, MAC
        return _pass

    def load(run: Run) -> Truth:
        if (base, offset, length) == _ETHERTYPE:
            return _load(run, register, encode_field("meta protocol", run.at.packet.family, {}))
        if base not in (1, 2):
            return _load(run, register, make_unknown(length))
        header = run.at.headers[base - 1]
        is_there = offset + length <= len(header.value)
        return _load(run, register, header.take(offset, length) if is_there else make_unknown(length))

    return load


def _build_meta(attributes: Attributes) -> Step:
    key = _read_number(attributes, 2)
    field, length = _META.get(key, ""), _META_LENGTHS.get(key, 4)
    if 3 in attributes:
        source = _read_number(attributes, 3)
        return lambda run: _change(run, field, run.registers.read(source, 4))
    return _build_field_load(_read_number(attributes, 1), field, length)


def _build_field_load(register: int, field: str, length: int) -> Step:
    """A step that loads what is known of a packet; the rule ends where it has no such thing."""

    def load(run: Run) -> Truth:
        if field in run.at.fields:
            value = run.at.fields[field]
            if value is None:
                return False
            return _load(run, register, encode_field(field, value, run.at.interfaces))
        return _load(run, register, make_unknown(length))

    return load


def _change(run: Run, field: str, bits: Bits) -> Truth:
    is_clear = bits.mask is None and run.truth is True
    value = int.from_bytes(bits.value, ORDER) if is_clear else None
    run.at.change(field, value)
    return True


def _build_ct(attributes: Attributes) -> Step:
    key = _read_number(attributes, 2)
    field, length = _CT.get(key, ""), _CT_LENGTHS.get(key, 4)
    if 4 in attributes:
        source = _read_number(attributes, 4)
        return lambda run: _change(run, field, run.registers.read(source, 4))
    register = _read_number(attributes, 1)
    if 3 not in attributes:
        return _build_field_load(register, field, length)
    is_reply = bool(_read_number(attributes, 3))

    def load(run: Run) -> Truth:
        if run.at.fields.get("ct direction", "") is None:  # no connection
            return False
        found = run.at.load_tuple(field, is_reply=is_reply)
        if found is None:
            return _load(run, register, make_unknown(length))
        wanted = _CT_ADDRESS_FAMILIES.get(key, len(found))
        return False if wanted != len(found) else _load(run, register, Bits(found))

    return load


def _build_fib(attributes: Attributes) -> Step:
    register, result, flags = (_read_number(attributes, kind) for kind in (1, 2, 3))
    field = f"fib {_FIB.get(result, '')} {'saddr' if flags & _OF_SOURCE else 'daddr'}"
    if result == 3:
        own = "fib type daddr . iif" if flags & _BY_INPUT and not flags & _OF_SOURCE else field
        return _build_field_load(register, own, 4)

    def load(run: Run) -> Truth:
        name = run.at.fields.get("fib oif saddr" if flags & _OF_SOURCE else "fib oif daddr")
        if not name:
            return _load(run, register, make_unknown(1 if flags & _PRESENT else 16))
        if flags & _PRESENT:
            return _load(run, register, Bits(b"\x01"))
        key = "meta iif" if result == 1 else "meta iifname"
        return _load(run, register, encode_field(key, name, run.at.interfaces))

    return load


def _build_lookup(attributes: Attributes) -> Step:
    name = attributes[1].rstrip(b"\0").decode("utf-8", "surrogateescape")
    source, target, is_inverted = (_read_number(attributes, kind) for kind in (2, 3, 5))
    has_target = 3 in attributes

    def look_up(run: Run) -> Truth:
        header = run.at.table.sets.get(name)
        if header is None:
            return None
        key = run.registers.read(source, header.key_length)
        found = _find_element(run, name, key)
        if found is None:
            if target:
                run.registers.load(target, make_unknown(_MOST_DATA))
            elif has_target:
                run.verdict = "unclear"
            return None
        (element,) = found
        if (element is not None) is bool(is_inverted):
            return False
        if element is not None and has_target:
            if target:
                return _load(run, target, Bits(element.value or b""))
            _set_verdict(run, element.verdict or 0, element.chain)
        return None if header.counts else True

    return look_up


def _find_element(run: Run, name: str, key: Bits) -> tuple[Element | None] | None:
    """What a set has for a key; None where that is not known."""
    if key.mask is not None:
        return None
    table = run.at.table
    is_known, element = run.at.lookups.find_element(Question(table.family, table.name, name, key.value))
    return (element,) if is_known else None


def _build_dynset(attributes: Attributes) -> Step:
    """A set that remembers packets: with a limit of its own the rule goes on only within it, or beyond it."""
    nested = [attributes[kind] for kind in (7, 10) if kind in attributes]
    listed = [content for _, content in list_attributes(nested[-1])] if 10 in attributes else nested
    steps = []
    for content in listed:
        found = dict(list_attributes(content))
        name = found[1].rstrip(b"\0").decode("ascii", "replace")
        if name in _COUNTS:
            steps.append(_build_step(Expression(name, dict(list_attributes(found[2])))))
    is_inverted = bool(_read_number(attributes, 9))

    def remember(run: Run) -> Truth:
        truth = all_of([step(run) for step in steps])
        return None if is_inverted else truth

    return remember


def _build_limit(attributes: Attributes) -> Step:
    rate, unit = (_U64.unpack(attributes[kind].rjust(8, b"\0"))[0] for kind in (1, 2))
    in_bytes, is_over = (bool(_read_number(attributes, kind)) for kind in (4, 5))

    def compare(run: Run) -> Truth:
        return _end_limit(
            run, allows_rate(run.at.packet, rate / max(1, unit), in_bytes=in_bytes), is_over=is_over
        )

    return compare


def _build_connection_limit(attributes: Attributes) -> Step:
    count, is_over = _read_number(attributes, 1), bool(_read_number(attributes, 2) & 1)

    def compare(run: Run) -> Truth:
        return _end_limit(run, True if count >= MOST_CONNECTIONS else None, is_over=is_over)

    return compare


def _end_limit(run: Run, within: Truth, *, is_over: bool) -> Truth:
    run.at.asked_limit |= within is None
    return negate(within) if is_over else within


def _build_quota(_: Attributes) -> Step:
    return lambda run: _end_limit(run, None, is_over=False)


def _build_notrack(_: Attributes) -> Step:
    def untrack(run: Run) -> Truth:
        run.at.untrack(is_certain=run.truth is True)
        return True

    return untrack


def _build_ending(verdict: Ending) -> Callable[[Attributes], Step]:
    def end(run: Run) -> Truth:
        run.verdict = verdict
        return True

    return lambda _: end


def _build_nat(attributes: Attributes) -> Step:
    """A source that is set to this machine's own address changes nothing that the mesh needs."""
    is_target, register = _read_number(attributes, 1) == _NAT_TARGETS, _read_number(attributes, 3)

    def translate(run: Run) -> Truth:
        run.verdict = "unclear"
        if not is_target and not run.at.packet.traffic.startswith("tunnel"):
            run.verdict = "accept"  # of WireGuard's own the other end learns each address
        elif not is_target and register:
            own = run.at.packet.packed_source
            if compare_equal(run.registers.read(register, len(own)), own):
                run.verdict = "accept"
        return True

    return translate


def _build_object(attributes: Attributes) -> Step:
    return _doubt if 3 in attributes or _read_number(attributes, 1) in _LIMIT_OBJECTS else _pass


def _build_exthdr(attributes: Attributes) -> Step:
    if 7 in attributes:  # an option is changed: the MSS
        return _pass
    register, kind, offset, length, flags, of = (
        _read_number(attributes, each) for each in (1, 2, 3, 4, 5, 6)
    )
    is_mss = of == _TCP_OPTION and (kind, offset, length) == (_MSS, 2, 2)

    def load(run: Run) -> Truth:
        has_mss = run.at.packet.protocol == "tcp" and run.at.packet.opens
        if of == _TCP_OPTION and run.at.packet.protocol != "tcp":
            return False
        if of == _TCP_OPTION and kind == _MSS:
            if flags & 1:
                return _load(run, register, Bits(bytes([has_mss])))
            if not has_mss:
                return False
        bits = Bits(struct.pack("!H", LEAST_MSS), b"\xfc\x00") if is_mss else make_unknown(length)
        return _load(run, register, bits)

    return load


def _build_xt_match(attributes: Attributes) -> Step:
    match = build_match(_read_name(attributes), _read_number(attributes, 2), attributes[3])
    return lambda run: match(run.at)


def _build_xt_target(attributes: Attributes) -> Step:
    target = build_target(_read_name(attributes), _read_number(attributes, 2), attributes[3])

    def act(run: Run) -> Truth:
        run.verdict = target(run.at, is_certain=run.truth is True)
        return True

    return act


def _read_name(attributes: Attributes) -> str:
    return attributes[1].rstrip(b"\0").decode("ascii", "replace")


_BUILDERS: Final[Mapping[str, Callable[[Attributes], Step]]] = {
    "immediate": _build_immediate, "cmp": _build_comparison, "range": _build_range, "bitwise": _build_bitwise,
    "byteorder": _build_byteorder, "payload": _build_payload, "meta": _build_meta, "ct": _build_ct,
    "fib": _build_fib, "lookup": _build_lookup, "dynset": _build_dynset, "limit": _build_limit,
    "connlimit": _build_connection_limit, "quota": _build_quota, "notrack": _build_notrack,
    "reject": _build_ending("drop"), "masq": _build_ending("accept"), "nat": _build_nat,
    "redir": _build_ending("unclear"), "queue": _build_ending("unclear"), "tproxy": _build_ending("unclear"),
    "synproxy": _build_ending("unclear"), "fwd": _build_ending("unclear"), "objref": _build_object,
    "exthdr": _build_exthdr, "match": _build_xt_match, "target": _build_xt_target,
}  # fmt: skip
