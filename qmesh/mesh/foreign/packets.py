"""The packets that a mesh needs on one machine, concretely enough to be judged."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal, TypeAlias

import msgspec

from qmesh.mesh.foreign.values import Value
from qmesh.mesh.state import Guard, Tunnel

Traffic: TypeAlias = Literal[
    "wireguard in", "wireguard out", "discovery in", "discovery out", "tunnel in", "tunnel out", "loopback",
    "path errors in",
]  # fmt: skip
"""discovery: of a neighbour's link-layer address, without which IPv6 sends nothing (RFC 4861).

path errors: what a router says of a packet that is too large for its next link (RFC 1191, RFC 8201).
"""
Hook: TypeAlias = Literal[
    "ingress", "prerouting", "input", "forward", "output", "postrouting", "egress"
]  # fmt: skip
Protocol: TypeAlias = Literal["tcp", "udp", "icmp", "icmpv6"]
PROTOCOL_NUMBERS: Final = {"tcp": 6, "udp": 17, "icmp": 1, "icmpv6": 58}
WORKER_PROTOCOLS: Final[tuple[Protocol, ...]] = ("tcp", "udp")
SOLICITATION, ADVERTISEMENT = 135, 136
"""Types of ICMPv6."""
UNREACHABLE, NEEDS_FRAGMENTS, TOO_BIG = 3, 4, 2
"""A type of ICMP, its code, and the type of ICMPv6 that says the same."""
CONNECTION_FIELDS: Final = (
    "ct direction", "ct status", "ct mark", "ct l3proto", "ct protocol", "ct saddr", "ct daddr",
    "ct sport", "ct dport",
)  # fmt: skip
"""What a packet without a connection has not."""

FORWARDED: Final[tuple[Hook, ...]] = ("forward",)
"""What is left for a packet that was sent on: the hooks before it passed as it was."""
INBOUND: Final[tuple[Hook, ...]] = ("ingress", "prerouting", "input")
OUTBOUND: Final[tuple[Hook, ...]] = ("output", "postrouting", "egress")

_OPPOSITE: Final[dict[Traffic, Traffic]] = {
    "wireguard in": "wireguard out", "wireguard out": "wireguard in", "discovery in": "discovery out",
    "discovery out": "discovery in", "tunnel in": "tunnel out", "tunnel out": "tunnel in",
    "loopback": "loopback", "path errors in": "path errors in",
}  # fmt: skip
OPENING, ANSWER, DATA = 0x02, 0x12, 0x10
"""Flags of TCP: SYN, SYN and ACK, ACK."""
EPHEMERAL: Final = 32768
"""Stands for whichever port a program was given: the least of Linux's own range."""


class Packet(msgspec.Struct, frozen=True, kw_only=True):
    """One packet on its way into the machine or out of it.

    iif, oif: the interface it comes or goes by; "" for none. It has both where a rule has sent it on.
    is_reply: whether it answers a connection that the other end began.
    is_later: whether it goes the way of its connection's first packet, after an answer.
    kind: of the tunnel's interface, as the kernel has it.
    as_root: whether a process of root sends it.
    icmp_type, icmp_code: of ICMP and ICMPv6, which have no ports: these are 0.
    mark: that it has from the start, as what WireGuard sends may have.
    """

    traffic: Traffic
    iif: str = ""
    oif: str = ""
    protocol: Protocol
    source: str
    source_port: int
    target: str
    target_port: int
    is_reply: bool = False
    is_later: bool = False
    kind: str = ""
    as_root: bool = False
    icmp_type: int = 0
    icmp_code: int = 0
    mark: int = 0

    @property
    def has_connection(self) -> bool:
        """Whether it belongs to a connection, as the kernel has it: it makes none of neighbour discovery."""
        return not self.traffic.startswith("discovery")

    @property
    def is_path_error(self) -> bool:
        """Whether it is about a packet of a connection, and so belongs to that."""
        return self.traffic == "path errors in"

    @property
    def is_for_others(self) -> bool:
        """Whether it begins a connection with another machine: here nobody can answer it."""
        return self.opens and self.traffic in {"tunnel out", "wireguard out"}

    @property
    def redirected_target(self) -> str:
        """The address at which this machine takes it in, where a rule redirects it."""
        if self.iif:
            return self.target
        return "127.0.0.1" if self.family == "ip" else "::1"

    @property
    def opens(self) -> bool:
        """Whether it is the first of a connection."""
        return not self.is_reply and not self.is_later

    @property
    def first_of_connection(self) -> Packet:
        """The one by which its connection was begun."""
        if not self.is_reply:
            return msgspec.structs.replace(self, is_later=False)
        return msgspec.structs.replace(
            self, traffic=_OPPOSITE[self.traffic], iif=self.oif, oif=self.iif, is_reply=False,
            source=self.target, source_port=self.target_port,
            target=self.source, target_port=self.source_port,
        )  # fmt: skip

    @property
    def tcp_flags(self) -> int:
        """SYN, SYN and ACK, or ACK."""
        return OPENING if self.opens else ANSWER if self.is_reply else DATA

    @property
    def packed_source(self) -> bytes:
        """Its source address, as in the header."""
        return ipaddress.ip_address(self.source).packed

    @property
    def packed_target(self) -> bytes:
        """Its target address, as in the header."""
        return ipaddress.ip_address(self.target).packed

    @property
    def hooks(self) -> tuple[Hook, ...]:
        """The hooks that it passes, in order."""
        if self.iif and self.oif:
            return FORWARDED
        return INBOUND if self.iif else OUTBOUND

    @property
    def is_multicast(self) -> bool:
        """Whether it is for more than one machine."""
        return ipaddress.ip_address(self.target).is_multicast

    @property
    def family(self) -> Literal["ip", "ip6"]:
        """By nft's name."""
        return "ip6" if ":" in self.target else "ip"

    @property
    def interface(self) -> str:
        """The one that it comes or goes by."""
        return self.iif or self.oif

    @property
    def remote(self) -> str:
        """The other machine's address."""
        return self.source if self.iif else self.target

    def fields(self) -> dict[str, Value | None]:
        """What can be asked of it, by nft's words: None where it has no such thing.

        What is not in it at all is not known.
        """
        known: dict[str, Value | None] = {
            "meta iifname": self.iif,
            "meta iif": self.iif,
            "meta oifname": self.oif,
            "meta oif": self.oif,
            "meta iiftype": _interface_type(self.iif, self.traffic),
            "meta oiftype": _interface_type(self.oif, self.traffic),
            "meta nfproto": "ipv4" if self.family == "ip" else "ipv6",
            "meta protocol": self.family,
            "meta l4proto": self.protocol,
            "meta mark": self.mark,
            "meta pkttype": "host",
            "meta secpath": 0,
            "ct state": "new" if self.opens else "established",
            "ct direction": "reply" if self.is_reply else "original",
            "ct status": () if self.opens else ("seen-reply",),
            "ct mark": 0,
            "ct l3proto": self.family,
            "ct protocol": self.protocol,
            "fib type daddr": "local" if self.iif or self.oif == "lo" else "unicast",
            # The tunnel's address belongs to no loopback interface.
            "fib type daddr . iif": "local" if self.iif and self.iif != "lo" else "unicast",
            "fib type saddr": "local" if self.oif or self.iif == "lo" else "unicast",
            "fib oif saddr": self.iif or "lo",
        }
        if self.is_path_error:
            known["ct state"] = "related"
            for field in CONNECTION_FIELDS:  # those of the packet that it is about
                known.pop(field, None)
        if not self.has_connection:
            known |= {"ct state": "untracked", **dict.fromkeys(CONNECTION_FIELDS)}
            known |= dict.fromkeys(("meta skuid", "meta skgid"))  # the kernel itself sends it
        if self.is_multicast:
            known |= dict.fromkeys(("fib type daddr", "fib type daddr . iif"), "multicast")
            known |= {"meta pkttype": "multicast"} if self.iif else {}
        if self.traffic.startswith("tunnel"):
            known["meta iifkind" if self.iif else "meta oifkind"] = self.kind
        if self.interface == "lo":
            known |= {"meta iifkind": None, "meta oifkind": None}
        if self.as_root:
            known |= {"meta skuid": 0, "meta skgid": 0}
        if self.iif and self.oif:
            known |= dict.fromkeys(("fib type daddr", "fib type daddr . iif", "fib type saddr"), "unicast")
            known |= {"ct status": ("dnat",)}
            del known["meta oiftype"]  # a bridge, or whatever leads to a container
        return known


def may_send_on(packet: Packet) -> bool:
    """Whether another target of a connection is as good as this machine, as of a worker in a container."""
    return packet.opens and (packet.traffic == "tunnel in" or packet.oif == "lo")


def _interface_type(interface: str, traffic: Traffic) -> Value | None:
    if not interface:
        return None
    if interface == "lo":
        return ("loopback",)
    return ("none",) if traffic.startswith("tunnel") else ("ether",)


class UnderlayRoute(msgspec.Struct, frozen=True):
    """How WireGuard's datagrams go to another machine.

    interface: the one that the kernel's route takes. source: own address there.
    remote, port: the other machine's endpoint.
    neighbour: the address, of that machine or of a router, whose link-layer address the kernel has to
        discover; None where it discovers none, or not by ICMPv6.
    mark: that WireGuard gives them.
    """

    interface: str
    source: str
    remote: str
    port: int
    neighbour: str | None = None
    mark: int = 0


def list_required_packets(
    guard: Guard, tunnel: Tunnel, members: tuple[tuple[str, int], ...], ways: tuple[UnderlayRoute, ...]
) -> Iterator[Packet]:
    """All packets that this machine's part in the mesh needs: of a connection the first, an answer, and data.

    members: tunnel address and a worker port of other machines, with which the control node speaks.
    """
    for way in ways:
        yield from _build_wireguard_packets(guard, tunnel, way)
    for link in dict.fromkeys((each.interface, each.source, each.neighbour) for each in ways):
        yield from _build_discovery_packets(*link)
    own = tunnel.addresses[0].partition("/")[0]
    through = _TunnelPackets(guard, own)
    if guard.role == "worker":
        for port in guard.ports:
            yield from through.build_worker_packets(guard.control_address, port, is_asked=True)
        for port in (*guard.control_ports, *guard.mesh_ports):
            yield from through.build_connection(guard.control_address, port, "tcp", is_asked=True)
        yield from through.build_service_packets(guard.control_address, is_asked=False)
        return
    for member, port in members:
        yield from through.build_service_packets(member, is_asked=True)
        yield from through.build_worker_packets(member, port, is_asked=False)
        for asked in guard.mesh_ports:
            yield from through.build_connection(member, asked, "tcp", is_asked=True)
    for port in guard.ports:
        yield from _build_loopback_packets(own, port)


def list_path_errors(ways: Iterable[UnderlayRoute], routers: Mapping[str, str]) -> Iterator[Packet]:
    """What routers say of WireGuard's packets that are too large, by each interface that these go by.

    routers: an address of one, by nft's name of the family; which it will be, nobody knows.
    """
    for interface, own in dict.fromkeys((way.interface, way.source) for way in ways):
        is_ipv6 = ":" in own
        yield Packet(
            traffic="path errors in", iif=interface, protocol="icmpv6" if is_ipv6 else "icmp", is_later=True,
            source=routers["ip6" if is_ipv6 else "ip"], source_port=0, target=own, target_port=0,
            icmp_type=TOO_BIG if is_ipv6 else UNREACHABLE, icmp_code=0 if is_ipv6 else NEEDS_FRAGMENTS,
        )  # fmt: skip


def _build_discovery_packets(interface: str, own: str, neighbour: str | None) -> Iterator[Packet]:
    """Each asks for the other's link-layer address, and answers: all four, on every machine."""
    if neighbour is None:
        return
    for oif, iif in ((interface, ""), ("", interface)):
        asks, asked = (own, neighbour) if oif else (neighbour, own)
        yield Packet(
            traffic="discovery out" if oif else "discovery in", iif=iif, oif=oif, protocol="icmpv6",
            source=asks, source_port=0, target=derive_solicited_node(asked), target_port=0,
            icmp_type=SOLICITATION,
        )  # fmt: skip
        yield Packet(
            traffic="discovery in" if oif else "discovery out", iif=oif, oif=iif, protocol="icmpv6",
            source=asked, source_port=0, target=asks, target_port=0, icmp_type=ADVERTISEMENT,
        )  # fmt: skip


def derive_solicited_node(address: str) -> str:
    """The multicast group in which a machine with that address is asked for. Source: RFC 4291, 2.7.1."""
    group = b"\xff\x02" + bytes(9) + b"\x01\xff" + ipaddress.ip_address(address).packed[-3:]
    return str(ipaddress.ip_address(group))


def _build_wireguard_packets(guard: Guard, tunnel: Tunnel, way: UnderlayRoute) -> Iterator[Packet]:
    """A worker machine begins, and goes on to every 25 s; the control node is begun with."""
    begins = guard.role == "worker"
    port = tunnel.listen_port
    incoming = Packet(
        traffic="wireguard in", iif=way.interface, protocol="udp", is_reply=begins,
        source=way.remote, source_port=way.port, target=way.source, target_port=port,
    )  # fmt: skip
    outgoing = Packet(
        traffic="wireguard out", oif=way.interface, protocol="udp", is_reply=not begins,
        source=way.source, source_port=port, target=way.remote, target_port=way.port, mark=way.mark,
    )  # fmt: skip
    yield from (outgoing, incoming) if begins else (incoming, outgoing)
    yield msgspec.structs.replace(outgoing if begins else incoming, is_later=True)


class _TunnelPackets:
    """Packets of connections through the tunnel, in the order in which they are sent."""

    def __init__(self, guard: Guard, own: str) -> None:
        self._guard = guard
        self._own = own

    def build_worker_packets(self, other: str, port: int, *, is_asked: bool) -> Iterator[Packet]:
        """The control node's packets to a worker, over TCP and UDP, and the answers."""
        for protocol in WORKER_PROTOCOLS:
            yield from self.build_connection(other, port, protocol, is_asked=is_asked)

    def build_service_packets(self, other: str, *, is_asked: bool) -> Iterator[Packet]:
        """A member's questions to the membership service, which only root asks, and the answers."""
        yield from self.build_connection(
            other, self._guard.service_port, "tcp", is_asked=is_asked, as_root=True
        )

    def build_connection(
        self, other: str, port: int, protocol: Protocol, *, is_asked: bool, as_root: bool = False
    ) -> Iterator[Packet]:
        """A connection to `port`: this machine's where it is the one that is asked, else the other's."""
        own_port, other_port = (port, EPHEMERAL) if is_asked else (EPHEMERAL, port)
        incoming = Packet(
            traffic="tunnel in", iif=self._guard.interface, protocol=protocol, is_reply=not is_asked,
            source=other, source_port=other_port, target=self._own, target_port=own_port,
            kind=self._guard.kind,
        )  # fmt: skip
        outgoing = Packet(
            traffic="tunnel out", oif=self._guard.interface, protocol=protocol, is_reply=is_asked,
            source=self._own, source_port=own_port, target=other, target_port=other_port,
            kind=self._guard.kind, as_root=as_root,
        )  # fmt: skip
        yield from (incoming, outgoing) if is_asked else (outgoing, incoming)
        yield msgspec.structs.replace(incoming if is_asked else outgoing, is_later=True)


def _build_loopback_packets(own: str, port: int) -> Iterator[Packet]:
    for protocol in WORKER_PROTOCOLS:
        for iif, oif in (("", "lo"), ("lo", "")):
            yield Packet(
                traffic="loopback", iif=iif, oif=oif, protocol=protocol,
                source=own, source_port=EPHEMERAL, target=own, target_port=port,
            )  # fmt: skip
