"""The signed membership: what it is, how it is verified, and how a newer one travels.

A member that holds a membership gets the difference to the newer one: Zstandard (RFC 8878) with the
older payload as the prefix. It is verified as a whole one is: the result has to have the mesh's signature.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from qmesh.errors import EnrolmentRefused
from qmesh.mesh.decode import SAME_VERSION, Malformed, decode_json, decode_msgpack, refuse_malformed
from qmesh.mesh.inventory import Inventory, list_members
from qmesh.mesh.protocol.aead import decrypt_message, encrypt_message
from qmesh.mesh.values import MOST_REVISION, Secret, quote_text

try:
    from compression import zstd  # type: ignore[import-not-found, unused-ignore]
except ImportError:  # before Python 3.14
    from backports import zstd

MAX_PAYLOAD: Final = 32 * 1024 * 1024
"""Octets of a membership's payload: thousands of machines; and of all that the parts of an update make."""
MAX_PARTS: Final = 256
"""Parts of an update."""
HOLDS: Final = b"which membership a member holds"
"""The kind of message, for `qmesh.mesh.protocol.aead`."""
_WINDOW_LOG_MAX: Final = 27


class SignedMembership(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The membership document as it travels and as it is stored.

    payload: JSON of the Inventory, invited machines left out.
    signature: Ed25519, 64 octets.
    """

    payload: bytes
    signature: bytes


_NOT_OURS: Final = "the membership is not signed by this mesh's key, or is damaged"
_LOOK_THERE: Final = "make sure that the control node is the machine that invited this one"
_SIGNED_FOR: Final = b"qmesh membership 1\n"


def sign_membership(inventory: Inventory, signing_key: Ed25519PrivateKey) -> SignedMembership:
    """Sign what every member may know. The same inventory gives the same octets."""
    known = msgspec.structs.replace(inventory, machines=list_members(inventory), stand_ins=())
    payload = msgspec.json.encode(known)
    return SignedMembership(payload, signing_key.sign(_SIGNED_FOR + payload))


def verify_membership(signed: SignedMembership, verification_key: bytes, *, mesh: str) -> Inventory:
    """The mesh as a signed membership says it is, or EnrolmentRefused is raised: E6.

    verification_key: Ed25519, 32 octets, from the invitation.
    """
    try:
        key = Ed25519PublicKey.from_public_bytes(verification_key)
        key.verify(signed.signature, _SIGNED_FOR + signed.payload)
        inventory = decode_json(signed.payload, Inventory)
    except (InvalidSignature, Malformed, ValueError):
        raise EnrolmentRefused(_NOT_OURS, hint=_LOOK_THERE) from None
    if inventory.mesh != mesh:
        raise EnrolmentRefused(
            f"the membership is of mesh {quote_text(inventory.mesh)}, not of {quote_text(mesh)}",
            hint=_LOOK_THERE,
        )
    return inventory


def refuse_unlisted_machine(inventory: Inventory, name: str, address: str, public_key: str) -> None:
    """Raise EnrolmentRefused unless the mesh has a machine with this name, address and key."""
    if (name, address, public_key) not in ((me.name, me.address, me.public_key) for me in inventory.machines):
        raise EnrolmentRefused(
            f"the control node has no machine {name} with this key",
            hint=f"make a new invitation on the control node: `qmesh invite {name}`",
        )


def is_newer_membership(held: Inventory, offered: Inventory) -> bool:
    """Whether a verified membership replaces the one that is held: only a higher revision does."""
    return offered.revision > held.revision


class Update(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How a membership travels: as MessagePack.

    base: the revision whose payload the first part is the difference to; None where that part is whole.
    parts: each, decompressed with the payload before it as prefix, gives the next payload.
    signature: of the last payload, as in SignedMembership.
    """

    base: int | None
    parts: Annotated[tuple[bytes, ...], msgspec.Meta(max_length=MAX_PARTS)]
    signature: bytes


def build_full_update(signed: SignedMembership) -> Update:
    """The membership for one that holds none."""
    return Update(None, (compute_difference(b"", signed.payload),), signed.signature)


def compute_difference(old: bytes, new: bytes) -> bytes:
    """What makes the payload `new` of the payload `old`; of an empty one, `new` compressed."""
    made: bytes = zstd.compress(
        new,
        options={
            zstd.CompressionParameter.compression_level: 3,
            # So that all of the older payload is in reach, wherever the same octets stand in the new one.
            zstd.CompressionParameter.window_log: max(
                10, min((len(old) + len(new)).bit_length(), _WINDOW_LOG_MAX)
            ),
        },
        zstd_dict=zstd.ZstdDict(old, is_raw=True).as_prefix if len(old) >= _LEAST_PREFIX else None,
    )
    return made


_LEAST_PREFIX: Final = 8
"""Octets below which Zstandard takes no prefix."""


def apply_update(
    update: Update, held: SignedMembership | None, *, most: int | None = None
) -> SignedMembership:
    """The membership that an update makes of the one that is held, not verified yet.

    held: the one of revision `update.base`; None goes with a whole one. most: bytes of all that it makes,
        where fewer than usual are enough.
    Raises EnrolmentRefused where the update does not fit.
    """
    payload = b"" if held is None else held.payload
    left = MAX_PAYLOAD if most is None else most
    for part in update.parts:
        payload = _decompress_part(payload, part, left)
        left -= len(payload)
    return SignedMembership(payload, update.signature)


def _decompress_part(old: bytes, part: bytes, most: int) -> bytes:
    prefix = zstd.ZstdDict(old, is_raw=True).as_prefix if len(old) >= _LEAST_PREFIX else None
    decompressor = zstd.ZstdDecompressor(
        zstd_dict=prefix, options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG_MAX}
    )
    try:
        payload: bytes = decompressor.decompress(part, max_length=most)
    except zstd.ZstdError:
        payload = b""
    if not decompressor.eof or decompressor.unused_data:
        raise EnrolmentRefused("the membership arrived damaged", hint=SAME_VERSION)
    return payload


class History:
    """The membership as it is now, and the differences that lead to it from what members still hold.

    depth: how many differences are kept.
    """

    def __init__(self, signed: SignedMembership, revision: int, *, depth: int = MAX_PARTS) -> None:
        self.signed = signed
        self.revision = revision
        self._steps: dict[int, tuple[int, bytes, int]] = {}
        self._depth = depth
        self._whole: Update | None = None
        self._packed_whole = b""

    def advance(self, signed: SignedMembership, revision: int) -> None:
        """A newer membership is the one now."""
        part = compute_difference(self.signed.payload, signed.payload)
        self._steps[self.revision] = revision, part, len(signed.payload)
        while len(self._steps) > self._depth:
            del self._steps[next(iter(self._steps))]
        self.signed, self.revision = signed, revision
        self._whole, self._packed_whole = None, b""

    def encode_update(self, held: int | None) -> bytes:
        """The same as `build_update`, as it travels; a whole one is the same octets for all who need it."""
        update = self.build_update(held)
        if update is not self._whole:
            return msgspec.msgpack.encode(update)
        self._packed_whole = self._packed_whole or msgspec.msgpack.encode(update)
        return self._packed_whole

    def build_update(self, held: int | None) -> Update:
        """What brings one up to date that holds the membership of this revision, or none."""
        parts: list[bytes] = []
        at, made = held, 0
        while at is not None and at in self._steps and made <= MAX_PAYLOAD:
            at, part, octets = self._steps[at]
            parts.append(part)
            made += octets
        if at != self.revision or made > MAX_PAYLOAD:
            # Of thousands that come at once to a control node that was restarted, each needs it.
            self._whole = self._whole or build_full_update(self.signed)
            return self._whole
        return Update(held, tuple(parts), self.signed.signature)


def read_update(octets: bytes) -> Update:
    """Read an update as it arrived. Raises EnrolmentRefused."""
    with refuse_malformed("the control node's answer is not understood"):
        return decode_msgpack(octets, Update)


def encrypt_held_revision(revision: int, shared: Secret, *, nonce: bytes) -> bytes:
    """What a member says to the control node: that it holds the membership of this revision.

    shared: the preshared key of the two. nonce: see `qmesh.mesh.protocol.aead.encrypt_message`.
    """
    return encrypt_message(msgspec.json.encode(revision), shared, about=HOLDS, nonce=nonce)


def decrypt_held_revision(sealed: bytes, shared: Secret) -> int:
    """The revision that a member reports to hold. Raises EnrolmentRefused where that can't be decrypted."""
    with refuse_malformed("a member's report of its revision is not understood"):
        revision = decode_json(decrypt_message(sealed, shared, about=HOLDS), int)
        if not 0 <= revision <= MOST_REVISION:  # no number beyond it gets into the registry
            raise Malformed
    return revision


def encode_membership(signed: SignedMembership) -> bytes:
    """A membership as it is kept in a file, which `read_membership` reads."""
    return msgspec.json.encode(signed)


def decode_membership(octets: bytes) -> SignedMembership:
    """The membership that `encode_membership` made; not verified yet. Raises EnrolmentRefused."""
    with refuse_malformed(_NOT_OURS, hint=_LOOK_THERE):
        return decode_json(octets, SignedMembership)
