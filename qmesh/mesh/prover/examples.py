"""A packet that breaks a claim, in words."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import msgspec

from qmesh.mesh.foreign.packet_fields import ORDER
from qmesh.mesh.prover.claims.case import Case
from qmesh.mesh.prover.gates import Wires
from qmesh.mesh.prover.traveller import ACK, FIN, RST, SYN, PacketInterface, Traveller

_FLAGS: Final = {SYN: "SYN", ACK: "ACK", RST: "RST", FIN: "FIN"}


class OwnInterface(msgspec.Struct, frozen=True):
    """One of the machine that examples are of. addresses: the machine's own there, with prefix lengths."""

    kind: str | None
    is_ethernet: bool
    addresses: tuple[str, ...] = ()


OwnInterfaces: TypeAlias = Mapping[str, OwnInterface]
"""By name; empty where the machine is not known."""


class ExamplePacket(msgspec.Struct, frozen=True, kw_only=True):
    """A packet. came_by, goes_by: interfaces with their kinds; empty for none. state: of its connection."""

    family: str
    came_by: str = ""
    goes_by: str = ""
    protocol: str
    source: str
    source_port: int
    target: str
    target_port: int
    flags: tuple[str, ...] = ()
    state: str
    user: int | None = None


def read_packet(case: Case, is_set: Callable[[int], bool]) -> ExamplePacket:
    """The packet of an example. is_set: of its variables."""
    at, gates = case.walk.start, case.walk.gates

    def read(bits: Wires) -> int:
        return int("".join("01"[value] for value in gates.evaluate(bits, is_set)), 2)

    def is_true(wire: int) -> bool:
        return gates.evaluate([wire], is_set)[0]

    def describe(interface: PacketInterface | None) -> str:
        if interface is None:
            return ""
        name, kind = (_read_text(read(bits)) for bits in (interface.name, interface.kind))
        return f"{name} ({kind})" if is_true(interface.has_kind) else name

    is_tcp = is_true(at.is_tcp)
    make = ipaddress.IPv4Address if at.family == "ip" else ipaddress.IPv6Address
    return ExamplePacket(
        family=at.family, came_by=describe(at.iif), goes_by=describe(case.walk.at.oif),
        protocol={6: "tcp", 17: "udp"}.get(read(at.protocol), str(read(at.protocol))),
        source=str(make(read(at.source))), source_port=read(at.source_port),
        target=str(make(read(at.target))), target_port=read(at.target_port),
        flags=tuple(name for bit, name in _FLAGS.items() if is_tcp and is_true(at.flag(bit))),
        state=_describe_state(at, is_true),
        user=read(_turn(at.user)) if is_true(at.has_socket) else None,
    )  # fmt: skip


def _describe_state(at: Traveller, is_true: Callable[[int], bool]) -> str:
    has = at.connection
    if not is_true(has.is_tracked):
        return "invalid"
    word = "established" if is_true(has.is_established) else "related" if is_true(has.is_related) else "new"
    return f"{word}, an answer" if is_true(has.is_reply) else word


def _turn(bits: Wires) -> Wires:
    """A number of the machine's own order, its highest bit first."""
    octets = [bits[place : place + 8] for place in range(0, len(bits), 8)]
    return tuple(bit for octet in (reversed(octets) if ORDER == "little" else octets) for bit in octet)


def _read_text(number: int) -> str:
    octets = number.to_bytes(16, "big").split(b"\0")[0]
    return octets.decode("utf-8", "backslashreplace")
