"""The packets that a mesh needs on one machine, concretely enough to be judged."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Final, Literal, TypeAlias

import msgspec

from qmesh.mesh.foreign.values import Value
from qmesh.mesh.state import Guard, Tunnel

Traffic: TypeAlias = Literal["wireguard in", "wireguard out", "tunnel in", "tunnel out", "loopback"]
Hook: TypeAlias = Literal["ingress", "prerouting", "input", "output", "postrouting"]
Protocol: TypeAlias = Literal["tcp", "udp"]
PROTOCOLS: Final[tuple[Protocol, ...]] = ("tcp", "udp")

INBOUND: Final[tuple[Hook, ...]] = ("ingress", "prerouting", "input")
OUTBOUND: Final[tuple[Hook, ...]] = ("output", "postrouting")

EPHEMERAL: Final = 32768
"""Stands for whichever port a program was given: the least of Linux's own range."""

_OTHER_HEADERS: Final = ("icmp", "icmpv6", "sctp", "dccp", "udplite", "esp", "ah", "comp", "igmp", "arp")
_TUNNEL_TYPE: Final = ("65534", "none")
"""ARPHRD_NONE, which nft knows no name of."""


class Packet(msgspec.Struct, frozen=True, kw_only=True):
    """One packet on its way into the machine or out of it.

    iif, oif: the interface it comes or goes by; "" for none.
    is_reply: whether it answers a connection that the other end began; else it is the first packet
        of one.
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

    @property
    def hooks(self) -> tuple[Hook, ...]:
        """The hooks that it passes, in order."""
        return INBOUND if self.iif else OUTBOUND

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
        state = "established" if self.is_reply else "new"
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
            "meta mark": 0,
            "meta pkttype": "host",
            "ct state": state,
            "ct direction": "reply" if self.is_reply else "original",
            "ct mark": 0,
            "fib type daddr": "local" if self.iif or self.oif == "lo" else "unicast",
            "fib type saddr": "local" if self.oif or self.iif == "lo" else "unicast",
            "fib oif saddr": self.iif or "lo",
            "th sport": self.source_port,
            "th dport": self.target_port,
        }
        if not self.is_reply:
            known["ct status"] = ()
        return known | self._header_fields()

    def _header_fields(self) -> dict[str, Value | None]:
        source, target = (int(ipaddress.ip_address(each)) for each in (self.source, self.target))
        mine, other = ("ip", "ip6") if self.family == "ip" else ("ip6", "ip")
        protocol_field = {"ip": "protocol", "ip6": "nexthdr"}
        other_protocol = "udp" if self.protocol == "tcp" else "tcp"
        return {
            "saddr": source,
            "daddr": target,
            f"{mine} saddr": source,
            f"{mine} daddr": target,
            f"{mine} {protocol_field[mine]}": self.protocol,
            other: None,
            f"{self.protocol} sport": self.source_port,
            f"{self.protocol} dport": self.target_port,
            other_protocol: None,
            **dict.fromkeys(_OTHER_HEADERS),
        }


def _interface_type(interface: str, traffic: Traffic) -> Value | None:
    if not interface:
        return None
    if interface == "lo":
        return ("loopback",)
    return _TUNNEL_TYPE if traffic.startswith("tunnel") else ("ether",)


class UnderlayRoute(msgspec.Struct, frozen=True):
    """How WireGuard's datagrams go to another machine.

    interface: the one that the kernel's route takes. source: own address there.
    remote, port: the other machine's endpoint.
    """

    interface: str
    source: str
    remote: str
    port: int


def list_required_packets(
    guard: Guard, tunnel: Tunnel, members: tuple[tuple[str, int], ...], ways: tuple[UnderlayRoute, ...]
) -> Iterator[Packet]:
    """All packets that this machine's part in the mesh needs.

    members: tunnel address and a worker port of other machines, with which the control node speaks.
    """
    for way in ways:
        yield from _build_wireguard_packets(guard, tunnel, way)
    own = tunnel.addresses[0].partition("/")[0]
    if guard.role == "worker":
        for port in guard.ports:
            yield from _build_worker_packets(
                guard.interface, own, guard.control_address, port, comes="control"
            )
        for port in (*guard.control_ports, *guard.mesh_ports):
            yield from _build_connection_packets(
                guard.interface, own, guard.control_address, port, "tcp", asked=True
            )
        yield from _build_membership_packets(
            guard.interface, own, guard.control_address, guard.service_port, comes="answer"
        )
        return
    for member, port in members:
        yield from _build_membership_packets(guard.interface, own, member, guard.service_port, comes="member")
        yield from _build_worker_packets(guard.interface, own, member, port, comes="answer")
        for asked in guard.mesh_ports:
            yield from _build_connection_packets(guard.interface, own, member, asked, "tcp", asked=True)
    for port in guard.ports:
        yield from _build_loopback_packets(own, port)


def _build_wireguard_packets(guard: Guard, tunnel: Tunnel, way: UnderlayRoute) -> Iterator[Packet]:
    """A worker machine begins, and goes on to every 25 s; the control node is begun with."""
    begins = guard.role == "worker"
    port = tunnel.listen_port
    yield Packet(
        traffic="wireguard in", iif=way.interface, protocol="udp", is_reply=begins,
        source=way.remote, source_port=way.port, target=way.source, target_port=port,
    )  # fmt: skip
    yield Packet(
        traffic="wireguard out", oif=way.interface, protocol="udp", is_reply=not begins,
        source=way.source, source_port=port, target=way.remote, target_port=way.port,
    )  # fmt: skip


Comes: TypeAlias = Literal["control", "answer", "member"]


def _build_worker_packets(
    interface: str, own: str, other: str, port: int, *, comes: Comes
) -> Iterator[Packet]:
    """The control node's packets to a worker, over TCP and UDP, and the answers."""
    for protocol in PROTOCOLS:
        yield from _build_connection_packets(interface, own, other, port, protocol, asked=comes == "control")


def _build_membership_packets(
    interface: str, own: str, other: str, port: int, *, comes: Comes
) -> Iterator[Packet]:
    """A member's questions to the membership service, and the answers."""
    yield from _build_connection_packets(interface, own, other, port, "tcp", asked=comes == "member")


def _build_connection_packets(
    interface: str, own: str, other: str, port: int, protocol: Protocol, *, asked: bool
) -> Iterator[Packet]:
    """A connection to `port`: this machine's where it is the one that is asked, else the other's."""
    own_port, other_port = (port, EPHEMERAL) if asked else (EPHEMERAL, port)
    yield Packet(
        traffic="tunnel in", iif=interface, protocol=protocol, is_reply=not asked,
        source=other, source_port=other_port, target=own, target_port=own_port,
    )  # fmt: skip
    yield Packet(
        traffic="tunnel out", oif=interface, protocol=protocol, is_reply=asked,
        source=own, source_port=own_port, target=other, target_port=other_port,
    )  # fmt: skip


def _build_loopback_packets(own: str, port: int) -> Iterator[Packet]:
    for protocol in PROTOCOLS:
        for iif, oif in (("", "lo"), ("lo", "")):
            yield Packet(
                traffic="loopback", iif=iif, oif=oif, protocol=protocol,
                source=own, source_port=EPHEMERAL, target=own, target_port=port,
            )  # fmt: skip
