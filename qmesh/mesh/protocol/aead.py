"""Messages of two machines, encrypted with the preshared key of their tunnel.

WireGuard vouches for the machine that a packet comes from, not for the user on it: any program there can
speak from the tunnel address. Only root has the preshared key.
"""

from __future__ import annotations

import base64
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from qmesh.errors import EnrolmentRefused
from qmesh.mesh.decode import SAME_VERSION
from qmesh.mesh.values import Secret

NONCE_OCTETS: Final = 12


def encrypt_message(octets: bytes, shared: Secret, *, about: bytes, nonce: bytes) -> bytes:
    """What only the other one of the two can read, and knows to be of this one.

    about: which kind of message it is; nonce: fresh random octets, 12.
    """
    return nonce + derive_cipher(shared, info=about).encrypt(nonce, octets, None)


def decrypt_message(octets: bytes, shared: Secret, *, about: bytes) -> bytes:
    """Decrypt a message. Raises EnrolmentRefused where it is not the other machine's."""
    try:
        return derive_cipher(shared, info=about).decrypt(octets[:NONCE_OCTETS], octets[NONCE_OCTETS:], None)
    except (InvalidTag, ValueError):
        raise EnrolmentRefused(
            "the message is not encrypted with the preshared key of the two machines",
            hint=SAME_VERSION,
        ) from None


def derive_cipher(shared: Secret, *, info: bytes, salt: bytes = b"qmesh sealed 1") -> ChaCha20Poly1305:
    """ChaCha20-Poly1305 (RFC 8439) under a key for one purpose, which HKDF makes of a preshared one."""
    return ChaCha20Poly1305(derive_key(base64.b64decode(shared.reveal()), salt=salt, info=info))


def derive_key(secret: bytes, *, salt: bytes, info: bytes) -> bytes:
    """32 octets for one purpose. Source: RFC 5869."""
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(secret)
