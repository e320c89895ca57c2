"""IPsec policies that take the mesh's packets: asked after the routes and beside all firewalls."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Literal

import msgspec

from qmesh.mesh.foreign.obstacles import Obstacle, describe_packets
from qmesh.mesh.foreign.packets import PROTOCOL_NUMBERS, Packet


class IpsecPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """One of the kernel's policies.

    source, target: networks. protocol: its number, 0 for any. source_port, target_port: value and mask.
    interface: that packets have to come or go by; "" for any. priority: the least comes first.
    discards: whether it drops packets. transforms: whether they have to be IPsec's.
    """

    direction: Literal["in", "out"]
    source: str
    target: str
    protocol: int = 0
    source_port: tuple[int, int] = (0, 0)
    target_port: tuple[int, int] = (0, 0)
    interface: str = ""
    priority: int = 0
    discards: bool = False
    transforms: bool = False


def find_ipsec_obstacles(
    policies: Iterable[IpsecPolicy], packets: Iterable[Packet], network: str
) -> tuple[Obstacle, ...]:
    """Each policy that drops packets of the mesh, or makes IPsec's of those in the tunnel.

    policies: in the kernel's order. network: the tunnel's.
    """
    ordered = sorted(policies, key=lambda each: each.priority)  # stable: of equals the first counts
    found: dict[tuple[IpsecPolicy, str], list[Packet]] = {}
    for packet in packets if ordered else ():
        if packet.traffic == "loopback":  # which no policy is asked about
            continue
        policy = next((each for each in ordered if _is_met(each, packet)), None)
        is_inner = packet.traffic.startswith("tunnel")
        if policy is not None and (policy.discards or (policy.transforms and is_inner)):
            found.setdefault((policy, _build_fix(policy, packet, network)), []).append(packet)
    return tuple(
        Obstacle(
            place=f"IPsec policy {policy.direction}",
            seen=_describe(policy),
            wanted=describe_packets(taken),
            cure=cure,
            is_certain=True,
        )
        for (policy, cure), taken in found.items()
    )


def _is_met(policy: IpsecPolicy, packet: Packet) -> bool:
    return (
        policy.direction == ("in" if packet.iif else "out")
        and policy.interface in {"", packet.interface}
        and policy.protocol in {0, PROTOCOL_NUMBERS[packet.protocol]}
        and _has(policy.source, packet.source)
        and _has(policy.target, packet.target)
        and (packet.source_port & policy.source_port[1]) == policy.source_port[0]
        and (packet.target_port & policy.target_port[1]) == policy.target_port[0]
    )


def _has(network: str, address: str) -> bool:
    return ipaddress.ip_address(address) in ipaddress.ip_network(network)


def _describe(policy: IpsecPolicy) -> str:
    does = "drops them" if policy.discards else "takes them for another tunnel, that of IPsec"
    return f"src {policy.source} dst {policy.target} priority {policy.priority} {does}"


def _build_fix(policy: IpsecPolicy, packet: Packet, network: str) -> str:
    """A policy before it, as its removal would take from others what is theirs; unless it is the first."""
    if policy.priority == 0:
        return f"ip xfrm policy delete src {policy.source} dst {policy.target} dir {policy.direction}"
    ends = (network, network) if packet.traffic.startswith("tunnel") else (packet.source, packet.target)
    return (
        f"ip xfrm policy add src {ends[0]} dst {ends[1]} dir {policy.direction}"
        f" priority {policy.priority - 1} action allow"
    )
