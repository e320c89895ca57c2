"""Request and answer: what is genuine reads back, and nothing else is believed."""

from __future__ import annotations

import base64

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmesh.errors import BadInput, EnrolmentRefused
from qmesh.mesh.protocol.armor import encode_line
from qmesh.mesh.protocol.enrolment import build_redemption, derive_permanent_preshared_key, read_redemption
from qmesh.mesh.protocol.file_exchange import (
    ANSWER_PREFIX,
    MAX_REQUEST,
    REQUEST_PREFIX,
    JoinAnswer,
    JoinRequest,
    decrypt_answer,
    encrypt_answer,
    parse_answer,
    parse_request,
)
from qmesh.mesh.values import Endpoint, Secret
from tests.support.errors import in_one_line
from tests.support.invitations import CONTROL_KEY, INVITATION, MEMBER_KEY, MESH, SECRET

MESSAGE = build_redemption(
    INVITATION.derived_keys, public_key=MEMBER_KEY, workers=4, endpoint=Endpoint("203.0.113.9", 51820)
)
REQUEST = JoinRequest(MESH, msgspec.json.encode(MESSAGE))
PRESHARED = derive_permanent_preshared_key(SECRET, CONTROL_KEY, MEMBER_KEY)
MEMBERSHIP = b'{"payload":"eyJtZXNoIjoi"}'
NONCE = bytes(range(12))
ANSWER = encrypt_answer(MEMBERSHIP, identifier=MESSAGE.identifier, preshared=PRESHARED, nonce=NONCE)
KINDS = {
    "request": (REQUEST.text(), parse_request, REQUEST_PREFIX),
    "answer": (ANSWER.text(), parse_answer, ANSWER_PREFIX),
}


def test_a_request_reads_back_as_the_redemption_that_it_was():
    assert parse_request(f" {REQUEST.text()}\n") == REQUEST
    assert read_redemption(parse_request(REQUEST.text()).redemption) == MESSAGE


def test_the_largest_request_reads_back():
    host = ".".join(["a" * 63] * 3 + ["b" * 61])
    message = build_redemption(
        INVITATION.derived_keys, public_key=MEMBER_KEY, workers=65535, endpoint=Endpoint(host, 65535)
    )
    request = JoinRequest(MESH, msgspec.json.encode(message))
    assert parse_request(request.text()) == request


@given(st.binary(max_size=400), st.binary(min_size=12, max_size=12))
def test_an_answer_opens_with_the_preshared_key_whatever_is_in_it(membership, nonce):
    sealed = encrypt_answer(membership, identifier=MESSAGE.identifier, preshared=PRESHARED, nonce=nonce)
    assert decrypt_answer(parse_answer(sealed.text()), PRESHARED) == membership


@pytest.mark.parametrize("kind", KINDS)
def test_e2_no_secret_is_in_what_is_carried(kind):
    text, _, prefix = KINDS[kind]
    body = text.removeprefix(prefix)
    octets = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    derived = INVITATION.derived_keys
    secrets = [SECRET, derived.proof_key, MEMBERSHIP]
    for key in (PRESHARED, derived.private_key, derived.preshared_key):
        secrets += [key.reveal().encode(), base64.b64decode(key.reveal())]
    assert [secret for secret in secrets if secret in octets] == []


@pytest.mark.parametrize("kind", KINDS)
def test_each_is_one_line_of_plain_characters(kind):
    text, _, prefix = KINDS[kind]
    assert text.startswith(prefix)
    assert text.isascii()
    assert len(text.split()) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda text: "", "not a qmesh"),
        (lambda text: INVITATION.text(), "not a qmesh"),
        (lambda text: text[1:], "not a qmesh"),
        (lambda text: text[:-1], "damaged"),
        (lambda text: text[:60], "damaged or incomplete"),
        (lambda text: text[:40] + ("A" if text[40] != "A" else "B") + text[41:], "damaged or incomplete"),
        (lambda text: text + "=", "damaged"),
        (lambda text: text[:40] + "\n" + text[40:], "damaged"),
        (lambda text: text[:40] + "é" + text[41:], "damaged"),
    ],
)
def test_what_is_none_is_told_so(kind, spoil, why):
    text, parse, _ = KINDS[kind]
    with pytest.raises(
        BadInput, match=f"{why}.* {kind}" if why == "not a qmesh" else f"{kind} is {why}"
    ) as no:
        parse(spoil(text))
    assert text[40:60] not in in_one_line(no.value)


def test_one_spelling_of_a_line_is_taken():
    """Base64 has several of the same octets."""
    text = encode_line(REQUEST_PREFIX, msgspec.msgpack.encode(REQUEST) + b"")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    request, number = REQUEST, 0
    while len(text.removeprefix(REQUEST_PREFIX)) % 4 == 0:  # until there are bits to spare
        number += 1
        request = msgspec.structs.replace(REQUEST, redemption=REQUEST.redemption + b" " * number)
        text = request.text()
    other = text[:-1] + alphabet[alphabet.index(text[-1]) ^ 1]
    assert parse_request(text) == request
    with pytest.raises(BadInput, match="this request is damaged"):
        parse_request(other)


def test_a_longer_request_than_there_can_be_is_none():
    with pytest.raises(BadInput, match="not a qmesh request"):
        parse_request(REQUEST.text() + " " * MAX_REQUEST)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("request", []),
        ("request", [MESH, b"{}", 1]),
        ("request", ["\x1b[2J", b"{}"]),
        ("request", [MESH.upper(), b"{}"]),
        ("request", {"mesh": MESH}),
        ("answer", [MESSAGE.identifier, NONCE[:-1], b""]),
        ("answer", [MESSAGE.identifier, NONCE + b"x", b""]),
        ("answer", [MESSAGE.identifier[:-1], NONCE, b""]),
        ("answer", [MESSAGE.identifier, NONCE, "text"]),
    ],
)
def test_another_shape_is_another_version(kind, value):
    _, parse, prefix = KINDS[kind]
    with pytest.raises(BadInput, match=f"this {kind} was not made by a qmesh that this one understands"):
        parse(encode_line(prefix, msgspec.msgpack.encode(value)))


def test_text_that_is_no_utf_8_is_another_version():
    with pytest.raises(BadInput, match="not made by a qmesh"):
        parse_request(encode_line(REQUEST_PREFIX, b"\x92\xa2\xff\xff\xc4\x00"))


@pytest.mark.parametrize(
    ("answer", "preshared"),
    {
        "another machine's key": (ANSWER, Secret(CONTROL_KEY)),
        "another invitation's": (
            JoinAnswer(MESSAGE.identifier[::-1], ANSWER.nonce, ANSWER.ciphertext),
            PRESHARED,
        ),
        "another nonce": (JoinAnswer(ANSWER.identifier, bytes(12), ANSWER.ciphertext), PRESHARED),
        "one bit": (
            JoinAnswer(
                ANSWER.identifier, ANSWER.nonce, bytes([ANSWER.ciphertext[0] ^ 1]) + ANSWER.ciphertext[1:]
            ),
            PRESHARED,
        ),
        "cut off": (JoinAnswer(ANSWER.identifier, ANSWER.nonce, ANSWER.ciphertext[:-1]), PRESHARED),
        "empty": (JoinAnswer(ANSWER.identifier, ANSWER.nonce, b""), PRESHARED),
    }.values(),
)
def test_e6_an_answer_of_another_or_altered_is_refused(answer, preshared):
    with pytest.raises(EnrolmentRefused, match="not for this machine, or was altered") as refused:
        decrypt_answer(answer, preshared)
    assert refused.value.exit_code == 4
    in_one_line(refused.value)
