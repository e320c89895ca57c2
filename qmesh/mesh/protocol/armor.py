"""Messages that people carry: octets as one line of text, with a word before and a checksum behind."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Final, TypeVar

from qmesh.errors import BadInput
from qmesh.mesh.decode import SAME_VERSION, Malformed, decode_msgpack

T = TypeVar("T")

_CHECKSUM_OCTETS: Final = 6


def encode_line(prefix: str, packed: bytes) -> str:
    """The line: `prefix`, then base64url of the octets and their checksum, without padding."""
    checksum = hashlib.sha256(packed).digest()[:_CHECKSUM_OCTETS]
    return prefix + base64.urlsafe_b64encode(packed + checksum).decode().rstrip("=")


def decode_line(text: str, prefix: str, *, what: str, most: int, hint: str) -> bytes:
    """The octets of a line, white space around it left aside. Raises BadInput, repeating nothing of it.

    what: what the text should be, for messages, such as `invitation`.
    most: characters that it has at most, white space included.
    hint: what to do about another text.
    """
    line = text.strip()
    if len(text) > most or not line.startswith(prefix):
        raise BadInput(f"this is not a qmesh {what}", hint=hint)
    try:
        body = line.removeprefix(prefix).encode("ascii")
        octets = base64.b64decode(body + b"=" * (-len(body) % 4), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise BadInput(f"this {what} is damaged", hint=hint) from None
    packed, checksum = octets[:-_CHECKSUM_OCTETS], octets[-_CHECKSUM_OCTETS:]
    if not hmac.compare_digest(hashlib.sha256(packed).digest()[:_CHECKSUM_OCTETS], checksum):
        raise BadInput(f"this {what} is damaged or incomplete", hint=hint)
    if encode_line(prefix, packed) != line:  # base64 has several spellings of one ending
        raise BadInput(f"this {what} is damaged", hint=hint)
    return packed


def decode_carried(packed: bytes, kind: type[T], *, what: str) -> T:
    """What `decode_line` gave, which is MessagePack, as a value of a type. Raises BadInput."""
    try:
        return decode_msgpack(packed, kind)
    except Malformed:
        raise BadInput(
            f"this {what} was not made by a qmesh that this one understands", hint=SAME_VERSION
        ) from None
