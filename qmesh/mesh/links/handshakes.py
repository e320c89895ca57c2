"""WireGuard's first message of a handshake, as the machine can read it to which it was sent.

It says whose it is, and when it was made. WireGuard takes none that is not newer than all that it has seen of
a peer: a machine whose clock was ahead once, or starts in 1970, is refused without a word until its clock has
come to that time again. Source: WireGuard's protocol, 5.1 and 5.4.2; TAI64N.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import struct
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from qmesh.mesh.values import Secret

INITIATION_TYPE: Final = 1
_MESSAGE: Final = struct.Struct("<8x32s48s28s16x16x")
_CONSTRUCTION: Final = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
_IDENTIFIER: Final = b"WireGuard v1 zx2c4 Jason@zx2c4.com"
_NONCE: Final = bytes(12)
_TIMESTAMP: Final = struct.Struct(">QI")
_TAI64_OF_1970: Final = (1 << 62) + 10


class Initiation(msgspec.Struct, frozen=True):
    """Who begins a handshake, and at which Unix time by its own clock, in seconds."""

    public_key: str
    at: float


def read_initiation(message: bytes, private_key: Secret) -> Initiation | None:
    """What a datagram says that begins a handshake with the owner of that key; None for any other one."""
    if len(message) != _MESSAGE.size or message[0] != INITIATION_TYPE:
        return None
    ephemeral, sealed_key, sealed_time = _MESSAGE.unpack(message)
    own = X25519PrivateKey.from_private_bytes(base64.b64decode(private_key.reveal()))
    try:
        chain = _hash(_CONSTRUCTION)
        seen = _hash(_hash(_hash(chain + _IDENTIFIER) + own.public_key().public_bytes_raw()) + ephemeral)
        chain, _ = _derive(chain, ephemeral)
        chain, key = _derive(chain, _exchange(own, ephemeral))
        public_key = ChaCha20Poly1305(key).decrypt(_NONCE, sealed_key, seen)
        _, key = _derive(chain, _exchange(own, public_key))
        time = ChaCha20Poly1305(key).decrypt(_NONCE, sealed_time, _hash(seen + sealed_key))
    except (InvalidTag, ValueError):  # of a key of low order, too
        return None
    seconds, nanoseconds = _TIMESTAMP.unpack(time)
    return Initiation(base64.b64encode(public_key).decode(), seconds - _TAI64_OF_1970 + nanoseconds / 1e9)


def _exchange(own: X25519PrivateKey, other: bytes) -> bytes:
    return own.exchange(X25519PublicKey.from_public_bytes(other))


def _hash(octets: bytes) -> bytes:
    return hashlib.blake2s(octets).digest()


def _derive(chain: bytes, octets: bytes) -> tuple[bytes, bytes]:
    """The next chaining key, and a key."""
    secret = hmac.digest(chain, octets, "blake2s")
    first = hmac.digest(secret, b"\1", "blake2s")
    return first, hmac.digest(secret, first + b"\2", "blake2s")
