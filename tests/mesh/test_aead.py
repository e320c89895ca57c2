"""What two machines say to each other, which no other program on either can read or say."""

from __future__ import annotations

import base64

import pytest

from qmesh.errors import EnrolmentRefused
from qmesh.mesh.protocol.aead import decrypt_message, encrypt_message
from qmesh.mesh.values import Secret

SHARED = Secret(base64.b64encode(bytes(range(32))).decode())
ABOUT = b"a kind of message"


def test_what_is_sealed_the_other_one_alone_reads_and_as_what_it_was_said() -> None:
    sealed = encrypt_message(b"all of it", SHARED, about=ABOUT, nonce=bytes(12))
    assert decrypt_message(sealed, SHARED, about=ABOUT) == b"all of it"
    assert b"all" not in sealed
    other = Secret(base64.b64encode(bytes(32)).decode())
    for octets, shared, about in (
        (sealed, other, ABOUT),
        (sealed, SHARED, b"another kind"),
        (sealed[:-1], SHARED, ABOUT),
        (b"", SHARED, ABOUT),
        (b"x" * 40, SHARED, ABOUT),
    ):
        with pytest.raises(EnrolmentRefused, match="not encrypted"):
            decrypt_message(octets, shared, about=about)
