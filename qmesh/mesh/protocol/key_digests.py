"""What a member reports of its node's keys: digests that tell the control node whether they are the same.

They are HMAC-SHA256 (RFC 2104) under a key that HKDF makes of the preshared key of the two, so that no other
machine can try values, and two members with the same keys report different digests.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable
from typing import Annotated, Final, Literal, TypeAlias, get_args

import msgspec

from qmesh.mesh.decode import decode_msgpack, refuse_malformed
from qmesh.mesh.protocol.aead import NONCE_OCTETS, decrypt_message, derive_key, encrypt_message
from qmesh.mesh.values import Secret, SecretStruct

DIGESTS: Final = b"digests of the node's keys"
"""The kind of message, for `qmesh.mesh.protocol.aead`."""

NodeKey: TypeAlias = Literal["p2p.peerPrivKey", "key.keyManagerFile.encryptionKey", "keys.yml"]
NODE_KEYS: Final[tuple[NodeKey, ...]] = get_args(NodeKey)
"""What makes a node's identity, as its files call it."""


class NodeIdentity(SecretStruct, frozen=True, kw_only=True):
    """What a machine's node has of each, in a normal form; None for what is not there or can't be read."""

    peer_key: bytes | None = None
    encryption_key: bytes | None = None
    key_store: bytes | None = None

    @property
    def values(self) -> tuple[bytes | None, ...]:
        """In the order of `NODE_KEYS`."""
        return self.peer_key, self.encryption_key, self.key_store


_Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


class KeyDigests(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A digest of each, in the order of `NODE_KEYS`; None for what is not there."""

    peer_key: _Digest | None
    encryption_key: _Digest | None
    key_store: _Digest | None

    @property
    def values(self) -> tuple[bytes | None, ...]:
        """In the order of `NODE_KEYS`."""
        return self.peer_key, self.encryption_key, self.key_store


def compute_digests(identity: NodeIdentity, shared: Secret) -> KeyDigests:
    """The digests of an identity. shared: the preshared key of member and control node."""
    key = derive_key(base64.b64decode(shared.reveal()), salt=b"qmesh key digests 1", info=DIGESTS)
    return KeyDigests(
        *(
            None if value is None else hmac.new(key, name.encode() + b"\0" + value, hashlib.sha256).digest()
            for name, value in zip(NODE_KEYS, identity.values, strict=True)
        )
    )


def find_different_keys(
    reported: KeyDigests, own: NodeIdentity, shared: Secret, *, needed: Iterable[NodeKey]
) -> tuple[NodeKey, ...]:
    """Those of the needed keys in which a member differs from this machine, the control node.

    What this machine has not itself is not compared: what is wrong is wrong here.
    """
    pairs = zip(NODE_KEYS, reported.values, compute_digests(own, shared).values, strict=True)
    wanted = frozenset(needed)
    return tuple(
        name
        for name, there, here in pairs
        if name in wanted and here is not None and not hmac.compare_digest(there or b"", here)
    )


def encrypt_digests(digests: KeyDigests, shared: Secret) -> bytes:
    """A report as it travels. The same digests give the same octets, so that who has read them reads no more.

    The nonce comes of the digests: with another nonce they are others, as a cipher asks for.
    """
    octets = msgspec.msgpack.encode(digests)
    nonce = hashlib.sha256(octets).digest()[:NONCE_OCTETS]
    return encrypt_message(octets, shared, about=DIGESTS, nonce=nonce)


def decrypt_digests(sealed: bytes, shared: Secret) -> KeyDigests:
    """Read a report as it arrived. Raises EnrolmentRefused where it is not that member's."""
    with refuse_malformed("a member's report of its node's keys is not understood"):
        return decode_msgpack(decrypt_message(sealed, shared, about=DIGESTS), KeyDigests)
