"""What each expression of a rule does, to all packets at once. Source: net/netfilter/nft_*.c.

An expression that is not known here may do anything, or nothing: `RuleRun.give_up`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from qmesh.mesh.foreign.attributes import parse_attributes
from qmesh.mesh.foreign.expressions import Attributes, Expression, read_data, read_number, read_verdict
from qmesh.mesh.prover.field_loads import LOADS, load_payload
from qmesh.mesh.prover.gates import FALSE, TRUE, Wires, make_constant
from qmesh.mesh.prover.rule_run import RuleOutcome, RuleRun, Verdict, decode_name
from qmesh.mesh.prover.set_contents import Group, SetContent, list_groups
from qmesh.mesh.prover.translation_steps import run_masquerade, run_nat, run_redirect
from qmesh.mesh.prover.traveller import ADDRESSES, Traveller
from qmesh.mesh.prover.xtables.xtables_steps import run_match, run_target

_Step: TypeAlias = Callable[[RuleRun, Attributes], None]
_VERDICTS: Final[Mapping[int, Verdict]] = {-5: "return", -4: "goto", -3: "jump", 0: "drop", 1: "accept"}
_CONTINUE: Final = -1
_MARK, _CONNECTION_MARK, _PACKET_TYPE = 3, 3, 19
_COUNTING: Final = frozenset({2, 4, 5})  # NFT_OBJECT_QUOTA, _LIMIT, _CONNLIMIT
_HARMLESS_OBJECTS: Final = frozenset({1, 3, 8})  # _COUNTER, _CT_HELPER, _SECMARK
_OF_NEW_CONNECTIONS: Final = frozenset({7, 9})  # _CT_TIMEOUT, _CT_EXPECT: where there is none, the rule ends
_INVERTS: Final = 1  # NFT_LOOKUP_F_INV
_BEYOND: Final = 1  # NFT_LIMIT_F_INV
_LAYOUT: Final[Mapping[str, frozenset[int]]] = {"ip": frozenset({0, 6, 7, 9}), "ip6": frozenset({0, 6})}
"""Octets of the network's header that say which header follows, and where."""


def run_rule(run: RuleRun, expressions: tuple[Expression, ...]) -> None:
    """Run a rule's expressions one after the other."""
    for expression in expressions:
        if run.truth == FALSE:
            return
        try:
            _STEPS.get(expression.name, _give_up)(run, expression.attributes)
        except (ValueError, LookupError, struct.error):  # others wrote it
            run.give_up()


def _give_up(run: RuleRun, _: Attributes) -> None:
    run.give_up()


def _go_on(_: RuleRun, __: Attributes) -> None:
    return


def _doubt_match(run: RuleRun, _: Attributes) -> None:
    """It loads or asks something that is not modelled."""
    run.forget_registers()
    run.require(run.unknowns.doubt())


def _count(run: RuleRun, _: Attributes) -> None:
    """What counts: a packet may be within or beyond."""
    run.require(run.unknowns.chance())


def _run_limit(run: RuleRun, attributes: Attributes) -> None:
    run.require(run.unknowns.chance_of_limit(is_over=bool(read_number(attributes, 5) & _BEYOND)))


def _run_update(run: RuleRun, attributes: Attributes) -> None:
    """A packet's key becomes an element of a set, which may be full, and may have a limit of its own."""
    own = dict(parse_attributes(attributes.get(7, b"")))
    if own.get(1, b"").rstrip(b"\0") == b"limit":
        _run_limit(run, dict(parse_attributes(own[2])))
    else:
        _count(run, attributes)


def _run_load(name: str) -> _Step:
    load, source = LOADS[name]

    def step(run: RuleRun, attributes: Attributes) -> None:
        if source and source in attributes:
            _set_field(run, name, attributes, read_number(attributes, source))
            return
        bits, there = load(run, attributes)
        run.require(there)
        run.load(read_number(attributes, 1), bits)

    return step


def _set_field(run: RuleRun, name: str, attributes: Attributes, register: int) -> None:
    """A rule changes something of the packet. What is not named here is of no weight for any claim."""
    key = read_number(attributes, 2)
    match name:
        case "payload":
            _change_header(run, attributes, register)
        case "meta" if key == _MARK:
            run.change_mark(run.read(register, 4))
        case "meta" if key == _PACKET_TYPE:
            run.at.packet_type = run.gates.choose_each(run.hits, run.read(register, 1), run.at.packet_type)
        case "ct" if key == _CONNECTION_MARK:
            run.change_connection_mark(run.read(register, 4))
        case "ct":
            run.add_template()
        case "exthdr":
            run.at.are_options_its_own = False


def _change_header(run: RuleRun, attributes: Attributes, register: int) -> None:
    base, octet, length = (read_number(attributes, kind) for kind in (2, 3, 4))
    at, bits = run.at, run.read(register, length)
    found, there = load_payload(run, attributes)
    run.require(there)
    if at.take(base, octet, length) is None:
        run.change_headers()  # nobody knows which octets that are
        return
    new = run.gates.choose_each(run.hits, bits, found)
    changed = {octet + place // 8 for place in range(8 * length) if new[place] != found[place]}
    if base == 1 and changed & _LAYOUT[at.family]:
        run.change_headers()
        return
    if base == 1 and any(_is_of_target(at, each) for each in changed):
        run.change_target()
    if base == 1:
        at.network = (*at.network[: 8 * octet], *new, *at.network[8 * (octet + length) :])
    else:
        at.transport = (*at.transport[: 8 * octet], *new, *at.transport[8 * (octet + length) :])


def _is_of_target(at: Traveller, octet: int) -> bool:
    _, start, length = ADDRESSES[at.family]
    return start <= octet < start + length


def _run_immediate(run: RuleRun, attributes: Attributes) -> None:
    register = read_number(attributes, 1)
    if register:
        run.load(register, make_constant(read_data(attributes, 2)))
        return
    verdict = read_verdict(attributes, 2)
    _end(run, int.from_bytes(verdict[1], "big", signed=True), decode_name(verdict.get(2, b"")), TRUE)


def _end(run: RuleRun, code: int, chain: str, when: int) -> None:
    if code == _CONTINUE:
        return
    if code in _VERDICTS:
        run.end(_VERDICTS[code], chain, when=when)
        return
    run.require(run.gates.either(-when, run.unknowns.doubt()))
    run.give_up()


def _run_comparison(run: RuleRun, attributes: Attributes) -> None:
    operator, wanted = read_number(attributes, 2), read_data(attributes, 3)
    bits = run.read(read_number(attributes, 1), len(wanted))
    less, equal = run.gates.less(bits, wanted), run.gates.equal(bits, wanted)
    at_most = run.gates.either(less, equal)
    run.require((equal, -equal, less, at_most, -at_most, -less)[operator])


def _run_range(run: RuleRun, attributes: Attributes) -> None:
    is_outside, first, last = read_number(attributes, 2), read_data(attributes, 3), read_data(attributes, 4)
    bits = run.read(read_number(attributes, 1), len(first))
    gates = run.gates
    inside = gates.both(
        -gates.less(bits, first), gates.either(gates.less(bits, last), gates.equal(bits, last))
    )
    run.require(-inside if is_outside else inside)


def _run_bitwise(run: RuleRun, attributes: Attributes) -> None:
    source, target, length = (read_number(attributes, kind) for kind in (1, 2, 3))
    if read_number(attributes, 6):  # a shift, or of two registers
        run.load(target, run.unknowns.doubt_bits(8 * length))
        return
    mask, flips = (make_constant(read_data(attributes, kind)) for kind in (4, 5))
    bits = run.read(source, length)
    kept = (bit if known == TRUE else FALSE for bit, known in zip(bits, mask, strict=True))
    run.load(target, tuple(bit if flip == FALSE else -bit for bit, flip in zip(kept, flips, strict=True)))


def _run_byteorder(run: RuleRun, attributes: Attributes) -> None:
    source, target, length, size = (read_number(attributes, kind) for kind in (1, 2, 4, 5))
    bits = run.read(source, length)
    octets = [bits[8 * place : 8 * place + 8] for place in range(length)]
    whole = length - length % size
    turned = [each for start in range(0, whole, size) for each in reversed(octets[start : start + size])]
    run.load(target, tuple(bit for each in (*turned, *octets[whole:]) for bit in each))


def _run_lookup(run: RuleRun, attributes: Attributes) -> None:
    content = run.sets.get((*run.table, decode_name(attributes[1])))
    if content is None:
        run.give_up()
        return
    key = run.read(read_number(attributes, 2), content.key_length)
    is_inverted = bool(read_number(attributes, 5) & _INVERTS)
    has_target = 3 in attributes
    if content.elements is None or content.loses or (content.changes and has_target):
        if has_target:
            run.give_up()
        else:
            run.require(run.unknowns.doubt() if content.elements is None else run.unknowns.chance())
        return
    members, has_rest = _list_members(run, content, key)
    if has_target:
        if content.counts:  # an element that is found may end the rule by its limit
            run.require(run.unknowns.chance())
        _use_map(run, read_number(attributes, 3), members)
        return
    is_in = run.gates.any_of(wire for _, wire in members)
    if content.changes:
        is_in = run.gates.either(is_in, run.unknowns.chance())
    if is_inverted and has_rest:  # kernels differ in whether all others are in it
        run.require(run.unknowns.doubt())
        return
    if content.counts:
        is_in = run.gates.both(is_in, run.unknowns.chance())
    run.require(-is_in if is_inverted else is_in)


def _list_members(run: RuleRun, content: SetContent, key: Wires) -> tuple[list[tuple[Group, int]], bool]:
    """What a set has in it, with whether the key is there; and whether it has something for all others.

    Many rules ask large sets the same: it is found once, unless elements go by themselves in between.
    """
    place = id(content), key
    known = run.unknowns.asked_sets.get(place)
    if known is not None:
        return known
    groups, rest = list_groups(content)
    members = [(group, _match_group(run, group, key, content)) for group in groups]
    if rest is not None:
        others = Group(value=rest.value, verdict=rest.verdict, chain=rest.chain)
        members.append((others, -run.gates.any_of(is_in for _, is_in in members)))
    found = members, rest is not None
    if not any(group.is_temporary for group in groups):
        run.unknowns.asked_sets[place] = found
    return found


def _match_group(run: RuleRun, group: Group, key: Wires, content: SetContent) -> int:
    gates = run.gates
    found = gates.is_within(key, group.ranges) if group.ranges else FALSE
    for box in group.boxes:
        start, inside = 0, []
        for span, length in zip(box, content.fields, strict=True):
            inside.append(gates.is_within(key[8 * start : 8 * (start + length)], [span]))
            start += length + -length % 4
        found = gates.either(found, gates.all_of(inside))
    return gates.both(found, run.unknowns.chance()) if group.is_temporary else found


def _use_map(run: RuleRun, register: int, members: list[tuple[Group, int]]) -> None:
    if not register:
        found = run.gates.any_of(wire for _, wire in members)
        run.require(found)
        for group, when in members:
            _end(run, group.verdict or 0, group.chain, when)
        return
    run.require(run.gates.any_of(wire for _, wire in members))
    longest = max((len(group.value or b"") for group, _ in members), default=0)
    bits = (FALSE,) * (8 * longest)
    for group, when in members:
        value = make_constant((group.value or b"").ljust(longest, b"\0"))
        bits = run.gates.choose_each(when, value, bits)
    run.load(register, bits)


def _run_notrack(run: RuleRun, _: Attributes) -> None:
    run.untrack()


def _run_reject(run: RuleRun, _: Attributes) -> None:
    run.end("drop")


def _run_queue(run: RuleRun, _: Attributes) -> None:
    """A program decides, and may change the packet and its marks."""
    run.change_headers()
    run.change_mark(run.unknowns.doubt_bits(32))
    run.change_connection_mark(run.unknowns.doubt_bits(32))
    run.end("drop", when=run.unknowns.doubt())
    run.end("accept")


def _run_escape(run: RuleRun, _: Attributes) -> None:
    """It goes on by another way, or to a socket that the rule chooses."""
    run.end("drop", when=run.unknowns.doubt())
    run.end("escape")


def _run_copy(run: RuleRun, _: Attributes) -> None:
    """A copy goes elsewhere, and may come back by another interface."""
    run.outcomes.append(RuleOutcome("escape", run.gates.both(run.truth, run.unknowns.doubt())))


def _run_object(run: RuleRun, attributes: Attributes) -> None:
    kind = read_number(attributes, 1)
    if kind in _COUNTING:
        _count(run, attributes)
    elif kind in _OF_NEW_CONNECTIONS:
        run.require(run.unknowns.doubt())
        run.end("drop", when=run.unknowns.doubt())  # where there is no memory for it, or it is there already
    elif kind not in _HARMLESS_OBJECTS:
        run.give_up()


def _run_xt_match(run: RuleRun, attributes: Attributes) -> None:
    run.require(run_match(run, decode_name(attributes[1]), read_number(attributes, 2), attributes[3]))


def _run_xt_target(run: RuleRun, attributes: Attributes) -> None:
    run_target(run, decode_name(attributes[1]), read_number(attributes, 2), attributes[3])


_STEPS: Final[Mapping[str, _Step]] = {
    **dict.fromkeys(("counter", "log", "last"), _go_on),
    "limit": _run_limit, "dynset": _run_update, **dict.fromkeys(("connlimit", "quota"), _count),
    **dict.fromkeys(("hash", "osf", "socket", "xfrm", "tunnel", "rt", "inner"), _doubt_match),
    **{name: _run_load(name) for name in LOADS},
    "immediate": _run_immediate, "cmp": _run_comparison, "range": _run_range, "bitwise": _run_bitwise,
    "byteorder": _run_byteorder, "lookup": _run_lookup, "notrack": _run_notrack, "reject": _run_reject,
    "nat": run_nat, "redir": run_redirect, "masq": run_masquerade, "queue": _run_queue,
    **dict.fromkeys(("tproxy", "synproxy", "fwd", "flow_offload"), _run_escape),
    "dup": _run_copy, "objref": _run_object, "match": _run_xt_match, "target": _run_xt_target,
}  # fmt: skip
