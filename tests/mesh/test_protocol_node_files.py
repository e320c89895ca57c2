"""The node's files on their way: who can read an answer, and what is refused."""

from __future__ import annotations

import base64
from collections.abc import Callable

import msgspec
import pytest

from qmesh.errors import EnrolmentRefused
from qmesh.mesh.protocol.aead import encrypt_message
from qmesh.mesh.protocol.enrolment import derive_public_key
from qmesh.mesh.protocol.node_files import (
    REQUEST,
    NodeFiles,
    NodeFilesRequest,
    compute_reply_key,
    decrypt_node_files,
    decrypt_request,
    encrypt_node_files,
    encrypt_request,
)
from qmesh.mesh.values import Secret
from tests.support.factories import key

SHARED = Secret(key(77))
MEMBER = Secret(base64.b64encode(bytes([64]) * 32).decode())
OWN, ANOTHER, ANSWERS = bytes([1]) * 32, bytes([2]) * 32, bytes([3]) * 32
FILES = NodeFiles(config="p2p:\n  peerPrivKey: 5ec4e7\n", keys=b"q: {privateKey: 5ec4e7}\n")
ASKED = NodeFilesRequest(name="b", reply_key=compute_reply_key(OWN), key_store="/root/node/.config/keys.yml")


def answer(
    request: NodeFilesRequest = ASKED, *, shared: Secret = SHARED, private_key: bytes = ANSWERS
) -> bytes:
    return encrypt_node_files(
        FILES, request, member_key=derive_public_key(MEMBER), shared=shared, private_key=private_key
    )


def read(body: bytes, *, own: bytes = OWN, member: Secret = MEMBER, shared: Secret = SHARED) -> NodeFiles:
    return decrypt_node_files(body, private_key=own, member_private_key=member, shared=shared)


def test_what_is_sent_arrives_and_nothing_of_it_can_be_read_on_the_way() -> None:
    body = encrypt_request(ASKED, SHARED, nonce=bytes(12))
    assert decrypt_request(body, SHARED) == ASKED
    assert b"keys.yml" not in body
    sealed = answer()
    assert read(sealed) == FILES
    assert b"5ec4e7" not in sealed
    without = NodeFiles(config="", keys=None)
    sealed = encrypt_node_files(
        without, ASKED, member_key=derive_public_key(MEMBER), shared=SHARED, private_key=ANSWERS
    )
    assert read(sealed) == without


@pytest.mark.parametrize(
    "try_to_read",
    [
        lambda body: read(body, own=ANOTHER),
        lambda body: read(body, member=Secret(key(5))),
        lambda body: read(body, shared=Secret(key(78))),
        lambda body: read(body[:-1]),
        lambda body: read(body + b"x"),
        lambda body: read(body[:-1] + bytes([body[-1] ^ 1])),
        lambda body: read(b""),
        lambda body: read(msgspec.msgpack.encode([bytes(32), bytes(40)])),
        lambda body: read(msgspec.msgpack.encode([bytes(31), bytes(40)])),
    ],
    ids=["request", "member", "preshared key", "short", "long", "changed", "empty", "weak", "no key"],
)
def test_an_answer_is_read_by_the_one_request_of_the_one_member_alone(
    try_to_read: Callable[[bytes], object],
) -> None:
    """A request that is sent again by someone else gives an answer that only the first sender can read."""
    with pytest.raises(
        EnrolmentRefused, match="the answer for the node's files is not understood"
    ) as refused:
        try_to_read(answer())
    assert "5ec4e7" not in refused.value.message + refused.value.hint


def test_two_answers_to_one_request_have_nothing_in_common() -> None:
    assert answer()[5:] != answer(private_key=ANOTHER)[5:]
    assert read(answer(private_key=ANOTHER)) == FILES


def test_an_answer_is_not_one_that_was_made_for_another_request() -> None:
    other = msgspec.structs.replace(ASKED, reply_key=compute_reply_key(ANOTHER))
    assert read(answer(other), own=ANOTHER) == FILES
    with pytest.raises(EnrolmentRefused):
        read(answer(other))


@pytest.mark.parametrize("weak", [bytes(32), b"\1" + bytes(31)])
def test_a_request_with_a_key_that_agrees_on_nothing_is_refused(weak: bytes) -> None:
    with pytest.raises(EnrolmentRefused, match="request"):
        answer(msgspec.structs.replace(ASKED, reply_key=weak))


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"x",
        msgspec.json.encode(ASKED),
        msgspec.msgpack.encode({**msgspec.structs.asdict(ASKED), "more": 1}),
        msgspec.msgpack.encode({**msgspec.structs.asdict(ASKED), "reply_key": bytes(31)}),
        msgspec.msgpack.encode({**msgspec.structs.asdict(ASKED), "name": "b" * 64}),
        *(
            msgspec.msgpack.encode({**msgspec.structs.asdict(ASKED), "key_store": path})
            for path in ("", "keys.yml", "/a\nb", "/\u00e4", "/" + "a" * 5000)
        ),
    ],
)
def test_what_is_no_request_is_refused(octets: bytes) -> None:
    with pytest.raises(EnrolmentRefused, match="the request for the node's files is not understood"):
        decrypt_request(encrypt_message(octets, SHARED, about=REQUEST, nonce=bytes(12)), SHARED)


def test_only_root_of_the_member_can_make_a_request() -> None:
    for body in (
        msgspec.msgpack.encode(ASKED),
        encrypt_request(ASKED, Secret(key(78)), nonce=bytes(12)),
        encrypt_message(msgspec.msgpack.encode(ASKED), SHARED, about=b"else", nonce=bytes(12)),
    ):
        with pytest.raises(EnrolmentRefused, match="not encrypted"):
            decrypt_request(body, SHARED)


def test_e1_the_files_show_nothing_of_themselves() -> None:
    for shown in (repr(FILES), f"{FILES}", str([FILES])):
        assert "5ec4e7" not in shown
