"""A packet of which nothing need be known: its bits are wires, and rules change some of them.

Source: net/netfilter/nft_meta.c, nft_ct.c and nft_payload.c for what each field has, and when there is none.
"""

from __future__ import annotations

import itertools
from typing import Any, Final, Literal, TypeAlias

import msgspec

from qmesh.mesh.foreign.packet_fields import ORDER, STATES
from qmesh.mesh.prover.gates import FALSE, TRUE, Gates, Wires, make_constant

Family: TypeAlias = Literal["ip", "ip6"]
Phase: TypeAlias = Literal["before conntrack", "at conntrack", "after conntrack"]
NETWORK_OCTETS: Final[dict[Family, int]] = {"ip": 20, "ip6": 40}
TRANSPORT_OCTETS: Final = 20
LEAST_TRANSPORT: Final = 8
"""Of UDP's header; TCP's has all of them."""
ADDRESSES: Final[dict[Family, tuple[int, int, int]]] = {"ip": (12, 16, 4), "ip6": (8, 24, 16)}
"""Where the header has its source and its target, and how long they are: octets."""
FAMILY_NUMBERS: Final[dict[Family, int]] = {"ip": 2, "ip6": 10}
"""AF_*, NFPROTO_*."""
_PROTOCOL_OCTET: Final = 9
NAME_OCTETS: Final = 16
TCP, UDP = b"\x06", b"\x11"
FIN, SYN, RST, ACK = 7, 6, 5, 3
"""Bits of TCP's flags, from the highest."""
SEEN_REPLY, ASSURED, CONFIRMED, SOURCE_NAT, TARGET_NAT = 1, 2, 3, 4, 5
"""Bits of a connection's status, from the lowest. Source: nf_conntrack_common.h, IPS_*."""
LOCAL: Final = 2
"""RTN_LOCAL."""


class PacketInterface(msgspec.Struct, frozen=True):
    """An end of a packet's way through the machine. has_kind: only some have one."""

    name: Wires
    index: Wires
    type: Wires
    kind: Wires
    has_kind: int


class PacketConnection(msgspec.Struct, frozen=True):
    """What conntrack says of a packet. is_tracked: False for one that it finds invalid."""

    is_tracked: int
    is_established: int
    is_related: int
    is_reply: int
    status: Wires


class Traveller:
    """A packet, and where it is. `mark`, `connection_mark` and `status` are as registers have them.

    has_template: whether a rule before conntrack may have said what its connection will be like.
    facts: what was asked of it beside, by what was asked.
    are_options_its_own: whether no rule can have changed its options and further headers.
    """

    def __init__(self, gates: Gates, family: Family, *, arrives: bool) -> None:
        self.gates = gates
        self.family: Family = family
        self.network = gates.make_variables(8 * NETWORK_OCTETS[family])
        self.transport = gates.make_variables(8 * TRANSPORT_OCTETS)
        self.protocol = gates.make_variables(8)
        if family == "ip":
            place = 8 * _PROTOCOL_OCTET
            self.network = (*self.network[:place], *self.protocol, *self.network[place + 8 :])
        self.mark = gates.make_variables(32)
        self.connection_mark = gates.make_variables(32)
        self.untracked = FALSE
        self.has_template = FALSE
        self.iif = self._make_interface() if arrives else None
        self.oif: PacketInterface | None = None if arrives else self._make_interface()
        self.is_looped = self._is_loopback(self.iif) if self.iif else FALSE
        tracked, established, related, reply = gates.make_variables(4)
        self.connection = PacketConnection(tracked, established, related, reply, gates.make_variables(32))
        self.is_for_this_machine = gates.make_variable()
        self.has_socket = FALSE if arrives else gates.make_variable()
        self.user, self.group = gates.make_variables(32), gates.make_variables(32)
        self.packet_type = gates.make_variables(8)
        self.is_piece = FALSE
        self.facts: dict[tuple[Any, ...], Wires] = {}
        self.are_options_its_own = True
        self.hook = ""
        self.phase: Phase = "after conntrack"

    def _make_interface(self) -> PacketInterface:
        make = self.gates.make_variables
        return PacketInterface(make(8 * NAME_OCTETS), make(32), make(16), make(8 * NAME_OCTETS), make(1)[0])

    def _is_loopback(self, interface: PacketInterface) -> int:
        return self.gates.equal(interface.type, (772).to_bytes(2, ORDER))

    def find_fact(self, key: tuple[Any, ...], count: int) -> Wires:
        """So many bits, the same each time that this is asked."""
        if key not in self.facts:
            self.facts[key] = self.gates.make_variables(count)
        return self.facts[key]

    def leave_by(self, when: int = TRUE) -> None:
        """It has been routed, where that is so: from here on it goes by any other interface."""
        found, before = self._make_interface(), self.oif
        if before is None:
            self.oif = found
            return
        choose, choose_each = self.gates.choose, self.gates.choose_each
        self.oif = PacketInterface(
            choose_each(when, found.name, before.name),
            choose_each(when, found.index, before.index),
            choose_each(when, found.type, before.type),
            choose_each(when, found.kind, before.kind),
            choose(when, found.has_kind, before.has_kind),
        )

    def take(self, base: int, octet: int, count: int) -> Wires | None:
        """Some octets of a header; None where they are not surely there."""
        header = {1: self.network, 2: self.transport}.get(base, ())
        found = header[8 * octet : 8 * (octet + count)]
        return found if len(found) == 8 * count else None

    @property
    def is_tcp(self) -> int:
        """Whether it is TCP."""
        return self.gates.equal(self.protocol, TCP)

    @property
    def is_udp(self) -> int:
        """Whether it is UDP."""
        return self.gates.equal(self.protocol, UDP)

    def flag(self, bit: int) -> int:
        """A flag of TCP."""
        return self.transport[8 * 13 + bit]

    @property
    def source(self) -> Wires:
        """Its source address."""
        start, _, length = ADDRESSES[self.family]
        return self.network[8 * start : 8 * (start + length)]

    @property
    def target(self) -> Wires:
        """Its target address."""
        _, start, length = ADDRESSES[self.family]
        return self.network[8 * start : 8 * (start + length)]

    @property
    def source_port(self) -> Wires:
        """Its source port."""
        return self.transport[:16]

    @property
    def target_port(self) -> Wires:
        """Its target port."""
        return self.transport[16:32]

    @property
    def is_in_connection(self) -> int:
        """Whether conntrack has a connection for it, and no rule has said otherwise."""
        return self.gates.both(self.connection.is_tracked, -self.untracked)

    @property
    def is_new(self) -> int:
        """Whether it begins a connection."""
        seen = self.gates.either(self.connection.is_established, self.connection.is_related)
        return self.gates.both(self.is_in_connection, -seen)

    @property
    def is_answer(self) -> int:
        """Whether it goes the other way than the first packet of its connection."""
        return self.gates.both(self.is_in_connection, self.connection.is_reply)

    def list_laws(self) -> list[int]:
        """What holds of every packet, whatever it is."""
        gates, has = self.gates, self.connection
        version = b"\x04" if self.family == "ip" else b"\x06"
        is_old = gates.either(has.is_established, has.is_related)
        ends = [each for each in (self.iif, self.oif) if each is not None]
        return [
            *(-gates.both(self._is_loopback(each), each.has_kind) for each in ends),
            *(law for each in ends for law in _list_name_laws(gates, each)),
            gates.all_of(
                bit if known == TRUE else -bit
                for bit, known in zip(self.network[:4], make_constant(version)[4:], strict=True)
            ),
            -gates.both(has.is_established, has.is_related),
            gates.either(-has.is_reply, is_old),
        ]

    def note_translation(self, is_said: int) -> None:
        """Whether its connection's target is translated: of a new one it is said once that was done."""
        has = self.connection
        status = (*has.status[:TARGET_NAT], is_said, *has.status[TARGET_NAT + 1 :])
        self.connection = msgspec.structs.replace(has, status=status)

    def translate_target(self, is_changed: int) -> None:
        """Its target becomes any other, where that is so."""
        gates = self.gates
        _, start, length = ADDRESSES[self.family]
        other = gates.choose_each(is_changed, gates.make_variables(8 * length), self.target)
        self.network = (*self.network[: 8 * start], *other, *self.network[8 * (start + length) :])
        port = gates.choose_each(is_changed, gates.make_variables(16), self.target_port)
        self.transport = (*self.transport[:16], *port, *self.transport[32:])
        local = gates.make_variable()
        self.is_for_this_machine = gates.choose(is_changed, local, self.is_for_this_machine)

    def change_target(self, when: int, address: Wires | None, port: Wires) -> None:
        """Its target becomes that one, where that is so; address: None where it is not known."""
        gates = self.gates
        _, start, length = ADDRESSES[self.family]
        if address is not None:
            other = gates.choose_each(when, address, self.target)
            self.network = (*self.network[: 8 * start], *other, *self.network[8 * (start + length) :])
        port = gates.choose_each(when, port, self.target_port)
        self.transport = (*self.transport[:16], *port, *self.transport[32:])

    def translate_source(self, is_changed: int) -> None:
        """Its source becomes any other, where that is so."""
        gates = self.gates
        start, _, length = ADDRESSES[self.family]
        other = gates.choose_each(is_changed, gates.make_variables(8 * length), self.source)
        self.network = (*self.network[: 8 * start], *other, *self.network[8 * (start + length) :])
        port = gates.choose_each(is_changed, gates.make_variables(16), self.source_port)
        self.transport = (*port, *self.transport[16:])


def _list_name_laws(gates: Gates, interface: PacketInterface) -> list[int]:
    """What is left of a name's octets is 0, and the name has one octet at least."""
    found = [gates.any_of(interface.name[:8])]
    for name in (interface.name, interface.kind):
        octets = [gates.any_of(name[start : start + 8]) for start in range(0, 8 * NAME_OCTETS, 8)]
        found += [gates.either(before, -after) for before, after in itertools.pairwise(octets)]
    return found


def place_bits(bits: dict[int, int], octets: int) -> Wires:
    """A number as the kernel has it in a register. bits: by weight; the others are 0."""
    found = [FALSE] * (8 * octets)
    for weight, wire in bits.items():
        octet = weight // 8 if ORDER == "little" else octets - 1 - weight // 8
        found[8 * octet + 7 - weight % 8] = wire
    return tuple(found)


def build_connection_state(at: Traveller) -> Wires:
    """`ct state`, as its register has it."""
    gates, has = at.gates, at.connection
    weights = {name: number.bit_length() - 1 for name, number in STATES.items()}
    inside = at.is_in_connection
    return place_bits(
        {
            weights["untracked"]: at.untracked,
            weights["invalid"]: gates.both(-at.untracked, -has.is_tracked),
            weights["established"]: gates.both(inside, has.is_established),
            weights["related"]: gates.both(inside, has.is_related),
            weights["new"]: at.is_new,
        },
        4,
    )


def build_direction(at: Traveller) -> Wires:
    """`ct direction`, as its register has it."""
    return place_bits({0: at.connection.is_reply}, 1)
