"""The messages of the kernel's WireGuard, as octets. Source: linux/netlink.h, genetlink.h, wireguard.h.

They are written and read whole: of five thousand peers an object for each attribute takes longer than all
that the kernel does with them. pyroute2 is the second opinion in the tests.
"""

from __future__ import annotations

import socket
import struct
from binascii import a2b_base64
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
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
from qmesh.host.wireguard.device import (
    REMEMBERED,
    Device,
    build_device,
    encode_key,
    normalize_allowed_ips,
    parse_endpoint,
)
from qmesh.mesh.foreign.attributes import parse_attributes
from qmesh.mesh.state import Counters, Peer
from qmesh.mesh.values import Endpoint, Secret

_CONTROLLER, _GET_FAMILY, _FAMILY_NUMBER, _FAMILY_NAME = 16, 3, 1, 2  # GENL_ID_CTRL, CTRL_CMD_*, CTRL_ATTR_*
GET_DEVICE: Final = 0
SET_DEVICE: Final = 1
MOST_PEER_OCTETS: Final = 0xFFFF - 4
"""In one message: its peers are one attribute, and an attribute's length has 16 bits."""
ALLOWED_IPS_A_BLOCK: Final = 500
"""A peer is one attribute too, with room for some 1,400; those of a peer are sent in parts."""

_NESTED = 0x8000
_VERSION = 1

_GENERIC = Struct("=BBH")  # command, version, reserved
_U16, _U32, _U64, _TIME = Struct("=H"), Struct("=I"), Struct("=Q"), Struct("=qq")
_IN = Struct("=H2s4s8x")  # sockaddr_in: family; port and address in network order
_IN6 = Struct("=H2s4x16s4x")
_PAYLOAD = HEADER.size + _GENERIC.size

_IFNAME, _PRIVATE_KEY, _PUBLIC_KEY, _LISTEN_PORT, _MARK, _PEERS = 2, 3, 4, 6, 7, 8  # WGDEVICE_A_*
# WGPEER_A_*
_PEER_KEY, _PRESHARED_KEY, _FLAGS, _ENDPOINT, _KEEPALIVE, _HANDSHAKE, _RX, _TX, _ALLOWED_IPS = range(1, 10)
_FAMILY, _ADDRESS, _PREFIX_LENGTH = 1, 2, 3  # WGALLOWEDIP_A_*
_REMOVE, _REPLACE_ALLOWED_IPS, _UPDATE_ONLY = 1, 2, 4  # WGPEER_F_*

_UNSET = bytes(32)

Values = dict[int, bytes]
"""Attributes by their type: of a type that repeats, the last."""


def build_family_request(name: str) -> bytes:
    """Ask for the number of a netlink family. It makes the kernel load what is of that name."""
    wanted = build_attribute(_FAMILY_NAME, name.encode() + b"\0")
    return build_request(_CONTROLLER, ACK, _GENERIC.pack(_GET_FAMILY, _VERSION, 0) + wanted)


def parse_family(message: bytes) -> int:
    """The number that was asked for. Raises ValueError where the message is cut short."""
    try:
        return int(_U16.unpack(dict(parse_attributes(message[_PAYLOAD:]))[_FAMILY_NUMBER])[0])
    except (LookupError, struct.error):
        raise ValueError("this is no netlink family") from None


def build_private_key_message(family: int, interface: str, private_key: Secret) -> bytes:
    """The message that configures a private key. family: the number of WireGuard's netlink family."""
    return _build_set_message(
        family, interface, build_attribute(_PRIVATE_KEY, a2b_base64(private_key.reveal()))
    )


def build_listen_port_message(family: int, interface: str, port: int) -> bytes:
    """The message that sets the UDP listen port."""
    return _build_set_message(family, interface, build_attribute(_LISTEN_PORT, _U16.pack(port)))


def build_peer_messages(family: int, interface: str, blocks: Iterable[bytes]) -> Iterator[bytes]:
    """As few messages as these peers fit into. blocks: of `peer_blocks` and `removal_block`."""
    together: list[bytes] = []
    size = 0
    for block in blocks:
        if size + len(block) > MOST_PEER_OCTETS:
            yield _build_set_message(family, interface, build_attribute(_PEERS | _NESTED, b"".join(together)))
            together, size = [], 0
        together.append(block)
        size += len(block)
    if together:
        yield _build_set_message(family, interface, build_attribute(_PEERS | _NESTED, b"".join(together)))


def peer_blocks(peer: Peer) -> Iterator[bytes]:
    """A peer configured whole; what is absent there would stay as it was."""
    key = build_attribute(_PEER_KEY, a2b_base64(peer.public_key))
    preshared_key = a2b_base64(peer.preshared_key.reveal()) if peer.preshared_key else _UNSET
    size = ALLOWED_IPS_A_BLOCK
    yield _build_nested(
        0,
        key,
        build_attribute(_PRESHARED_KEY, preshared_key),
        build_attribute(_FLAGS, _U32.pack(_REPLACE_ALLOWED_IPS)),
        b"" if peer.endpoint is None else build_attribute(_ENDPOINT, _pack_socket_address(peer.endpoint)),
        build_attribute(_KEEPALIVE, _U16.pack(peer.keepalive_s)),
        _build_allowed_ips(peer.allowed_ips[:size]),
    )
    for start in range(size, len(peer.allowed_ips), size):
        update = build_attribute(_FLAGS, _U32.pack(_UPDATE_ONLY))
        yield _build_nested(0, key, update, _build_allowed_ips(peer.allowed_ips[start : start + size]))


def removal_block(public_key: str) -> bytes:
    """A peer that is to go."""
    return _build_nested(
        0, build_attribute(_PEER_KEY, a2b_base64(public_key)), build_attribute(_FLAGS, _U32.pack(_REMOVE))
    )


def build_device_request(family: int, interface: str) -> bytes:
    """The message that asks for an interface with all its peers."""
    return _build_message(family, DUMP, GET_DEVICE, _build_name_attribute(interface))


def parse_device(dump: Sequence[bytes]) -> Device:
    """A dump's messages put together: the first tells of the device, and each of some peers.

    A peer of many allowed IPs goes on in the next message, which repeats only its public key.
    Raises ValueError when this is no such dump.
    """
    try:
        return _merge_dump(dump)
    except (LookupError, OSError, struct.error):
        raise ValueError("this is no WireGuard device") from None


def _merge_dump(dump: Sequence[bytes]) -> Device:
    peers: dict[bytes, tuple[Peer, Counters]] = {}
    own: list[Values] = [dict(parse_attributes(message[_PAYLOAD:])) for message in dump]
    for values in own:
        for _, content in parse_attributes(values.get(_PEERS, b"")):
            key, peer, counters = _parse_peer(dict(parse_attributes(content)))
            if key in peers:
                begun, counters = peers[key]
                networks = tuple(sorted({*begun.allowed_ips, *peer.allowed_ips}))
                peer = msgspec.structs.replace(begun, allowed_ips=networks)
            peers[key] = peer, counters
    if not own or _LISTEN_PORT not in own[0]:
        raise ValueError("this tells of no device")
    public_key = own[0].get(_PUBLIC_KEY)
    return build_device(
        public_key=encode_key(public_key) if public_key else None,
        listen_port=_read_number(own[0], _LISTEN_PORT, _U16),
        peers=peers.values(),
        mark=_read_number(own[0], _MARK, _U32),
    )


def _build_set_message(family: int, interface: str, attribute: bytes) -> bytes:
    return _build_message(family, ACK, SET_DEVICE, _build_name_attribute(interface) + attribute)


def _build_message(family: int, flags: int, command: int, attributes: bytes) -> bytes:
    return build_request(family, flags, _GENERIC.pack(command, _VERSION, 0) + attributes)


def _build_name_attribute(interface: str) -> bytes:
    return build_attribute(_IFNAME, interface.encode() + b"\0")


def _build_nested(kind: int, *attributes: bytes) -> bytes:
    return build_attribute(kind | _NESTED, b"".join(attributes))


def _build_allowed_ips(networks: Iterable[str]) -> bytes:
    return _build_nested(_ALLOWED_IPS, *map(_build_allowed_ip, networks))


def _build_allowed_ip(network: str) -> bytes:
    address, _, prefix_length = network.partition("/")
    family = _address_family(address)
    return _build_nested(
        0,
        build_attribute(_FAMILY, _U16.pack(family)),
        build_attribute(_ADDRESS, socket.inet_pton(family, address)),
        build_attribute(_PREFIX_LENGTH, bytes([int(prefix_length)])),
    )


def _pack_socket_address(endpoint: Endpoint) -> bytes:
    assert endpoint.is_address, "a peer's endpoint is resolved before it is configured"
    family = _address_family(endpoint.host)
    address = socket.inet_pton(family, endpoint.host)
    layout = _IN if family == socket.AF_INET else _IN6
    return layout.pack(family, endpoint.port.to_bytes(2, "big"), address)


def _address_family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _read_number(values: Values, kind: int, layout: Struct) -> int:
    return int(layout.unpack(values[kind])[0]) if kind in values else 0


def _parse_peer(values: Values) -> tuple[bytes, Peer, Counters]:
    key = values[_PEER_KEY]
    preshared_key = values.get(_PRESHARED_KEY) or _UNSET
    endpoint = _parse_endpoint(values.get(_ENDPOINT, b""))
    peer = Peer(
        public_key=encode_key(key),
        allowed_ips=_parse_allowed_ips(values.get(_ALLOWED_IPS, b"")),
        endpoint=endpoint,
        preshared_key=None if preshared_key == _UNSET else Secret(encode_key(preshared_key)),
        keepalive_s=_read_number(values, _KEEPALIVE, _U16),
    )
    counters = Counters(
        last_handshake_s=_read_number(values, _HANDSHAKE, _TIME) or None,
        rx_bytes=_read_number(values, _RX, _U64),
        tx_bytes=_read_number(values, _TX, _U64),
        endpoint=endpoint,
    )
    return key, peer, counters


@lru_cache(REMEMBERED)
def _parse_allowed_ips(allowed_ips: bytes) -> tuple[str, ...]:
    found = []
    for _, content in parse_attributes(allowed_ips):
        values = dict(parse_attributes(content))
        address = socket.inet_ntop(_read_number(values, _FAMILY, _U16), values.get(_ADDRESS, b""))
        found.append(f"{address}/{values[_PREFIX_LENGTH][0]}")
    return normalize_allowed_ips(*found)


@lru_cache(REMEMBERED)
def _parse_endpoint(value: bytes) -> Endpoint | None:
    """A socket address as the kernel tells it: of family 0, or none at all, while there is none."""
    family = _U16.unpack_from(value)[0] if value else 0
    if family not in {socket.AF_INET, socket.AF_INET6}:
        return None
    _, port, address = (_IN if family == socket.AF_INET else _IN6).unpack(value)
    return parse_endpoint(socket.inet_ntop(family, address), int.from_bytes(port, "big"))
