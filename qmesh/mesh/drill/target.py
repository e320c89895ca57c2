"""The machine that is fired at, and which of its addresses and ports stand for all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface
from typing import Final, Literal, TypeAlias

import msgspec

from qmesh.mesh.state import Guard

Version: TypeAlias = Literal[4, 6]
STRANGER: Final[dict[Version, str]] = {4: "198.51.100.7", 6: "2001:db8:66::7"}
"""Addresses of documentation: nobody's."""
MOST_WAYS, MOST_ADDRESSES, MOST_PORTS = 24, 4, 8
"""Of a machine, an interface, and the closed ports: of more than these the first are taken."""


class DrillTarget(msgspec.Struct, frozen=True, kw_only=True):
    """The machine that is fired at.

    ways: the interfaces by which packets can come in, the tunnel among them where it is there.
    bridges: those of them that are bridges.
    addresses: this machine's own, with prefix length, by interface.
    member: the tunnel address of another member that is not the control node; None without one.
    listened: ports that are not closed, at which programs of this machine listen.
    """

    guard: Guard
    ways: tuple[str, ...]
    bridges: tuple[str, ...]
    addresses: dict[str, tuple[str, ...]]
    member: str | None
    listened: tuple[int, ...]

    @property
    def has_tunnel(self) -> bool:
        """Whether packets can come through the tunnel."""
        return self.guard.interface in self.ways

    @property
    def version(self) -> Version:
        """Of IP, within the tunnel."""
        return get_version(self.guard.control_address)

    def list_networks(self, interface: str) -> tuple[str, ...]:
        """Its own addresses at an interface, with prefix lengths."""
        return self.addresses.get(interface, ())

    def list_own(self, interface: str | None = None, version: Version | None = None) -> list[str]:
        """Own addresses without prefix lengths, of one interface or of all; link-local ones of their own."""
        names = self.addresses if interface is None else [interface]
        found = []
        for name in names:
            own = [str(ip_interface(each).ip) for each in self.list_networks(name)]
            fitting = [each for each in own if not ip_address(each).is_loopback]
            if interface is None:
                fitting = [each for each in fitting if not is_link_local(each)]
            found += [each for each in fitting if version in {None, get_version(each)}][:MOST_ADDRESSES]
        return list(dict.fromkeys(found))

    def get_tunnel_address(self) -> str:
        """Its own, of the family of the control node's; that one's where it has none."""
        own = self.list_own(self.guard.interface, self.version)
        return own[0] if own else self.guard.control_address

    def find_neighbour(self, way: str, version: Version) -> str:
        """An address beside the machine's own there; nobody's where it has none."""
        own = {ip_interface(each).ip for each in self.list_networks(way)}
        for text in self.list_networks(way):
            network = ip_interface(text).network
            if network.version == version and network.num_addresses > 2 and not network.is_link_local:
                candidates: Iterable[IPv4Address | IPv6Address] = (network[-2], network[1], network[2])
                return str(next(each for each in candidates if each not in own))
        return STRANGER[version]


def get_version(address: str) -> Version:
    """Of IP."""
    return 6 if ":" in address else 4


def is_link_local(address: str) -> bool:
    """Whether it is known on its own link alone."""
    return ip_address(address).is_link_local


def choose_ports(ports: Sequence[int], intervals: Iterable[tuple[int, int]] = ()) -> tuple[int, ...]:
    """Some that stand for all: the ends of each interval, and the ends of the others."""
    ends = [port for interval in intervals for port in interval]
    others = [port for port in ports if not any(first <= port <= last for first, last in intervals)]
    chosen = dict.fromkeys([*ends, *others[:2], *others[-2:]])
    return tuple(sorted(list(chosen)[:MOST_PORTS]))
