"""What rules load of a packet whose bits are wires. Source: linux/netfilter/nf_tables.h for numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from qmesh.mesh.foreign.expressions import Attributes, read_number
from qmesh.mesh.foreign.packet_fields import ORDER
from qmesh.mesh.prover.gates import FALSE, TRUE, Wires, make_constant
from qmesh.mesh.prover.packet_facts import (
    find_address_kind,
    find_header,
    find_value,
    is_own_here,
    is_own_source,
)
from qmesh.mesh.prover.rule_run import Load, RuleRun
from qmesh.mesh.prover.traveller import (
    FAMILY_NUMBERS,
    LEAST_TRANSPORT,
    NAME_OCTETS,
    PacketInterface,
    build_connection_state,
    build_direction,
    place_bits,
)
from qmesh.mesh.prover.way_back import leads_back

_INDEXES, _NAMES, _TYPES, _KINDS = (4, 5), (6, 7), (8, 9), (26, 27)
"""NFT_META_*, of the interface by which a packet comes, and of the one by which it goes."""
_STATE: Final = 0  # NFT_CT_STATE
_CONNECTION_DIRECTION: Final = 3  # NFTA_CT_DIRECTION
_FIB_TYPE, _FIB_OF_SOURCE, _FIB_OF_TARGET, _FIB_BY_INPUT = 3, 1, 2, 8
_FIB_MARK, _FIB_PRESENT = 4, 32
_FIB_WAYS: Final = frozenset({_FIB_OF_SOURCE | _FIB_BY_INPUT, _FIB_OF_TARGET | _FIB_BY_INPUT})
_BY_INTERFACE: Final = {1: "index", 2: "name"}
"""NFT_FIB_RESULT_OIF, _OIFNAME."""
_OF_TCP, _OF_IPV4, _IS_THERE = 1, 2, 1  # NFT_EXTHDR_OP_TCPOPT, _IPV4, NFT_EXTHDR_F_PRESENT
_OPERATIONS: Final = frozenset({0, _OF_TCP, _OF_IPV4})
_LINK, _NETWORK = 0, 1
_LONGEST: Final = 16
"""Octets of what is loaded that is not known: of a register."""
_ETHERTYPES: Final = {"ip": b"\x08\x00", "ip6": b"\x86\xdd"}


def load_unknown(run: RuleRun, length: int = _LONGEST) -> tuple[Wires, int]:
    """Something that is not modelled, which may not be there."""
    return run.unknowns.doubt_bits(8 * length), run.unknowns.doubt()


def load_payload(run: RuleRun, attributes: Attributes) -> tuple[Wires, int]:
    """Octets of a header, which may not be there."""
    base, octet, length = (read_number(attributes, kind) for kind in (2, 3, 4))
    found = run.at.take(base, octet, length)
    if (base, octet, length) == (_LINK, 12, 2):  # rules ask first whether there is one
        return make_constant(_ETHERTYPES[run.at.family]), run.unknowns.doubt()
    if found is None:
        return load_unknown(run, length)
    if base == _NETWORK:
        return found, TRUE
    there = (
        TRUE if octet + length <= LEAST_TRANSPORT else run.gates.either(run.at.is_tcp, run.unknowns.chance())
    )
    return found, run.gates.both(there, -run.at.is_piece)


def _load_meta(run: RuleRun, attributes: Attributes) -> tuple[Wires, int]:
    at, key = run.at, read_number(attributes, 2)
    if key in {*_INDEXES, *_NAMES, *_TYPES, *_KINDS}:
        is_input = key in {_INDEXES[0], _NAMES[0], _TYPES[0], _KINDS[0]}
        return _load_interface(at.iif if is_input else at.oif, key)
    match key:
        case 1:
            return make_constant(_ETHERTYPES[at.family]), TRUE
        case 3:
            return at.mark, TRUE
        case 10 | 11:
            user = at.user if key == 10 else at.group
            return user, run.unknowns.doubt() if at.iif else at.has_socket
        case 15:
            return make_constant(bytes([FAMILY_NUMBERS[at.family]])), TRUE
        case 16:
            return at.protocol, TRUE
        case 19:
            return at.packet_type, TRUE
    return load_unknown(run)


def _load_interface(interface: PacketInterface | None, key: int) -> tuple[Wires, int]:
    if interface is None:
        length = NAME_OCTETS if key in {*_NAMES, *_KINDS} else 4
        return (FALSE,) * (8 * length), FALSE if key in {*_TYPES, *_KINDS} else TRUE
    if key in _INDEXES:
        return interface.index, TRUE
    if key in _NAMES:
        return interface.name, TRUE
    return (interface.type, TRUE) if key in _TYPES else (interface.kind, interface.has_kind)


def _load_connection(run: RuleRun, attributes: Attributes) -> tuple[Wires, int]:
    at, gates, key = run.at, run.gates, read_number(attributes, 2)
    if key == _STATE:
        return _load_state(run), TRUE
    there = at.is_in_connection
    if at.phase == "before conntrack":
        may_be = gates.either(gates.both(there, at.is_looped), at.has_template)
        there = gates.both(may_be, run.unknowns.doubt())
    elif at.phase == "at conntrack":
        there = gates.both(gates.either(there, at.has_template), run.unknowns.doubt())
    if _CONNECTION_DIRECTION not in attributes:
        match key:
            case 1:
                return build_direction(at), there
            case 2:
                return place_bits(dict(enumerate(at.connection.status)), 4), there
            case 3:
                return at.connection_mark, there
    return run.unknowns.doubt_bits(8 * _LONGEST), gates.both(there, run.unknowns.doubt())


def _load_state(run: RuleRun) -> Wires:
    at, gates = run.at, run.gates
    now = build_connection_state(at)
    if at.phase == "after conntrack":
        return now
    none = place_bits({0: -at.untracked, 6: at.untracked}, 4)
    if at.has_template != FALSE:
        none = gates.choose_each(at.has_template, run.unknowns.doubt_bits(32), none)
    if at.phase == "before conntrack" and at.is_looped == FALSE:
        return none
    is_there = run.unknowns.doubt()
    if at.phase == "before conntrack":
        is_there = gates.both(is_there, at.is_looped)
    return gates.choose_each(is_there, now, none)


def _load_route(run: RuleRun, attributes: Attributes) -> tuple[Wires, int]:
    """Whose an address is, and whether it is reached by where the packet came from."""
    at, result, flags = run.at, read_number(attributes, 2), read_number(attributes, 3)
    if result in _BY_INTERFACE and flags & ~(_FIB_MARK | _FIB_PRESENT) in _FIB_WAYS:
        return _load_way(run, _BY_INTERFACE[result], flags), TRUE
    if result != _FIB_TYPE or flags & ~(_FIB_OF_SOURCE | _FIB_OF_TARGET | _FIB_BY_INPUT):
        return load_unknown(run)
    is_of_target = bool(flags & _FIB_OF_TARGET)
    address = at.target if is_of_target else at.source
    if not flags & _FIB_BY_INPUT:
        kind = find_address_kind(at, address, at.is_for_this_machine if is_of_target else is_own_source(at))
    elif at.iif is None:
        return load_unknown(run)
    else:
        is_own = is_own_here(at, address)
        if is_of_target:
            is_own = run.gates.both(is_own, at.is_for_this_machine)
        kind = find_address_kind(at, address, is_own, at.iif.index)
    return place_bits({7 - place: bit for place, bit in enumerate(kind)}, 4), TRUE


def _load_way(run: RuleRun, field: str, flags: int) -> Wires:
    """The interface by which it came, where an address is reached by it, else none; or whether it is."""
    address = run.at.target if flags & _FIB_OF_TARGET else run.at.source
    is_back = leads_back(run, address, asks_mark=bool(flags & _FIB_MARK), takes_all=True)
    if flags & _FIB_PRESENT:
        return place_bits({0: is_back}, 1)
    assert run.at.iif is not None
    return tuple(run.gates.both(is_back, bit) for bit in getattr(run.at.iif, field))


def _load_header_option(run: RuleRun, attributes: Attributes) -> tuple[Wires, int]:
    """A further header of IPv6, or an option of TCP, IPv4 or another; or whether there is one."""
    at, gates = run.at, run.gates
    kind, octet, length, flags, operation = (read_number(attributes, each) for each in (2, 3, 4, 5, 6))
    if operation not in _OPERATIONS or not at.are_options_its_own:
        return load_unknown(run)
    if operation != _OF_TCP and (operation == _OF_IPV4) != (at.family == "ip"):
        return (FALSE,) * 8 * length, FALSE
    there = find_header(at, operation, kind)
    if operation == _OF_TCP:
        there = gates.all_of((there, at.is_tcp, -at.is_piece))
    if flags & _IS_THERE:
        return (*(FALSE,) * 7, there), TRUE
    is_whole = find_header(at, operation, kind, octet + length)
    return find_value(at, operation, kind, octet, length), gates.both(there, is_whole)


def load_choice(run: RuleRun, attributes: Attributes) -> tuple[Wires, int]:
    """`numgen`: any number of a range, each time another."""
    count, offset = read_number(attributes, 2), read_number(attributes, 4)
    bits = {weight: run.unknowns.chance() for weight in range(32)}
    chosen = tuple(bits[31 - place] for place in range(32))
    is_one = run.gates.is_within(chosen, [(offset, offset + count - 1)]) if count else FALSE
    first = make_constant(offset.to_bytes(4, ORDER))
    return run.gates.choose_each(is_one, place_bits(bits, 4), first), TRUE


LOADS: Final[Mapping[str, tuple[Load, int]]] = {
    "payload": (load_payload, 5), "meta": (_load_meta, 3), "ct": (_load_connection, 4),
    "fib": (_load_route, 0), "exthdr": (_load_header_option, 7), "numgen": (load_choice, 0),
}  # fmt: skip
"""By an expression's name: what it loads into the register of attribute 1; and the attribute by which it sets
something in place of that."""
