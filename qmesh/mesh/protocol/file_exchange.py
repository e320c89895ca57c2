"""Joining by files: the request that a machine writes, and the control node's answer.

Each is one line of text, `qmesh-request1` or `qmesh-answer1` and base64url of a MessagePack array and
a checksum. Both may lie open on their way. A request holds nothing secret, and its redemption proves
itself. An answer is the signed membership, encrypted with ChaCha20-Poly1305 (RFC 8439) under a key
that is derived from the permanent preshared key, which both sides hold and which crosses no wire.

No randomness here: a nonce is an argument.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from qmesh.errors import EnrolmentRefused
from qmesh.mesh.protocol.aead import NONCE_OCTETS, derive_cipher
from qmesh.mesh.protocol.armor import decode_carried, decode_line, encode_line
from qmesh.mesh.values import Secret

REQUEST_PREFIX: Final = "qmesh-request1"
ANSWER_PREFIX: Final = "qmesh-answer1"
MAX_REQUEST: Final = 8192
MAX_ANSWER: Final = 64 * 1024 * 1024
"""Characters of each at most, white space around it included."""

_NO_REQUEST: Final = "pass the whole file that `qmesh join --offline` wrote on the machine"
_NO_ANSWER: Final = "pass the whole file that `qmesh admit` wrote on the control node"


class JoinRequest(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A machine asks to become a member.

    mesh: the mesh's identifier, so that another control node can say what is wrong.
    redemption: as `read_redemption` takes it. It has its own proof; nothing else of a request is trusted.
    """

    mesh: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{16}\Z")]
    redemption: bytes

    def text(self) -> str:
        """The one line that `qmesh join --offline` writes."""
        return encode_line(REQUEST_PREFIX, msgspec.msgpack.encode(self))


def parse_request(text: str) -> JoinRequest:
    """Read the line that `qmesh join --offline` wrote. Raises BadInput."""
    packed = decode_line(text, REQUEST_PREFIX, what="request", most=MAX_REQUEST, hint=_NO_REQUEST)
    return decode_carried(packed, JoinRequest, what="request")


class JoinAnswer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The membership for one machine, which alone can read it.

    identifier: of the invitation that was redeemed.
    nonce: of ChaCha20-Poly1305, 12 octets, never used twice.
    sealed: the encrypted membership; the identifier is authenticated with it.
    """

    identifier: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{32}\Z")]
    nonce: Annotated[bytes, msgspec.Meta(min_length=NONCE_OCTETS, max_length=NONCE_OCTETS)]
    ciphertext: bytes

    def text(self) -> str:
        """The one line that `qmesh admit` writes."""
        return encode_line(ANSWER_PREFIX, msgspec.msgpack.encode(self))


def encrypt_answer(membership: bytes, *, identifier: str, preshared: Secret, nonce: bytes) -> JoinAnswer:
    """Encrypt a signed membership for the machine that redeemed the invitation.

    membership: JSON of a SignedMembership.
    preshared: the permanent preshared key of that machine and the control node.
    nonce: 12 random octets.
    """
    sealed = _derive_cipher(preshared, identifier).encrypt(nonce, membership, identifier.encode())
    return JoinAnswer(identifier, nonce, sealed)


def parse_answer(text: str) -> JoinAnswer:
    """Read the line that `qmesh admit` wrote. Raises BadInput."""
    packed = decode_line(text, ANSWER_PREFIX, what="answer", most=MAX_ANSWER, hint=_NO_ANSWER)
    return decode_carried(packed, JoinAnswer, what="answer")


def decrypt_answer(answer: JoinAnswer, preshared: Secret) -> bytes:
    """The signed membership in an answer, not verified yet.

    Raises EnrolmentRefused unless it was encrypted with the permanent preshared key.
    """
    try:
        return _derive_cipher(preshared, answer.identifier).decrypt(
            answer.nonce, answer.ciphertext, answer.identifier.encode()
        )
    except InvalidTag:
        raise EnrolmentRefused(
            "this answer is not for this machine, or was altered",
            hint="on the control node, run `qmesh admit` with this machine's newest request, and use that"
            " answer",
        ) from None


def _derive_cipher(preshared: Secret, identifier: str) -> ChaCha20Poly1305:
    return derive_cipher(preshared, info=identifier.encode(), salt=b"qmesh offline answer 1")
