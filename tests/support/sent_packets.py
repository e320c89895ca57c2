"""Packets of all kinds, drawn by a seed, and what the prover says of each."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address, ip_network
from random import Random
from typing import Final, NamedTuple

from qmesh.mesh.foreign.packet_fields import ORDER
from qmesh.mesh.prover.gates import FALSE, TRUE, Gates, Wires, make_constant
from qmesh.mesh.prover.rulesets import ProvedRuleset
from qmesh.mesh.prover.solver import Solver
from qmesh.mesh.prover.traveller import Family, Traveller
from qmesh.mesh.prover.walk import Walk
from tests.support.foreign_cases import Fate
from tests.support.random_rules import INTERFACES, NETWORKS, PORTS, TARGETS

_TYPES: Final = {"qmesh0": 0xFFFE, "eth0": 1, "eth10": 1}
OWN_ADDRESSES: Final[dict[tuple[str, Family], str]] = {
    ("qmesh0", "ip"): "10.77.0.2", ("qmesh0", "ip6"): "fd77::2", ("eth0", "ip"): "192.0.2.2",
    ("eth0", "ip6"): "2001:db8::2",
}  # fmt: skip
"""This machine's, by interface."""
BESIDE: Final = {"ip": ("10.77.0.0/24", "192.0.2.0/24"), "ip6": ("fd77::/64", "2001:db8::/64")}
"""Networks that it has addresses in."""
MOST_TRANSLATED: Final = 40
"""Packets of a rule set, of those that rules may translate, of which a solver is asked."""
_FLAGS: Final = {"syn": 0x02, "ack": 0x10, "rst": 0x04}


class SentPacket(NamedTuple):
    """A packet that begins a connection, or says that it is in the middle of one."""

    number: int
    family: Family
    interface: str
    protocol: str
    source: str
    source_port: int
    target: str
    target_port: int
    flag: str
    hops: int
    service: int
    segment: int | None = None

    @property
    def option(self) -> bytes:
        """TCP's, of the greatest segment that is taken; empty without one."""
        return b"" if self.segment is None else struct.pack("!BBH", 2, 4, self.segment)

    def build(self) -> tuple[bytes, bytes]:
        """The network's header and what is behind it."""
        ports = struct.pack("!HH", self.source_port, self.target_port)
        number = struct.pack("!I", self.number)
        if self.protocol == "udp":
            content = ports + struct.pack("!HH", 12, 0) + number
        else:
            length = (20 + len(self.option)) << 2
            content = ports + number + struct.pack("!IBBHHH", 0, length, _FLAGS[self.flag], 1000, 0, 0)
            content += self.option
        kind = {"tcp": 6, "udp": 17}[self.protocol]
        ends = ip_address(self.source).packed, ip_address(self.target).packed
        pseudo = b"".join(ends) + struct.pack("!HH", kind, len(content))
        place = 16 if self.protocol == "tcp" else 6
        content = content[:place] + struct.pack("!H", _checksum(pseudo + content)) + content[place + 2 :]
        if self.family == "ip6":
            first = 6 << 28 | self.service << 20
            return struct.pack("!IHBB", first, len(content), kind, self.hops) + b"".join(ends), content
        header = struct.pack(
            "!BBHHHBBH", 0x45, self.service, 20 + len(content), self.number & 0xFFFF, 0, self.hops, kind, 0
        )
        return header[:10] + struct.pack("!H", _checksum(header + b"".join(ends))) + b"".join(ends), content


def draw_packets(random: Random, count: int, first: int, *, ports: Sequence[int] = PORTS) -> list[SentPacket]:
    """Some, each of a connection of its own. ports: of which most are."""
    found: dict[tuple[str, str, str], SentPacket] = {}
    while len(found) < count:
        family: Family = random.choice(("ip", "ip6"))
        network = ip_network(random.choice((*NETWORKS[family], random.choice(BESIDE[family]))))
        size = min(16, network.max_prefixlen - network.prefixlen)
        source = str(network.network_address + random.randrange(3, (1 << size) - 1))
        protocol = random.choice(("tcp", "udp"))
        found[family, protocol, source] = SentPacket(
            number=first + len(found), family=family, interface=random.choice(INTERFACES), protocol=protocol,
            source=source, source_port=random.choice(ports), target=random.choice(TARGETS[family]),
            target_port=random.choice((*ports, random.randrange(1, 65536))),
            flag=random.choice(tuple(_FLAGS)), hops=random.choice((1, 59, 60, 64, 255)),
            service=random.choice((0, 32)),
            segment=random.choice((None, 100, 536, 1400)) if protocol == "tcp" else None,
        )  # fmt: skip
    return list(found.values())


class Judge:
    """The prover's word on packets of a family: one walk, and many packets through its gates at once."""

    def __init__(self, ruleset: ProvedRuleset, family: Family, interfaces: Mapping[str, int]) -> None:
        self._interfaces = interfaces
        self._gates = Gates()
        at = Traveller(self._gates, family, arrives=True)
        self._walk = Walk(self._gates, ruleset, at)
        for hook in ("ingress", "prerouting", "input"):
            self._walk.pass_hook(hook)
        self._cone = self._gates.list_cone([self._walk.alive])

    def list_alive(self, packets: Sequence[SentPacket]) -> list[bool]:
        """Of each packet whether it comes past all rules."""
        every = (1 << len(packets)) - 1
        values: dict[int, int] = {TRUE: every, **dict.fromkeys(self._walk.switches, every)}
        for place, packet in enumerate(packets):
            for wire, is_set in self._list_bits(packet):
                if is_set:
                    values[wire] = values.get(wire, 0) | 1 << place
        for node in self._cone:
            inputs = self._gates.inputs[node]
            if inputs is not None:
                one, other = (values[wire] if wire > 0 else every ^ values[-wire] for wire in inputs)
                values[node] = one & other
            else:
                values.setdefault(node, 0)
        alive = self._walk.alive
        found = values[alive] if alive > 0 else every ^ values[-alive]
        return [bool(found >> place & 1) for place in range(len(packets))]

    def list_fates(self, packets: Sequence[SentPacket]) -> list[Fate]:
        """Of each packet what becomes of it, where that can be said with each gate by itself.

        Of each wire it is known for which packets it may be on, and for which off: all at once, bit by bit.
        """
        every = (1 << len(packets)) - 1
        passes, escapes = self._walk.alive, self._walk.escaped
        known = {TRUE: every, **dict.fromkeys(self._walk.switches, every), **self._list_known()}
        for place, packet in enumerate(packets):
            for wire, is_set in self._list_bits(packet):
                known[wire] = known.get(wire, 0) | (1 << place if is_set else 0)
        may_be: dict[int, tuple[int, int]] = {}
        for node in self._gates.list_cone([passes, escapes]):
            inputs = self._gates.inputs[node]
            if inputs is None:
                may_be[node] = (known[node], every ^ known[node]) if node in known else (every, every)
            else:
                (one, not_one), (other, not_other) = (_look_up(may_be, wire) for wire in inputs)
                may_be[node] = one & other, not_one | not_other
        may_be[TRUE] = every, 0
        on, off = _look_up(may_be, passes)
        escaped, _ = _look_up(may_be, escapes)
        fates: list[Fate] = [
            "unclear" if (on & off | escaped) >> place & 1 else "passes" if on >> place & 1 else "drops"
            for place in range(len(packets))
        ]
        if self._walk.diversion.when != FALSE:
            asked = [place for place, fate in enumerate(fates) if fate == "unclear"][:MOST_TRANSLATED]
            found = self._list_translated([packets[place] for place in asked])
            for place, fate in zip(asked, found, strict=True):
                fates[place] = fate
        return fates

    def _list_translated(self, packets: Sequence[SentPacket]) -> Iterator[Fate]:
        """What becomes of each, where it is known to what rules translate it: they may also drop it there."""
        walk = self._walk
        off = [-wire for wire in self._list_known()]
        with Solver(self._gates) as solver:
            for law in (*walk.laws, *walk.usual):
                solver.require(law)
            passes = self._gates.both(walk.alive, -walk.escaped)
            for packet in packets:
                bits = self._list_bits(packet)
                asked = [wire if is_set else -wire for wire, is_set in bits if abs(wire) != TRUE]
                asked += (*off, *walk.switches)
                is_known = solver.is_possible(asked)
                yield "drops" if is_known and not solver.is_possible([*asked, passes]) else "unclear"

    def _list_facts(self, packet: SentPacket, known: Mapping[int, bool]) -> Iterator[tuple[int, bool]]:
        """The option that it has; and that it comes from elsewhere, and goes to one machine."""
        source, target = (int(ip_address(each)) for each in (packet.source, packet.target))
        for key, wires in self._walk.start.facts.items():
            match key:
                case ("header", operation, kind, octets):
                    yield wires[0], (operation, kind) == (1, 2) and octets <= len(packet.option) > 0
                case ("value", operation, kind, octet, length):
                    is_it = (operation, kind) == (1, 2)
                    found = (packet.option if is_it else b"")[octet : octet + length].ljust(length, b"\0")
                    yield from zip(wires, (bit != FALSE for bit in make_constant(found)), strict=True)
                case ("own", address, where) if self._read(address, known) in {source, target}:
                    is_target = self._read(address, known) == target
                    here = packet.target == OWN_ADDRESSES.get((packet.interface, packet.family))
                    yield wires[0], is_target and (where is None or here)
                case ("kind", address, _) if self._read(address, known) in {source, target}:
                    yield from zip(wires, (place == 7 for place in range(8)), strict=True)

    def _read(self, wires: Wires, known: Mapping[int, bool]) -> int | None:
        """A number, where all its bits are known: rules may have made it another."""
        values: dict[int, bool | None] = {TRUE: True}
        for node in self._gates.list_cone(wires):
            inputs = self._gates.inputs[node]
            if inputs is None:
                values[node] = known.get(node)
            else:
                sides = [_turn(values[abs(wire)], wire) for wire in inputs]
                values[node] = False if False in sides else None if None in sides else True
        found = [_turn(values[abs(wire)], wire) for wire in wires]
        return None if None in found else int("".join("01"[bool(bit)] for bit in found), 2)

    def _list_known(self) -> dict[int, int]:
        """Wires that are off in each of these packets: of marks, and of connections from before."""
        start = self._walk.start
        off = [*start.mark, *start.connection_mark, *start.packet_type, *start.connection.status]
        off += [start.connection.is_established, start.connection.is_related, start.connection.is_reply]
        return dict.fromkeys([wire for wire in off if wire > TRUE], 0)

    def find_fate(self, packet: SentPacket) -> Fate:
        """What becomes of a packet, whatever the rules mean that are not understood."""
        walk = self._walk
        switches = list(walk.switches)
        fixed = [wire if is_set else -wire for wire, is_set in self._list_bits(packet) if abs(wire) != TRUE]
        fixed += [wire for wire in walk.plain if wire != FALSE]
        fixed += [-bit for bit in (*walk.start.mark, *walk.start.connection_mark, *walk.start.packet_type)]
        fixed += [-walk.start.connection.is_established, -walk.start.connection.is_related]
        fixed += [-bit for bit in (*walk.start.connection.status, walk.start.connection.is_reply)]
        with Solver(self._gates) as solver:
            for law in walk.laws:
                solver.require(law)
            passes = self._gates.both(walk.alive, -walk.escaped)
            may_pass = solver.is_possible([*fixed, *switches, passes])
            may_drop = solver.is_possible([*fixed, *switches, -passes])
        return "unclear" if may_pass is may_drop else "passes" if may_pass else "drops"

    def _list_bits(self, packet: SentPacket) -> Iterator[tuple[int, bool]]:
        fields = list(self._list_fields(packet))
        yield from fields
        known = dict.fromkeys(self._list_known(), False) | {abs(w): is_set is (w > 0) for w, is_set in fields}
        yield from self._list_facts(packet, known)

    def _list_fields(self, packet: SentPacket) -> Iterator[tuple[int, bool]]:
        at = self._walk.start
        header, content = packet.build()
        assert at.iif is not None
        octets: list[tuple[Wires, bytes]] = [
            (at.network, header), (at.transport, content[:20].ljust(20, b"\0")),
            (at.protocol, bytes([6 if packet.protocol == "tcp" else 17])),
            (at.iif.name, packet.interface.encode().ljust(16, b"\0")),
            (at.iif.index, self._interfaces[packet.interface].to_bytes(4, ORDER)),
            (at.iif.type, _TYPES[packet.interface].to_bytes(2, ORDER)),
            (at.iif.kind, b"tun".ljust(16, b"\0")),
        ]  # fmt: skip
        for wires, known in octets:
            for wire, bit in zip(wires, make_constant(known), strict=True):
                yield wire, bit != FALSE
        yield at.iif.has_kind, True
        yield at.is_for_this_machine, True
        is_invalid = packet.protocol == "tcp" and packet.flag == "rst"
        yield at.connection.is_tracked, not is_invalid


def _turn(value: bool | None, wire: int) -> bool | None:
    return value if value is None or wire > 0 else not value


def _look_up(may_be: Mapping[int, tuple[int, int]], wire: int) -> tuple[int, int]:
    on, off = may_be[abs(wire)]
    return (on, off) if wire > 0 else (off, on)


def _checksum(octets: bytes) -> int:
    octets += bytes(len(octets) % 2)
    total = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int(total) ^ 0xFFFF
