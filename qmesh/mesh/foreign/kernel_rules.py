"""nftables' rules as the kernel has them, run over a packet as the kernel runs them.

Each expression is built once into a function that says whether the rule goes on: yes, no, or None where
that is not known. Source: linux/netfilter/nf_tables.h for numbers, net/netfilter/nft_*.c for what they do.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from qmesh.mesh.foreign.attributes import parse_attributes
from qmesh.mesh.foreign.expressions import (
    Attributes,
    Expression,
    Run,
    Step,
    go_on,
    load_bits,
    read_data,
    read_number,
    read_verdict,
)
from qmesh.mesh.foreign.loads import (
    build_ct,
    build_exthdr,
    build_fib,
    build_meta,
    build_payload,
    build_unknown_load,
)
from qmesh.mesh.foreign.lookups import Element, Question
from qmesh.mesh.foreign.packet_queues import judge_queues
from qmesh.mesh.foreign.packets import may_send_on
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
from qmesh.mesh.foreign.xtables.matches import build_match
from qmesh.mesh.foreign.xtables.targets import build_target


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


_CT_SOURCE: Final = 4
"""NFTA_CT_SREG: of an expression that sets something of the connection."""


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


_NAT_TARGETS: Final = 1
_QUEUE_BYPASS: Final = 1
_VERDICTS: Final[Mapping[int, Ending]] = {
    -5: "return", -4: "goto", -3: "jump", -1: "continue", 0: "drop", 1: "accept",
}  # fmt: skip
_HARMLESS: Final = frozenset({"counter", "log", "last", "dup", "flow_offload"})
_UNLOADED: Final[Mapping[str, int]] = {
    "hash": 2, "numgen": 1, "osf": 1, "socket": 2, "xfrm": 1, "tunnel": 2, "rt": 1,
}  # fmt: skip
"""They load something that is not known of the mesh's packets: into the register of this attribute."""
_COUNTS: Final = frozenset({"limit", "connlimit", "quota"})
_LIMIT_OBJECTS: Final = frozenset({2, 4, 5})  # NFT_OBJECT_QUOTA, _LIMIT, _CONNLIMIT
_MOST_DATA: Final = 16
"""Bytes of a map's value that rules compare."""


def _build_step(expression: Expression) -> Step:
    name, attributes = expression.name, expression.attributes
    if name in _HARMLESS:
        return go_on
    register_in = _UNLOADED.get(name)
    if register_in in attributes:
        return build_unknown_load(attributes, register_in)
    try:
        return _BUILDERS.get(name, _build_doubt)(attributes)
    except Exception:  # noqa: BLE001 - whatever it is, others wrote it
        return _give_up


def _build_doubt(_: Attributes) -> Step:
    return _doubt


def _give_up(run: Run) -> Truth:
    run.verdict = "unclear"
    return None


def _doubt(_: Run) -> Truth:
    return None


def _decode_name(octets: bytes) -> str:
    return octets.rstrip(b"\0").decode("utf-8", "surrogateescape")


def _set_verdict(run: Run, code: int, chain: str) -> Truth:
    run.verdict, run.target = _VERDICTS.get(code, "unclear"), chain
    return True


def _build_immediate(attributes: Attributes) -> Step:
    register = read_number(attributes, 1)
    if register:
        value = Bits(read_data(attributes, 2))
        return lambda run: load_bits(run, register, value)
    verdict = read_verdict(attributes, 2)
    code = int.from_bytes(verdict[1], "big", signed=True)
    chain = _decode_name(verdict.get(2, b""))
    return lambda run: _set_verdict(run, code, chain)


def _build_comparison(attributes: Attributes) -> Step:
    register, operator = read_number(attributes, 1), read_number(attributes, 2)
    wanted = read_data(attributes, 3)

    def compare(run: Run) -> Truth:
        found = run.registers.read(register, len(wanted))
        if operator <= 1:
            return negate(compare_equal(found, wanted), operator == 1)
        less, greater = compare_order(found, wanted)
        return (less, negate(greater), greater, negate(less))[operator - 2]

    return compare


def _build_range(attributes: Attributes) -> Step:
    register, is_outside = read_number(attributes, 1), bool(read_number(attributes, 2))
    first, last = read_data(attributes, 3), read_data(attributes, 4)

    def compare(run: Run) -> Truth:
        found = run.registers.read(register, len(first))
        ends = compare_order(found, first)[0], compare_order(found, last)[1]
        inside = all_of(map(negate, ends))
        return negate(inside, is_outside)

    return compare


def _build_bitwise(attributes: Attributes) -> Step:
    source, target, length = (read_number(attributes, kind) for kind in (1, 2, 3))
    if read_number(attributes, 6):  # a shift, or of two registers
        return lambda run: load_bits(run, target, make_unknown(length))
    mask, xor = read_data(attributes, 4), read_data(attributes, 5)
    return lambda run: load_bits(run, target, mask_bits(run.registers.read(source, length), mask, xor))


def _build_byteorder(attributes: Attributes) -> Step:
    source, target, length, size = (read_number(attributes, kind) for kind in (1, 2, 4, 5))

    def swap(run: Run) -> Truth:
        found = run.registers.read(source, length)
        whole = length - length % size  # of what is less than one number nothing is turned
        turned = [found.take(start, size).reverse() for start in range(0, whole, size)]
        return load_bits(run, target, join_bits(*turned, found.take(whole, length - whole)))

    return swap


def _build_lookup(attributes: Attributes) -> Step:
    name = _decode_name(attributes[1])
    source, target, is_inverted = (read_number(attributes, kind) for kind in (2, 3, 5))
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
                return load_bits(run, target, Bits(element.value or b""))
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
    listed = [content for _, content in parse_attributes(nested[-1])] if 10 in attributes else nested
    steps = []
    for content in listed:
        found = dict(parse_attributes(content))
        name = _decode_name(found[1])
        if name in _COUNTS:
            steps.append(_build_step(Expression(name, dict(parse_attributes(found[2])))))
    is_inverted = bool(read_number(attributes, 9))

    def remember(run: Run) -> Truth:
        truth = all_of([step(run) for step in steps])
        return None if is_inverted else truth

    return remember


def _build_limit(attributes: Attributes) -> Step:
    rate, unit = (int.from_bytes(attributes[kind], "big") for kind in (1, 2))
    in_bytes, is_over = (bool(read_number(attributes, kind)) for kind in (4, 5))

    def compare(run: Run) -> Truth:
        return _end_limit(
            run, allows_rate(run.at.packet, rate / max(1, unit), in_bytes=in_bytes), is_over=is_over
        )

    return compare


def _build_connection_limit(attributes: Attributes) -> Step:
    count, is_over = read_number(attributes, 1), bool(read_number(attributes, 2) & 1)

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
    """A source that is set to this machine's own address changes nothing that the mesh needs.

    What has another one, the other end of the tunnel drops. A target that is set is where a connection goes
    on to.
    """
    is_target, register = read_number(attributes, 1) == _NAT_TARGETS, read_number(attributes, 3)
    port, ends = read_number(attributes, 5), (read_number(attributes, 4), read_number(attributes, 6))
    is_range = ends[0] not in {0, register} or ends[1] not in {0, port}

    def translate(run: Run) -> Truth:
        run.verdict, is_outbound = "unclear", run.at.packet.traffic == "tunnel out"
        if is_target and not is_range and run.truth is True and _send_on(run, register, port):
            run.verdict = "accept"
        elif not is_target and not run.at.packet.traffic.startswith("tunnel"):
            run.verdict = "accept"  # of WireGuard's own the other end learns each address
        elif not is_target and register:
            own = run.at.packet.packed_source
            is_own = compare_equal(run.registers.read(register, len(own)), own)
            if is_own:
                run.verdict = "accept"
            elif is_own is False and not is_range and run.truth is True and is_outbound:
                run.verdict = "drop"
        return True

    return translate


def _send_on(run: Run, register: int, port: int, *, address: str | None = None) -> bool:
    """Set the target of a connection through the tunnel; whether it is known, and certain.

    register, port: of the new address and port; 0 for as it is. address: the new one, where it is known.
    """
    packet = run.at.packet
    if not may_send_on(packet):
        return False
    found = Bits(ipaddress.ip_address(address or packet.target).packed)
    if register:
        found = run.registers.read(register, len(found.value))
    number = run.registers.read(port, 2) if port else Bits(packet.target_port.to_bytes(2, "big"))
    if found.mask is not None or number.mask is not None:
        return False
    return run.at.translate_target(
        str(ipaddress.ip_address(found.value)), int.from_bytes(number.value, "big")
    )


def _build_redirection(attributes: Attributes) -> Step:
    """To this machine itself, perhaps to another port of it."""
    port, end = read_number(attributes, 1), read_number(attributes, 2)

    def translate(run: Run) -> Truth:
        packet, is_known = run.at.packet, end in {0, port} and run.truth is True
        if packet.is_for_others:
            run.verdict = "drop" if run.truth is True else "unclear"
        else:
            is_sent = is_known and _send_on(run, 0, port, address=packet.redirected_target)
            run.verdict = "accept" if is_sent else "unclear"
        return True

    return translate


def _build_queue(attributes: Attributes) -> Step:
    """A program has the last word on the packet; where none waits, it is dropped."""
    first, count = read_number(attributes, 1), read_number(attributes, 2)
    bypasses, is_looked_up = bool(read_number(attributes, 3) & _QUEUE_BYPASS), 4 in attributes

    def queue(run: Run) -> Truth:
        run.verdict = "unclear"
        if not is_looked_up:
            run.verdict = judge_queues(run.at.lookups, first, count, bypasses=bypasses)
        return True

    return queue


def _build_object(attributes: Attributes) -> Step:
    return _doubt if 3 in attributes or read_number(attributes, 1) in _LIMIT_OBJECTS else go_on


def _build_xt_match(attributes: Attributes) -> Step:
    match = build_match(_decode_name(attributes[1]), read_number(attributes, 2), attributes[3])
    return lambda run: match(run.at)


def _build_xt_target(attributes: Attributes) -> Step:
    target = build_target(_decode_name(attributes[1]), read_number(attributes, 2), attributes[3])

    def act(run: Run) -> Truth:
        run.verdict = target(run.at, is_certain=run.truth is True)
        return True

    return act


_BUILDERS: Final[Mapping[str, Callable[[Attributes], Step]]] = {
    "immediate": _build_immediate, "cmp": _build_comparison, "range": _build_range, "bitwise": _build_bitwise,
    "byteorder": _build_byteorder, "payload": build_payload, "meta": build_meta, "ct": build_ct,
    "fib": build_fib, "lookup": _build_lookup, "dynset": _build_dynset, "limit": _build_limit,
    "connlimit": _build_connection_limit, "quota": _build_quota, "notrack": _build_notrack,
    "reject": _build_ending("drop"), "masq": _build_ending("accept"), "nat": _build_nat,
    "redir": _build_redirection, "queue": _build_queue, "tproxy": _build_ending("unclear"),
    "synproxy": _build_ending("unclear"), "fwd": _build_ending("unclear"), "objref": _build_object,
    "exthdr": build_exthdr, "match": _build_xt_match, "target": _build_xt_target,
}  # fmt: skip
