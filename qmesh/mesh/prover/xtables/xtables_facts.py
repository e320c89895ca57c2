"""iptables' matches about what is no field of a header. Source: net/netfilter/xt_*.c."""

from __future__ import annotations

import struct
from typing import Final

from qmesh.mesh.foreign.packet_fields import ORDER
from qmesh.mesh.prover.gates import FALSE, TRUE, Wires
from qmesh.mesh.prover.packet_facts import (
    MULTICAST,
    UNICAST,
    find_address_kind,
    find_header,
    find_value,
    is_multicast,
    is_own_source,
)
from qmesh.mesh.prover.rule_run import RuleRun
from qmesh.mesh.prover.traveller import LOCAL
from qmesh.mesh.prover.way_back import leads_back

_USER, _GROUP = 1, 2  # XT_OWNER_UID, _GID
_NOT_SOURCE, _NOT_TARGET = 1, 2  # XT_ADDRTYPE_INVERT_*
_BY_MARK, _NOT_BACK = 2, 8  # XT_RPFILTER_VALID_MARK, _INVERT
_OF_TCP, _SEGMENT, _ROUTING = 1, 2, 43
"""NFT_EXTHDR_OP_TCPOPT, TCPOPT_MAXSEG, NEXTHDR_ROUTING."""
_NO_UNICAST: Final = [(0, 0), (0xFFFF << 32, (0xFFFF << 32) + (1 << 32) - 1)]
"""Of IPv6: nobody's address, and those that stand for IPv4's."""


def match_owner(run: RuleRun, content: bytes) -> int:
    """`owner`: the user and the group of the program whose socket it is."""
    least, most, least_group, most_group, asked, inverted = struct.unpack_from("=4I2B", content)
    at, gates = run.at, run.gates
    if asked & ~(_USER | _GROUP) or at.iif is not None:
        return run.unknowns.doubt()
    found = TRUE
    for bit, owner, span in (
        (_USER, at.user, (least, most)), (_GROUP, at.group, (least_group, most_group)),
    ):  # fmt: skip
        if asked & bit:
            inside = gates.is_within(_read(owner), [span]) if span[0] <= span[1] else FALSE
            found = gates.both(found, -inside if inverted & bit else inside)
    return gates.choose(at.has_socket, found, TRUE if asked == asked & inverted else FALSE)


def _read(number: Wires) -> Wires:
    """A number of the machine's own order, its highest bit first."""
    octets = [number[place : place + 8] for place in range(0, len(number), 8)]
    return tuple(bit for octet in (reversed(octets) if ORDER == "little" else octets) for bit in octet)


def match_address_type(run: RuleRun, content: bytes) -> int:
    """`addrtype`: whose its addresses are. Of an interface's own it is not known."""
    source, target, flags = struct.unpack_from("=HHI", content)
    at, found = run.at, TRUE
    if flags & ~(_NOT_SOURCE | _NOT_TARGET):
        return run.unknowns.doubt()
    for kinds, address, inverted in ((source, at.source, _NOT_SOURCE), (target, at.target, _NOT_TARGET)):
        if kinds:
            own = is_own_source(at) if inverted == _NOT_SOURCE else at.is_for_this_machine
            matches = _match_ip_kind if at.family == "ip" else _match_ip6_kind
            is_one = matches(run, address, own, kinds)
            found = run.gates.both(found, -is_one if flags & inverted else is_one)
    return found


def _match_ip_kind(run: RuleRun, address: Wires, is_own: int, kinds: int) -> int:
    kind = find_address_kind(run.at, address, is_own)
    return run.gates.any_of(
        run.gates.equal(kind, bytes([number])) for number in range(16) if kinds >> number & 1
    )


def _match_ip6_kind(run: RuleRun, address: Wires, is_own: int, kinds: int) -> int:
    """Each kind that is asked for has to be, not one of them."""
    gates = run.gates
    if kinds & ~(1 << LOCAL | 1 << MULTICAST | 1 << UNICAST):
        return run.unknowns.doubt()
    to_all = is_multicast(run.at, address)
    is_one = -gates.either(to_all, gates.is_within(address, _NO_UNICAST))
    found = ((LOCAL, is_own), (MULTICAST, to_all), (UNICAST, is_one))
    return gates.all_of(wire for number, wire in found if kinds >> number & 1)


def match_reverse_path(run: RuleRun, content: bytes) -> int:
    """`rpfilter`: whether its source is reached by where it came from."""
    flags = content[0]
    if flags & ~(_BY_MARK | _NOT_BACK):
        return run.unknowns.doubt()
    found = leads_back(run, run.at.source, asks_mark=bool(flags & _BY_MARK), takes_all=False)
    return -found if flags & _NOT_BACK else found


def match_routing_header(run: RuleRun, content: bytes) -> int:
    """`rt` of IPv6: a routing header, of which nothing but the words of the rule itself is known."""
    if not run.at.are_options_its_own:
        return run.unknowns.doubt()
    return find_header(run.at, 0, _ROUTING, int.from_bytes(content, ORDER))


def match_segment_size(run: RuleRun, content: bytes) -> int:
    """`tcpmss`: the greatest segment that the sender takes, by an option of TCP."""
    least, most, is_inverted = struct.unpack_from("=HHB", content)
    at, gates = run.at, run.gates
    if not at.are_options_its_own:
        return run.unknowns.doubt()
    there = gates.all_of((find_header(at, _OF_TCP, _SEGMENT), at.is_tcp, -at.is_piece))
    size = find_value(at, _OF_TCP, _SEGMENT, 2, 2)
    inside = gates.is_within(size, [(least, most)]) if least <= most else FALSE
    return gates.choose(there, -inside if is_inverted else inside, TRUE if is_inverted else FALSE)


def match_option(run: RuleRun, option: int, *, is_inverted: bool) -> int:
    """Whether it has an option of TCP."""
    if not run.at.are_options_its_own:
        return run.unknowns.doubt()
    found = find_header(run.at, _OF_TCP, option)
    return -found if is_inverted else found
