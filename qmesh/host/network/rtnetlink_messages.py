"""What an agent asks rtnetlink at every look, as octets. Source: linux/rtnetlink.h, if_link.h, if_addr.h.

pyroute2 makes an object of each attribute of an interface, of which there are some sixty: that took half of
the time of an agent at rest. It changes links still, and reads what is asked for seldom.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable, Iterator
from struct import Struct
from typing import Final

import msgspec

from qmesh.host.network.netlink_messages import (
    ACK,
    DUMP,
    HEADER,
    build_attribute,
    build_request,
)
from qmesh.mesh.foreign.attributes import parse_attributes

_GET_LINK, _GET_ADDRESS = 18, 22  # RTM_*
_LINK: Final = Struct("=BxHiII")  # family, type, index, flags, what of them is changed
_ADDRESS: Final = Struct("=BBBBI")  # family, prefix length, flags, scope, index
_U32: Final = Struct("=I")
_UP = 0x1  # IFF_UP
_IFNAME, _MTU, _MASTER, _LINKINFO, _EXT_MASK = 3, 4, 10, 18, 29  # IFLA_*
_INFO_KIND = 1
_SKIP_STATISTICS: Final = 1 << 3  # RTEXT_FILTER_SKIP_STATS
_SIDE_OF_PEER, _LOCAL = 1, 2  # IFA_ADDRESS, IFA_LOCAL
_SCOPE_GLOBAL = 0


class FoundInterface(msgspec.Struct, frozen=True):
    """An interface, as `qmesh.host.network.links.Link` has it."""

    name: str
    index: int
    kind: str | None
    mtu: int
    up: bool
    master: int | None = None


def build_link_request(name: str) -> bytes:
    """Ask for the interface of that name."""
    wanted = build_attribute(_IFNAME, name.encode() + b"\0") + build_attribute(
        _EXT_MASK, _U32.pack(_SKIP_STATISTICS)
    )
    return build_request(_GET_LINK, ACK, _LINK.pack(0, 0, 0, 0, 0) + wanted)


def build_addresses_request() -> bytes:
    """Ask for the addresses of all interfaces."""
    return build_request(_GET_ADDRESS, DUMP, _ADDRESS.pack(0, 0, 0, 0, 0))


def parse_link(message: bytes) -> FoundInterface:
    """What the kernel tells of an interface. Raises ValueError where that is cut short."""
    try:
        _, _, index, flags, _ = _LINK.unpack_from(message, HEADER.size)
        found = dict(parse_attributes(message[HEADER.size + _LINK.size :]))
        kind = dict(parse_attributes(found.get(_LINKINFO, b""))).get(_INFO_KIND)
        return FoundInterface(
            name=_decode_text(found[_IFNAME]),
            index=index,
            kind=None if kind is None else _decode_text(kind),
            mtu=_U32.unpack(found[_MTU])[0],
            up=bool(flags & _UP),
            master=_U32.unpack(found[_MASTER])[0] if _MASTER in found else None,
        )
    except (LookupError, struct.error):
        raise ValueError("this is no interface") from None


def read_address_index(message: bytes) -> int:
    """The number of the interface that has an address. Raises ValueError as `parse_link` does."""
    try:
        return int(_ADDRESS.unpack_from(message, HEADER.size)[4])
    except struct.error:
        raise ValueError("this is no address") from None


def parse_addresses(dump: Iterable[bytes], index: int) -> Iterator[str]:
    """One interface's addresses of global scope, `10.77.0.2/20`. Raises ValueError as `parse_link` does."""
    for message in dump:
        try:
            _, prefix_length, _, scope, its = _ADDRESS.unpack_from(message, HEADER.size)
            if (its, scope) != (index, _SCOPE_GLOBAL):
                continue
            found = dict(parse_attributes(message[HEADER.size + _ADDRESS.size :]))
            # With a point-to-point address, IFA_ADDRESS is the other side's.
            own = ipaddress.ip_address(found.get(_LOCAL) or found[_SIDE_OF_PEER])
        except (LookupError, struct.error):
            raise ValueError("this is no address") from None
        yield f"{own}/{prefix_length}"


def _decode_text(value: bytes) -> str:
    return value.rstrip(b"\0").decode()
