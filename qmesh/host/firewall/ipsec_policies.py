"""The kernel's IPsec policies. Source: linux/xfrm.h."""

from __future__ import annotations

import errno
import ipaddress
import socket
from struct import Struct
from typing import Final, Literal

from qmesh.host.network.links import name_interface
from qmesh.host.network.netlink import translate_errors
from qmesh.host.network.netlink_messages import (
    DUMP,
    HEADER,
    TooManyMessages,
    build_request,
    read_whole_dump,
    send_request,
)
from qmesh.mesh.foreign.attributes import parse_attributes
from qmesh.mesh.foreign.other_hooks.ipsec_policies import IpsecPolicy

MOST_POLICIES: Final = 20_000
"""Policies that are looked through: a gateway of many tunnels has thousands."""
_XFRM: Final = 6  # NETLINK_XFRM
_GET_POLICY: Final = 0x15  # XFRM_MSG_GETPOLICY
_SELECTOR: Final = Struct("=16s16s8sHBBB3xiI")
"""Target, source, ports, family, prefix lengths, protocol, interface, user."""
_PORTS: Final = Struct("!HHHH")  # of the target: port, mask; of the source
_REST: Final = Struct("=II4B")  # priority, index; direction, action, flags, share
_LIFETIMES: Final = 96  # xfrm_lifetime_cfg, xfrm_lifetime_cur
_LENGTH: Final = 168  # of xfrm_userpolicy_info
_TEMPLATES, _MARK, _IF_ID = 5, 21, 31  # XFRMA_*
_VALUE_AND_MASK: Final = Struct("=II")
_U32: Final = Struct("=I")
_BLOCK: Final = 1  # XFRM_POLICY_BLOCK
_DIRECTIONS: Final[dict[int, Literal["in", "out"]]] = {0: "in", 1: "out"}
_SIZES: Final = {socket.AF_INET: 4, socket.AF_INET6: 16}


def read_ipsec_policies() -> tuple[IpsecPolicy, ...]:
    """Those that packets without a mark may meet, in the kernel's order; none where there are too many.

    Raises MachineRefused.
    """
    with translate_errors("read the IPsec policies"):
        try:
            netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _XFRM)
        except OSError as error:
            if error.errno == errno.EPROTONOSUPPORT:  # a kernel without IPsec
                return ()
            raise
        with netlink:
            request = build_request(_GET_POLICY, DUMP, bytes(64))
            try:
                dump = read_whole_dump(lambda: send_request(netlink, request, most=MOST_POLICIES))
            except TooManyMessages:
                return ()
        return tuple(policy for policy in map(parse_policy, dump) if policy is not None)


def parse_policy(message: bytes) -> IpsecPolicy | None:
    """A policy of the kernel's; None for one that packets of the mesh do not meet.

    Those are of a forwarded packet, a socket's own, of a mark, or of an IPsec interface. Raises ValueError.
    """
    start = HEADER.size
    if len(message) < start + _LENGTH:
        raise ValueError("an IPsec policy breaks off")
    target, source, ports, family, target_bits, source_bits, protocol, index, _ = _SELECTOR.unpack_from(
        message, start
    )
    priority, _, direction, action, _, _ = _REST.unpack_from(message, start + _SELECTOR.size + _LIFETIMES)
    found = dict(parse_attributes(message[start + _LENGTH :]))
    if direction not in _DIRECTIONS or family not in _SIZES or _has_mark(found):
        return None
    target_port, target_mask, source_port, source_mask = _PORTS.unpack(ports)
    size = _SIZES[family]
    return IpsecPolicy(
        direction=_DIRECTIONS[direction],
        source=_format_network(source[:size], source_bits),
        target=_format_network(target[:size], target_bits),
        protocol=protocol,
        source_port=(source_port & source_mask, source_mask),
        target_port=(target_port & target_mask, target_mask),
        interface=name_interface(index) if index else "",
        priority=priority,
        discards=action == _BLOCK,
        transforms=bool(found.get(_TEMPLATES)),
    )


def _has_mark(found: dict[int, bytes]) -> bool:
    """Whether it is for packets with a mark, or of an IPsec interface."""
    value = found.get(_MARK, b"")
    if len(value) >= _VALUE_AND_MASK.size and _VALUE_AND_MASK.unpack_from(value)[0]:
        return True
    return any(found.get(_IF_ID, b""))


def _format_network(packed: bytes, bits: int) -> str:
    return str(ipaddress.ip_network((ipaddress.ip_address(packed), bits), strict=False))
