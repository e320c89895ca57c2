"""What WireGuard's first message says to whom it was sent."""

from __future__ import annotations

import base64

import pytest

from qmesh.mesh.links.handshakes import Initiation, read_initiation
from qmesh.mesh.protocol.enrolment import derive_public_key
from qmesh.mesh.values import Secret
from tests.support.initiation import build_initiation

OWN, OTHER = (Secret(base64.b64encode(bytes([number]) * 32).decode()) for number in (7, 9))


def build(at: float = 0.0) -> bytes:
    return build_initiation(OTHER.reveal(), derive_public_key(OWN), at)


@pytest.mark.parametrize("at", [0.0, 1.5, 1_800_000_000.25, 4e9])
def test_it_says_whose_it_is_and_of_what_time(at: float) -> None:
    assert read_initiation(build(at), OWN) == Initiation(derive_public_key(OTHER), at)


def test_to_another_machine_it_says_nothing() -> None:
    assert read_initiation(build(), OTHER) is None


@pytest.mark.parametrize("place", [0, 8, 40, 80, 90, 110])
def test_an_altered_one_says_nothing(place: int) -> None:
    message = bytearray(build())
    message[place] ^= 1
    assert read_initiation(bytes(message), OWN) is None


@pytest.mark.parametrize(
    "message", [b"", b"\x01", bytes(148), b"\x01" + bytes(147), build()[:-1], build() + b"x"]
)
def test_what_is_none_says_nothing(message: bytes) -> None:
    assert read_initiation(message, OWN) is None
