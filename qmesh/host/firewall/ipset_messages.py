"""What asks the kernel about a set of `ipset`, as octets. Source: linux/netfilter/ipset/ip_set.h."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Sequence
from typing import Final

from qmesh.host.network.netlink_messages import ACK, HEADER, build_attribute, build_request
from qmesh.mesh.foreign.attributes import parse_attributes

NOT_IN_IT: Final = 4103
"""IPSET_ERR_EXIST, which stands where errors have an errno."""
_SUBSYSTEM: Final = 6 << 8  # NFNL_SUBSYS_IPSET
_TEST, _HEADER, _GET_BY_INDEX = 11, 12, 15  # IPSET_CMD_*
_PROTOCOL_VERSION: Final = 7  # Linux 4.20
_PROTOCOL, _NAME, _TYPE, _DATA, _INDEX = 1, 2, 3, 7, 11  # IPSET_ATTR_*
_ADDRESSES, _PORT, _PORT_PROTOCOL, _INTERFACE = (1, 20), 4, 7, 23  # IP and IP2, PORT, PROTO, IFACE
_NESTED, _NETWORK_ORDER = 0x8000, 0x4000  # NLA_F_*
_GENERIC: Final = struct.Struct("=BBH")  # nfgenmsg: family, version, resource
_PAYLOAD: Final = HEADER.size + _GENERIC.size


def build_index_question(index: int) -> bytes:
    """Ask for the name of the set that rules have by this number."""
    return _build(_GET_BY_INDEX, build_attribute(_INDEX, struct.pack("!H", index)))


def build_type_question(name: bytes) -> bytes:
    """Ask for the type of a set, such as `hash:ip,port`."""
    return _build(_HEADER, build_attribute(_NAME, name))


def build_element_question(name: bytes, element: Sequence[bytes]) -> bytes:
    """Ask whether an element is in a set. element: of `build_address`, `build_port`, `build_interface`.

    It is answered without an error where it is, and with NOT_IN_IT where it is not.
    """
    return _build(_TEST, build_attribute(_NAME, name) + build_attribute(_DATA | _NESTED, b"".join(element)))


def build_address(place: int, address: bytes) -> bytes:
    """An address, which is the element's first or second one (0, 1)."""
    kind = 1 if ipaddress.ip_address(address).version == 4 else 2
    value = build_attribute(kind | _NETWORK_ORDER, address)
    return build_attribute(_ADDRESSES[place] | _NESTED, value)


def build_port(port: int, protocol: int) -> bytes:
    """A port of a protocol, IPPROTO_*."""
    return build_attribute(_PORT | _NETWORK_ORDER, struct.pack("!H", port)) + build_attribute(
        _PORT_PROTOCOL | _NETWORK_ORDER, bytes([protocol])
    )


def build_interface(name: str) -> bytes:
    """The name of an interface."""
    return build_attribute(_INTERFACE, name.encode() + b"\0")


def parse_name(message: bytes) -> bytes:
    """The name that was asked for, as questions have it. Raises ValueError where the message is cut short."""
    return _find(message, _NAME)


def parse_type(message: bytes) -> str:
    """The type that was asked for. Raises as `parse_name`."""
    return _find(message, _TYPE).rstrip(b"\0").decode("ascii", "replace")


def _build(command: int, attributes: bytes) -> bytes:
    head = _GENERIC.pack(socket.AF_INET, 0, 0) + build_attribute(_PROTOCOL, bytes([_PROTOCOL_VERSION]))
    return build_request(_SUBSYSTEM | command, ACK, head + attributes)


def _find(message: bytes, kind: int) -> bytes:
    try:
        return dict(parse_attributes(message[_PAYLOAD:]))[kind]
    except LookupError:
        raise ValueError("this tells nothing of a set") from None
