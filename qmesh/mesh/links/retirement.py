"""Keys that the mesh does not have any more, and how who still has one is told.

WireGuard answers no key that it does not know: a machine that was away while it was removed would ask for
ever, and so would one whose disk went back to an older key. So the control node's WireGuard goes on knowing
the last such keys, with an address that is no host's: what comes from it the kernel takes for no packet, so
that nothing is let in. To that address one message goes, signed by the mesh, which the machine picks up from
its tunnel before its own kernel drops it.

Such a machine calls the key and the endpoint that it knows. After a restore these are the control node's
still. After a handover they are those of the machine that was it before, which so goes on telling, with
signatures that were made while it could.
"""

from __future__ import annotations

import hashlib
import ipaddress
import struct
from collections.abc import Sequence
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from qmesh.errors import EnrolmentRefused
from qmesh.mesh.decode import Malformed, decode_json
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.protocol.aead import decrypt_message, encrypt_message
from qmesh.mesh.values import Secret, SecretStruct, UnixTime, validate_machine_name, validate_wireguard_key

MOST_RETIRED: Final = 64
"""Keys that are remembered, the newest: each is a peer more."""
ABOUT: Final = b"a key that the mesh does not have any more"
"""The kind of message, for `qmesh.mesh.protocol.aead`."""
_SIGNED_FOR: Final = b"qmesh retirement 1\n"
_SIGNATURE = 64
_IPV4: Final = struct.Struct("!BBHHHBBH4s4s")
_IPV6: Final = struct.Struct("!IHBB16s16s")
_EXPERIMENT, _NO_NEXT_HEADER, _HOPS = 253, 59, 64
"""Protocols that carry nothing of others. Source: RFC 3692, RFC 8200."""

Reason: TypeAlias = Literal["removed", "replaced"]
"""Whether the machine is in the mesh no more, or it is, with another key."""


class RetiredKey(SecretStruct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key that a machine had. at: Unix time in seconds, since when it has it no more.

    signature: of what its machine is told, 64 bytes; empty while the machine that tells it can sign.
    """

    machine: str
    public_key: str
    preshared_key: Secret
    reason: Reason
    at: UnixTime
    signature: Annotated[bytes, msgspec.Meta(max_length=_SIGNATURE)] = b""

    def __post_init__(self) -> None:
        validate_machine_name(self.machine)
        validate_wireguard_key(self.public_key)


class RetiredKeys(SecretStruct, frozen=True, forbid_unknown_fields=True):
    """Those that a machine remembers which was the control node, oldest first."""

    keys: Annotated[tuple[RetiredKey, ...], msgspec.Meta(max_length=MOST_RETIRED)] = ()


class KeyRetirement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What its machine is told of such a key; the same as there."""

    mesh: str
    machine: str
    public_key: str
    reason: Reason
    at: UnixTime


def select_retired_keys(known: Sequence[RetiredKey], inventory: Inventory) -> tuple[RetiredKey, ...]:
    """Those of them that the mesh does not have, each once, as the last of them says; the newest of all.

    known: oldest first. A machine that was removed may have joined again with the key that it had.
    """
    there = {each.public_key for each in inventory.machines}
    there.update(each.public_key for each in inventory.stand_ins)
    newest: dict[str, RetiredKey] = {}
    for each in reversed(known):
        if each.public_key not in there:
            newest.setdefault(each.public_key, each)
    return tuple(newest.values())[:MOST_RETIRED][::-1]


def compute_retired_address(public_key: str, *, is_ipv6: bool) -> str:
    """The address that such a key has in the tunnel: of those that no kernel takes from a packet.

    A multicast one is no source, whatever rules and sysctls say. Source: RFC 1122, RFC 4291.
    """
    digest = hashlib.sha256(b"qmesh retired " + public_key.encode()).digest()
    if is_ipv6:
        return str(ipaddress.IPv6Address(b"\xff" + digest[:15]))
    return str(ipaddress.IPv4Address(b"\xef" + digest[:3]))


def sign_retirement(retired: RetiredKey, mesh: str, signing_key: Ed25519PrivateKey) -> RetiredKey:
    """The same with the mesh's signature: its machine can be told then by one that has no signing key."""
    signature = signing_key.sign(_SIGNED_FOR + _encode_retirement(retired, mesh))
    return msgspec.structs.replace(retired, signature=signature)


def _encode_retirement(retired: RetiredKey, mesh: str) -> bytes:
    return msgspec.json.encode(
        KeyRetirement(
            mesh=mesh,
            machine=retired.machine,
            public_key=retired.public_key,
            reason=retired.reason,
            at=retired.at,
        )
    )


def build_notice(retired: RetiredKey, mesh: str, *, source: str, nonce: bytes) -> bytes:
    """The packet that tells who has a key what became of it. source: the sender's tunnel address.

    retired: signed. nonce: see `qmesh.mesh.protocol.aead.encrypt_message`.
    """
    signed = retired.signature + _encode_retirement(retired, mesh)
    body = encrypt_message(signed, retired.preshared_key, about=ABOUT, nonce=nonce)
    is_ipv6 = ":" in source
    there = compute_retired_address(retired.public_key, is_ipv6=is_ipv6)
    return _build_packet(ipaddress.ip_address(source).packed, ipaddress.ip_address(there).packed, body)


def _build_packet(source: bytes, destination: bytes, body: bytes) -> bytes:
    if len(source) == 16:
        return _IPV6.pack(6 << 28, len(body), _NO_NEXT_HEADER, _HOPS, source, destination) + body
    fields = (0x45, 0, _IPV4.size + len(body), 0, 0, _HOPS, _EXPERIMENT)
    unsummed = _IPV4.pack(*fields, 0, source, destination)
    total = sum(struct.unpack("!10H", unsummed))
    total = (total & 0xFFFF) + (total >> 16)
    return _IPV4.pack(*fields, ~(total + (total >> 16)) & 0xFFFF, source, destination) + body


def read_notice(
    packet: bytes, public_key: str, shared: Secret, verification_key: bytes, *, mesh: str
) -> KeyRetirement | None:
    """What a packet tells of this machine's own key; None for any other packet.

    shared: the preshared key with the control node.
    """
    body = _find_body(packet, public_key)
    if body is None:
        return None
    try:
        signed = decrypt_message(body, shared, about=ABOUT)
        key = Ed25519PublicKey.from_public_bytes(verification_key)
        key.verify(signed[:_SIGNATURE], _SIGNED_FOR + signed[_SIGNATURE:])
        said = decode_json(signed[_SIGNATURE:], KeyRetirement)
    except (EnrolmentRefused, InvalidSignature, Malformed, ValueError):
        return None
    return said if (said.mesh, said.public_key) == (mesh, public_key) else None


def _find_body(packet: bytes, public_key: str) -> bytes | None:
    is_ipv6 = bool(packet) and packet[0] >> 4 == 6
    header = _IPV6.size if is_ipv6 else _IPV4.size
    there = ipaddress.ip_address(compute_retired_address(public_key, is_ipv6=is_ipv6)).packed
    if len(packet) < header or packet[header - len(there) : header] != there:
        return None
    return packet[header:]
