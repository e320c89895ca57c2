"""A backup of the control node as one file, plain or encrypted with a passphrase.

    magic 16 | version 2, big-endian | encrypted 1 | salt 16 and nonce 12, if encrypted | body | SHA-256 32

The body is a MessagePack map, encrypted with ChaCha20-Poly1305 (RFC 8439) under a key that scrypt
(RFC 7914) makes of the passphrase; all before it is authenticated with it. The checksum is over all before
it, in every version, so that damage can be told from a wrong passphrase.

No randomness and no clock here: salt, nonce and times are arguments.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from qmesh.errors import BadInput, QmeshError
from qmesh.mesh.changes import set_endpoints
from qmesh.mesh.decode import Malformed, decode_msgpack
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.protocol.aead import NONCE_OCTETS
from qmesh.mesh.protocol.enrolment import compute_mesh_identifier, derive_public_key
from qmesh.mesh.values import REVISION_JUMP, Endpoint, Secret, SecretStruct, UnixTime

MAGIC: Final = b"qmesh backup\r\n\x1a\n"
VERSION: Final = 1
SALT_OCTETS: Final = 16

_HEAD_OCTETS: Final = len(MAGIC) + 3
_CHECKSUM_OCTETS: Final = 32
_SCRYPT_N: Final = 2**17  # with r = 8 that is 128 MiB and some tenths of a second


class Backup(SecretStruct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """All that makes a machine the control node of its mesh.

    taken_at: Unix time in seconds.
    written_by: the version of qmesh.
    settings: `machine.json`.
    private_key: WireGuard's, base64; signing_key: Ed25519, 32 octets.
    registry: a SQLite database in which no invitation is open.
    withdrawn: the machines whose invitations were open, and are withdrawn in it.
    retired: `retired.json`; empty where no key was retired.
    """

    taken_at: UnixTime
    written_by: str
    settings: bytes
    private_key: str
    signing_key: bytes
    registry: bytes
    withdrawn: tuple[str, ...]
    retired: bytes = b""


class BackupEncryption(SecretStruct, frozen=True, kw_only=True):
    """What a backup is encrypted with. salt, nonce: fresh random bytes, 16 and 12."""

    passphrase: bytes
    salt: bytes
    nonce: bytes


def encode_backup(backup: Backup, seal: BackupEncryption | None) -> bytes:
    """The bytes of the file; without encryption, anyone who has them has the whole mesh."""
    body = msgspec.msgpack.encode(backup)
    head = MAGIC + VERSION.to_bytes(2, "big") + bytes([seal is not None])
    if seal is not None:
        head += seal.salt + seal.nonce
        body = _cipher(seal.passphrase, seal.salt).encrypt(seal.nonce, body, head)
    return head + body + hashlib.sha256(head + body).digest()


def is_encrypted(octets: bytes) -> bool:
    """Whether it takes a passphrase to read a backup.

    Raises BadInput for what is no backup, damaged, cut short, or of a newer qmesh.
    """
    if not octets.startswith(MAGIC):
        raise BadInput("this is not a qmesh backup", hint="pass the file that `qmesh backup` wrote")
    whole, checksum = octets[:-_CHECKSUM_OCTETS], octets[-_CHECKSUM_OCTETS:]
    if len(whole) < _HEAD_OCTETS or hashlib.sha256(whole).digest() != checksum:
        raise BadInput(
            "this backup is damaged or incomplete",
            hint="copy it again, or use an older one; nothing was changed",
        )
    if int.from_bytes(octets[len(MAGIC) : len(MAGIC) + 2], "big") > VERSION:
        raise BadInput(
            "this backup was written by a newer qmesh", hint="install that version of qmesh, or a newer one"
        )
    return octets[_HEAD_OCTETS - 1] != 0


def decode_backup(octets: bytes, passphrase: bytes | None) -> Backup:
    """Read a backup. Raises BadInput as `is_encrypted` does, and for a wrong passphrase.

    passphrase: None for one that is plain; with a passphrase a plain one is refused, since an attacker may
        have replaced the encrypted one with it.
    """
    body = octets[_HEAD_OCTETS:-_CHECKSUM_OCTETS]
    sealed = is_encrypted(octets)
    if passphrase is not None and not sealed:
        raise BadInput(
            "this backup is not encrypted, though a passphrase was given for it",
            hint="make sure that it is yours: another file may be in its place; if it is, use `--plain`"
            " without a passphrase",
        )
    if sealed:
        body = _decrypt_body(octets[:_HEAD_OCTETS], body, b"" if passphrase is None else passphrase)
    try:
        return decode_msgpack(body, Backup)
    except Malformed:
        raise BadInput(
            "the content of this backup is not understood", hint="use an older one; nothing was changed"
        ) from None


def _decrypt_body(head: bytes, rest: bytes, passphrase: bytes) -> bytes:
    salt, nonce, body = (
        rest[:SALT_OCTETS],
        rest[SALT_OCTETS:][:NONCE_OCTETS],
        rest[SALT_OCTETS + NONCE_OCTETS :],
    )
    try:
        return _cipher(passphrase, salt).decrypt(nonce, body, head + salt + nonce)
    except (InvalidTag, ValueError):
        raise BadInput(
            "the passphrase is not that of this backup", hint="type it again; nothing was changed"
        ) from None


def _cipher(passphrase: bytes, salt: bytes) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(Scrypt(salt=salt, length=32, n=_SCRYPT_N, r=8, p=1).derive(passphrase))


def find_mismatched_key(
    mesh: Inventory, *, private_key: Secret, signing_key: bytes, verification_key: bytes
) -> str | None:
    """Which key is not that of the mesh's control node; None where all are.

    verification_key: as the settings have it.
    """
    try:
        if derive_public_key(private_key) != mesh.control_node.public_key:
            return "private key"
        signs = Ed25519PrivateKey.from_private_bytes(signing_key).public_key().public_bytes_raw()
    except (QmeshError, ValueError):
        return "keys"
    if signs != verification_key or compute_mesh_identifier(signs) != mesh.mesh:
        return "signing key"
    return None


def build_restored_inventory(
    mesh: Inventory, endpoints: tuple[Endpoint, ...], *, jump: int = REVISION_JUMP
) -> Inventory:
    """The mesh after its control node was restored: of a revision that no member can hold yet.

    endpoints: where the control node is reached now; none where that is unchanged.
    """
    reached = set_endpoints(mesh, mesh.control, endpoints) if endpoints else mesh
    return msgspec.structs.replace(reached, revision=mesh.revision + jump)
