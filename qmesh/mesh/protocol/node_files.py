"""The node's files on their way to a member that may have them: its least config.yml, and keys.yml.

The member asks; the control node never sends them by itself. A request is encrypted with the preshared key
of the two, which only root has on either machine, and has a public key that is made for it alone. The answer
is encrypted under a key that takes four secrets to know: the one of that public key, the member's WireGuard
key, the answer's own, and the preshared key. So an answer can be read once, by the process that asked; a
request that is sent again gives nothing to who sends it.

No randomness here: private keys and nonces are arguments.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from typing import Annotated, Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from qmesh.errors import EnrolmentRefused
from qmesh.mesh.decode import SAME_VERSION, Malformed, decode_msgpack
from qmesh.mesh.protocol.aead import NONCE_OCTETS, decrypt_message, derive_key, encrypt_message
from qmesh.mesh.values import Secret, SecretStruct

REQUEST: Final = b"a request for the node's files"
"""The kind of message, for `qmesh.mesh.protocol.aead`."""
MAX_PATH: Final = 4096
"""Bytes of a path. Source: Linux, PATH_MAX."""

_Key = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


class NodeFilesRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a member asks for.

    name: the member's own.
    reply_key: an X25519 public key, made for this request.
    key_store: where the member will have keys.yml, as config.yml there should say; printable ASCII.
    """

    name: Annotated[str, msgspec.Meta(max_length=63)]
    reply_key: _Key
    key_store: Annotated[str, msgspec.Meta(pattern=r"\A/[ -~]*\Z", max_length=MAX_PATH)]


class NodeFiles(SecretStruct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The files, as they were at one moment. Never to be printed or logged.

    config: the member's least config.yml. keys: keys.yml; None where its node needs none.
    """

    config: str
    keys: bytes | None


class _Answer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """reply_key: an X25519 public key, made for this answer. sealed: the encrypted `NodeFiles`."""

    reply_key: _Key
    sealed: bytes


def compute_reply_key(private_key: bytes) -> bytes:
    """The public key of an X25519 private key, which has 32 octets."""
    return X25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()


def encrypt_request(request: NodeFilesRequest, shared: Secret, *, nonce: bytes) -> bytes:
    """A request as it travels. shared: the preshared key of the two."""
    return encrypt_message(msgspec.msgpack.encode(request), shared, about=REQUEST, nonce=nonce)


def decrypt_request(body: bytes, shared: Secret) -> NodeFilesRequest:
    """Read a request as it arrived. Raises EnrolmentRefused."""
    with _refuse_unreadable("request"):
        return decode_msgpack(decrypt_message(body, shared, about=REQUEST), NodeFilesRequest)


def encrypt_node_files(
    files: NodeFiles, request: NodeFilesRequest, *, member_key: str, shared: Secret, private_key: bytes
) -> bytes:
    """The answer to a request. private_key: made for this answer. Raises EnrolmentRefused.

    member_key: the member's WireGuard public key.
    """
    own = X25519PrivateKey.from_private_bytes(private_key)
    reply_key = own.public_key().public_bytes_raw()
    static = base64.b64decode(member_key)
    with _refuse_unreadable("request"):
        agreed = own.exchange(X25519PublicKey.from_public_bytes(request.reply_key)) + own.exchange(
            X25519PublicKey.from_public_bytes(static)
        )
    cipher = _derive_cipher(agreed, shared, request.reply_key + reply_key + static)
    sealed = cipher.encrypt(_NONCE, msgspec.msgpack.encode(files), None)
    return msgspec.msgpack.encode(_Answer(reply_key, sealed))


def decrypt_node_files(
    body: bytes, *, private_key: bytes, member_private_key: Secret, shared: Secret
) -> NodeFiles:
    """Read the answer. private_key: the one of the request; member_private_key: this machine's.

    Raises EnrolmentRefused where it is not the control node's answer to that request.
    """
    own = X25519PrivateKey.from_private_bytes(private_key)
    member = X25519PrivateKey.from_private_bytes(base64.b64decode(member_private_key.reveal()))
    with _refuse_unreadable("answer"):
        answer = decode_msgpack(body, _Answer)
        theirs = X25519PublicKey.from_public_bytes(answer.reply_key)
        agreed = own.exchange(theirs) + member.exchange(theirs)
        transcript = (
            own.public_key().public_bytes_raw() + answer.reply_key + member.public_key().public_bytes_raw()
        )
        octets = _derive_cipher(agreed, shared, transcript).decrypt(_NONCE, answer.sealed, None)
        return decode_msgpack(octets, NodeFiles)


_NONCE: Final = bytes(NONCE_OCTETS)
"""Each key encrypts one message, so there is no second one to tell it from."""


def _derive_cipher(agreed: bytes, shared: Secret, transcript: bytes) -> ChaCha20Poly1305:
    salt = b"qmesh node files 1" + base64.b64decode(shared.reveal())
    return ChaCha20Poly1305(derive_key(agreed, salt=salt, info=transcript))


@contextlib.contextmanager
def _refuse_unreadable(what: str) -> Iterator[None]:
    """Raise EnrolmentRefused also for a key with which X25519 agrees on nothing but zeros: ValueError."""
    try:
        yield
    except (Malformed, InvalidTag, ValueError):
        raise EnrolmentRefused(
            f"the {what} for the node's files is not understood",
            hint=f"{SAME_VERSION}; after `qmesh rotate-key`, wait a minute",
        ) from None
