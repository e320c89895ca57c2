"""Units of systemd that refuse the mesh's packets: `IPAddressDeny=`, which no firewall's rules show.

Source: systemd.resource-control(5).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

import msgspec

from qmesh.mesh.foreign.obstacles import Obstacle
from qmesh.mesh.systemd.instructions import describe_address_permission


class UnitFilter(msgspec.Struct, frozen=True):
    """A unit's. allowed, denied: networks; what is allowed is not denied, and what is neither is allowed."""

    unit: str
    allowed: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()


def find_unit_obstacles(
    filters: Iterable[UnitFilter], addresses: Iterable[str], network: str
) -> Iterator[Obstacle]:
    """Each unit that refuses packets of one of these addresses, with the command that lets the mesh's pass.

    addresses: with which the units have to speak. network: the tunnel's.
    """
    asked = tuple(addresses)
    for each in filters:
        refused = [address for address in asked if _is_refused(each, address)]
        if refused:
            yield Obstacle(
                place=f"unit {each.unit}",
                seen=f"IPAddressDeny={' '.join(each.denied)}",
                wanted=f"its packets to and from {refused[0]} pass",
                cure=describe_address_permission(each.unit, network),
                is_certain=True,
            )


def _is_refused(unit: UnitFilter, address: str) -> bool:
    return _is_in(address, unit.denied) and not _is_in(address, unit.allowed)


def _is_in(address: str, networks: Iterable[str]) -> bool:
    return any(ipaddress.ip_address(address) in ipaddress.ip_network(each) for each in networks)
