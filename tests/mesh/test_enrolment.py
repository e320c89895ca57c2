"""Invitation, redemption and membership: what is genuine is believed, and nothing else is."""

from __future__ import annotations

import base64
import hashlib
import json
import string
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.pretty import pretty_repr

from qmesh.errors import BadInput, EnrolmentRefused
from qmesh.mesh.protocol.enrolment import (
    MAX_TEXT,
    PREFIX,
    Invitation,
    InvitationKeys,
    Redemption,
    build_redemption,
    compute_mesh_identifier,
    derive_invitation_keys,
    derive_permanent_preshared_key,
    derive_public_key,
    parse_duration_s,
    parse_invitation,
    read_key_offer,
    read_redemption,
    refuse_weak_key,
    verify_redemption_proof,
)
from qmesh.mesh.values import Endpoint, Secret
from tests.support.errors import in_one_line
from tests.support.invitations import (
    CONTROL_KEY,
    INVITATION,
    MEMBER_KEY,
    MESH,
    SECRET,
    VERIFICATION_KEY,
    invitation,
)

ALPHABET = string.ascii_letters + string.digits + "-_"
TEXT = INVITATION.text()


def assert_no_invitation(text: str, *, because: str | None = None) -> None:
    """The text raises BadInput, and no part of it is repeated."""
    with pytest.raises(BadInput, match=because) as caught:
        parse_invitation(text)
    said = in_one_line(caught.value)
    assert len(said) < 250
    secret = text.strip().removeprefix(PREFIX)[:4000]
    assert not any(secret[place : place + 12] in said for place in range(len(secret) - 12))


def octets_of(text: str) -> bytes:
    body = text.removeprefix(PREFIX)
    return base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))


def pack(packed: bytes) -> str:
    """Octets as an invitation with a right checksum."""
    checksum = hashlib.sha256(packed).digest()[:6]
    return "qmesh1" + base64.urlsafe_b64encode(packed + checksum).decode().rstrip("=")


@pytest.mark.parametrize("workers", [1, 65535, None])
@pytest.mark.parametrize("endpoints", [1, 2, 16])
def test_an_invitation_reads_back(workers: int | None, endpoints: int) -> None:
    made = invitation(workers=workers, endpoints=(Endpoint("2001:db8::5", 5),) * endpoints)
    assert parse_invitation(made.text()) == made


def test_the_largest_invitation_reads_back() -> None:
    host = ".".join(["a" * 63] * 3 + ["b" * 61])
    made = invitation(
        name="n" * 63,
        network="fd00:1111:2222:3333::/64",
        control_address="fd00:1111:2222:3333:4444:5555:6666:7777",
        address="fd00:1111:2222:3333:4444:5555:6666:7778",
        endpoints=tuple(Endpoint(host, 65535 - number) for number in range(16)),
        expires_at=2**63 - 1,
    )
    assert parse_invitation(made.text()) == made


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32), st.integers(0, 2**63 - 1))
def test_an_invitation_reads_back_whatever_its_octets(secret: bytes, key: bytes, expires_at: int) -> None:
    made = invitation(secret=secret, verification_key=key, expires_at=expires_at)
    assert parse_invitation(made.text()) == made


def test_an_invitation_has_one_spelling() -> None:
    packed = octets_of(TEXT)[:-6]
    assert packed[0] == 0x9D  # an array of thirteen; the same with its length in two octets:
    assert_no_invitation(pack(b"\xdc\x00\x0d" + packed[1:]), because="this invitation is damaged")


def test_an_invitation_is_one_line_of_plain_characters() -> None:
    assert TEXT.startswith("qmesh1")
    assert set(TEXT) <= set(ALPHABET)
    assert "-" in TEXT
    assert "_" in TEXT


@pytest.mark.parametrize("around", ["{}\n", "{}\r\n", "\n\n  {}\t ", "{}" + " " * 1000])
def test_white_space_around_an_invitation_does_no_harm(around: str) -> None:
    assert parse_invitation(around.format(TEXT)) == INVITATION


@pytest.mark.parametrize("new", ["A", "Q", "z", "7", "-", "_", "=", "+", "/", "é", "\n", " ", "\0", ""])
def test_a_wrong_character_at_any_position_is_refused(new: str) -> None:
    for place, old in enumerate(TEXT):
        if new != old:
            assert_no_invitation(TEXT[:place] + new + TEXT[place + 1 :])


def test_two_characters_in_wrong_order_are_refused_at_any_position() -> None:
    for place, (one, other) in enumerate(pairwise(TEXT)):
        if one != other:
            assert_no_invitation(TEXT[:place] + other + one + TEXT[place + 2 :])


def test_the_next_character_of_the_alphabet_is_refused_at_any_position() -> None:
    for place, old in enumerate(TEXT):
        because = "not a qmesh invitation" if place < len(PREFIX) else "this invitation is damaged"
        assert_no_invitation(TEXT[:place] + chr(ord(old) ^ 1) + TEXT[place + 1 :], because=because)


def test_an_invitation_cut_off_at_any_length_is_refused() -> None:
    for length in range(len(TEXT)):
        because = "not a qmesh invitation" if length < len(PREFIX) else "this invitation is damaged"
        assert_no_invitation(TEXT[:length], because=because)
        assert_no_invitation(TEXT[len(TEXT) - length :])


@pytest.mark.parametrize(
    "text",
    [
        *(
            TEXT + "A",
            TEXT + "AAAA",
            TEXT + "=",
            TEXT + "==",
            TEXT + TEXT,
            f"{TEXT} {TEXT}",
            f"{TEXT}\n{TEXT}",
        ),
        *(TEXT.replace("-", "+"), TEXT.replace("_", "/"), TEXT.upper(), TEXT.swapcase()),
        *(TEXT.removeprefix(PREFIX), TEXT.replace("qmesh1", "qmesh2", 1), TEXT.replace("qm", "Qm", 1)),
        *(
            "qmesh" + TEXT,
            "x" + TEXT,
            f'"{TEXT}"',
            f"\ufeff{TEXT}",
            PREFIX,
            PREFIX + "====",
            PREFIX + "\ud800",
        ),
    ],
    ids=range(21),
)
def test_what_is_nearly_an_invitation_is_refused(text: str) -> None:
    assert_no_invitation(text)


def test_no_other_spelling_of_the_last_characters_is_taken() -> None:
    texts = [invitation(name="n" * length).text() for length in (1, 2, 3)]
    text = next(text for text in texts if octets_of(text[:-1] + "A") == octets_of(text[:-1] + "B"))
    alike = {text[:-1] + last for last in ALPHABET if octets_of(text[:-1] + last) == octets_of(text)}
    assert len(alike) in {4, 16}
    for other in alike - {text}:
        assert_no_invitation(other)


@pytest.mark.parametrize("text", [PREFIX + "A" * 10**7, "q" * 10**7, TEXT + " " * 10**7, TEXT * 20_000])
def test_ten_megabytes_are_refused(text: str) -> None:
    assert_no_invitation(text)


def test_an_invitation_has_a_greatest_length() -> None:
    assert parse_invitation(TEXT.ljust(MAX_TEXT)) == INVITATION
    assert_no_invitation(TEXT.ljust(MAX_TEXT + 1))


@given(st.text() | st.text().map(PREFIX.__add__) | st.text(st.sampled_from(TEXT)).map(PREFIX.__add__))
def test_whatever_is_no_invitation_is_bad_input(text: str) -> None:
    assert_no_invitation(text)


@given(st.binary(max_size=400))
def test_arbitrary_octets_with_a_right_checksum_are_bad_input(octets: bytes) -> None:
    assert_no_invitation(pack(octets))


FIELDS = msgspec.to_builtins(INVITATION, builtin_types=(bytes,))
NUMBER = {name: number for number, name in enumerate(Invitation.__struct_fields__)}

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)


def packed_with(field: str, value: Any) -> bytes:
    fields = list(FIELDS)
    fields[NUMBER[field]] = value
    return msgspec.msgpack.encode(fields)


@given(st.sampled_from(sorted(NUMBER)), values)
def test_an_invitation_with_an_arbitrary_field_is_itself_or_bad_input(field: str, value: Any) -> None:
    text = pack(packed_with(field, value))
    try:
        assert parse_invitation(text).text() == text
    except BadInput:
        assert_no_invitation(text)


def test_an_invitation_packed_by_hand_is_taken() -> None:
    assert pack(msgspec.msgpack.encode(FIELDS)) == TEXT


WRONG_FIELDS = {
    "short secret": ("secret", b"x" * 31),
    "long secret": ("secret", b"x" * 33),
    "short verification key": ("verification_key", b"x" * 31),
    "long verification key": ("verification_key", b"x" * 33),
    "no control key": ("control_key", "x"),
    "no address": ("address", "x"),
    "address not canonical": ("address", "::ffff:10.77.0.2"),
    "address outside": ("address", "10.77.16.2"),
    "address of another version": ("address", "::a4d:2"),
    "control address outside": ("control_address", "10.77.16.1"),
    "control address not canonical": ("control_address", "10.77.00.1"),
    "network with host bits": ("network", "10.77.0.1/20"),
    "network not canonical": ("network", "10.77.0.0/255.255.240.0"),
    "no network": ("network", "x"),
    "service port 0": ("service_port", 0),
    "service port 65536": ("service_port", 65536),
    "no endpoint": ("endpoints", []),
    "17 endpoints": ("endpoints", [{"host": "h", "port": 5}] * 17),
    "endpoint inside": ("endpoints", [{"host": "h", "port": 5}, {"host": "10.77.0.1", "port": 5}]),
    "no host": ("endpoints", [{"host": "a\n", "port": 5}]),
    "name upwards": ("name", "../b"),
    "name with a newline": ("name", "b\n"),
    "no workers": ("workers", 0),
    "too many workers": ("workers", 65536),
    "expiry in words": ("expires_at", "never"),
}


@pytest.mark.parametrize(("field", "value"), WRONG_FIELDS.values(), ids=WRONG_FIELDS)
def test_an_invitation_cannot_hold_what_is_wrong(field: str, value: Any) -> None:
    assert_no_invitation(pack(packed_with(field, value)))


@pytest.mark.parametrize(
    "packed",
    [
        msgspec.msgpack.encode([*FIELDS, 1]),
        msgspec.msgpack.encode(FIELDS[:-1]),
        msgspec.msgpack.encode(dict(zip(NUMBER, FIELDS, strict=True))),
        msgspec.msgpack.encode(FIELDS) + b"\0",
        msgspec.msgpack.encode(FIELDS)[:-1],
        msgspec.msgpack.encode(FIELDS).replace(b"machine-b", b"machine-\xff"),
        b"",
        b"\x91" * 3000,
        b"\xdd\xff\xff\xff\xff",
    ],
    ids=["more", "less", "map", "octet behind", "cut", "no UTF-8", "nothing", "deep", "huge"],
)
def test_an_invitation_of_another_shape_is_refused(packed: bytes) -> None:
    assert_no_invitation(pack(packed))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"secret": b""}, "an invitation's keys have 32 bytes"),
        ({"verification_key": b""}, "an invitation's keys have 32 bytes"),
        ({"address": "10.77.16.2"}, "an invitation's addresses lie in its network"),
        ({"control_address": "10.77.16.2"}, "an invitation's addresses lie in its network"),
        ({"network": "10.77.0.0/255.255.240.0"}, "an invitation's network is canonical"),
        (
            {"network": "fd00::/64", "control_address": "fd00::1", "address": "FD00::2"},
            "an invitation's addresses lie in its network",
        ),
    ],
)
def test_an_invitation_cannot_be_built_wrong(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput) as caught:
        invitation(**wrong)
    assert in_one_line(caught.value).startswith(message)


SHOWN = {"repr": repr, "str": str, "format": "{}".format, "rich": pretty_repr}


@pytest.mark.parametrize("show", SHOWN.values(), ids=SHOWN)
def test_e1_an_invitation_shows_no_secret(show: Callable[[object], str]) -> None:
    shown = show(invitation(secret=b"hunter2." * 4))
    assert "machine-b" in shown
    assert MESH in shown
    assert "hunter" not in shown


@pytest.mark.parametrize("show", SHOWN.values(), ids=SHOWN)
def test_e1_what_is_derived_shows_no_secret(show: Callable[[object], str]) -> None:
    derived = derive_invitation_keys(SECRET)
    shown = show(derived)
    assert derived.identifier in shown
    for secret in (
        derived.private_key.reveal(),
        derived.preshared_key.reveal(),
        repr(derived.proof_key)[2:10],
    ):
        assert secret not in shown


def all_values(derived: InvitationKeys) -> list[bytes]:
    return [
        bytes.fromhex(derived.identifier),
        base64.b64decode(derived.private_key.reveal()),
        base64.b64decode(derived.public_key),
        base64.b64decode(derived.preshared_key.reveal()),
        derived.proof_key,
    ]


def test_what_is_derived_is_the_same_on_both_sides_and_in_every_version() -> None:
    # Written down once: another value would strand every invitation that is on its way.
    assert [value.hex()[:16] for value in all_values(derive_invitation_keys(b"x" * 32))] == [
        "b68637a14cc4ed6f",
        "3600d2e94718e11d",
        "8465fc208bca11bd",
        "1542569df6613a22",
        "35695acd877bf1b0",
    ]
    permanent = derive_permanent_preshared_key(b"x" * 32, CONTROL_KEY, MEMBER_KEY)
    assert base64.b64decode(permanent.reveal()).hex()[:16] == "6fc43835916ef3f6"
    assert INVITATION.derived_keys == derive_invitation_keys(SECRET)


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=3, unique=True))
def test_e2_every_derived_value_differs_from_every_other(secrets: list[bytes]) -> None:
    found = [value for secret in secrets for value in [secret, *all_values(derive_invitation_keys(secret))]]
    found += [
        base64.b64decode(derive_permanent_preshared_key(secret, CONTROL_KEY, MEMBER_KEY).reveal())
        for secret in secrets
    ]
    assert len({value[:16] for value in found}) == len(found)


def test_the_throwaway_public_key_belongs_to_the_throwaway_private_key() -> None:
    derived = derive_invitation_keys(SECRET)
    assert derive_public_key(derived.private_key) == derived.public_key


def test_e2_the_permanent_preshared_key_is_bound_to_secret_and_both_keys_in_their_order() -> None:
    keys = [
        derive_permanent_preshared_key(SECRET, CONTROL_KEY, MEMBER_KEY),
        derive_permanent_preshared_key(SECRET, MEMBER_KEY, CONTROL_KEY),
        derive_permanent_preshared_key(SECRET, CONTROL_KEY, CONTROL_KEY),
        derive_permanent_preshared_key(SECRET, MEMBER_KEY, MEMBER_KEY),
        derive_permanent_preshared_key(b"x" * 32, CONTROL_KEY, MEMBER_KEY),
    ]
    assert len(set(keys)) == len(keys)
    assert all(len(base64.b64decode(key.reveal())) == 32 for key in keys)
    joined = parse_invitation(TEXT)  # the other side knows no more than the invitation
    assert derive_permanent_preshared_key(joined.secret, joined.control_key, MEMBER_KEY) == keys[0]


def test_a_public_key_is_wireguards() -> None:
    private = Secret(base64.b64encode(b"k" * 32).decode())
    assert derive_public_key(private) == "hGL7PweY+f4sOfOCO7Qc0+/+cLtcgXNb5GoUMTXFhFQ="  # `wg pubkey` says so


def test_e1_what_is_no_private_key_is_refused_and_not_repeated() -> None:
    with pytest.raises(BadInput) as caught:
        derive_public_key(Secret("hunter2"))
    assert "hunter2" not in in_one_line(caught.value)


P = 2**255 - 19
LOW_ORDER = [
    *(0, 1, P - 1, P, P + 1),
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
]


@pytest.mark.parametrize("high_bit", [0, 2**255])
@pytest.mark.parametrize("point", LOW_ORDER)
def test_e2_a_key_that_agrees_on_nothing_but_zeros_is_refused(point: int, high_bit: int) -> None:
    # https://cr.yp.to/ecdh.html#validate
    weak = base64.b64encode((point + high_bit).to_bytes(32, "little")).decode()
    with pytest.raises(EnrolmentRefused, match="public key cannot be used") as caught:
        refuse_weak_key(weak)
    assert in_one_line(caught.value)
    with pytest.raises(EnrolmentRefused, match="public key cannot be used"):
        read_redemption(body(public_key=weak))


@pytest.mark.parametrize("text", ["", "x", MEMBER_KEY + "\n"])
def test_what_is_no_key_at_all_is_not_usable(text: str) -> None:
    with pytest.raises(EnrolmentRefused, match="public key cannot be used"):
        refuse_weak_key(text)


@given(st.binary(min_size=32, max_size=32))
def test_a_key_that_was_made_from_a_private_one_is_usable(private: bytes) -> None:
    redeemed = body(public_key=derive_public_key(Secret(base64.b64encode(private).decode())))
    assert read_redemption(redeemed).workers == 4


REDEMPTION = build_redemption(
    derive_invitation_keys(SECRET), public_key=MEMBER_KEY, workers=4, endpoint=Endpoint("2001:db8::5", 5)
)


def body(**changed: Any) -> bytes:
    """A redemption as JSON, with fields changed, added, or (with None for REMOVED) left out."""
    fields = {**msgspec.to_builtins(REDEMPTION), **changed}
    return json.dumps({name: value for name, value in fields.items() if value is not REMOVED}).encode()


REMOVED = object()


@pytest.mark.parametrize("endpoint", [None, Endpoint("2001:db8::5", 5), Endpoint("host", 65535)])
def test_e2_a_redemption_is_read_and_proven(endpoint: Endpoint | None) -> None:
    made = build_redemption(
        derive_invitation_keys(SECRET), public_key=MEMBER_KEY, workers=4, endpoint=endpoint
    )
    read = read_redemption(msgspec.json.encode(made))
    assert read == made
    assert read.identifier == derive_invitation_keys(SECRET).identifier
    assert read.endpoint == (None if endpoint is None else str(endpoint))
    verify_redemption_proof(read, SECRET)


@pytest.mark.parametrize("announce", ["203.0.113.7", "2001:db8::7", "node.example.org"])
def test_e2_where_a_machine_is_announced_is_proven_too(announce: str) -> None:
    derived = derive_invitation_keys(SECRET)
    made = build_redemption(derived, public_key=MEMBER_KEY, workers=4, endpoint=None, announce=announce)
    read = read_redemption(msgspec.json.encode(made))
    assert read.announce == announce
    verify_redemption_proof(read, SECRET)
    for other in (None, "198.51.100.9"):
        with pytest.raises(EnrolmentRefused, match="the proof of the redemption is wrong"):
            verify_redemption_proof(msgspec.structs.replace(read, announce=other), SECRET)


def test_e2_a_redemption_without_an_announced_address_is_what_an_earlier_qmesh_sends() -> None:
    assert b"announce" not in msgspec.json.encode(REDEMPTION)


@pytest.mark.parametrize("announce", ["10.77.0.2", "localhost", "203.0.113.7:25000", "", "x" * 300, 7])
def test_e2_what_cannot_be_announced_is_not_understood(announce: object) -> None:
    with pytest.raises(EnrolmentRefused, match="the redemption is not understood"):
        read_redemption(body(announce=announce))


@pytest.mark.parametrize(
    "altered",
    [
        {"identifier": "0" * 32},
        {"public_key": CONTROL_KEY},
        {"workers": 5},
        {"endpoint": "[2001:db8::6]:5"},
        {"endpoint": None},
        {"announce": "203.0.113.7"},
        {"proof": "0" * 64},
        {"proof": REDEMPTION.proof[:-1] + ("0" if REDEMPTION.proof[-1] != "0" else "1")},
    ],
)
def test_e2_an_altered_redemption_is_not_proven(altered: dict[str, Any]) -> None:
    read = read_redemption(body(**altered))
    assert read == msgspec.structs.replace(REDEMPTION, **altered)
    with pytest.raises(EnrolmentRefused, match="the proof of the redemption is wrong") as caught:
        verify_redemption_proof(read, SECRET)
    assert REDEMPTION.proof not in in_one_line(caught.value)


def test_e2_a_redemption_is_proven_by_its_own_invitations_secret_only() -> None:
    with pytest.raises(EnrolmentRefused, match="the proof of the redemption is wrong"):
        verify_redemption_proof(REDEMPTION, b"x" * 32)


NOT_UNDERSTOOD: dict[str, bytes] = {
    "nothing": b"",
    "no object": b"[]",
    "no JSON": b"{",
    "something behind": body() + b"x",
    "unknown field": body(admin=True),
    "no identifier": body(identifier=REMOVED),
    "no key": body(public_key=REMOVED),
    "no workers": body(workers=REMOVED),
    "no endpoint field": body(endpoint=REMOVED),
    "no proof": body(proof=REMOVED),
    "short identifier": body(identifier="0" * 31),
    "long identifier": body(identifier="0" * 33),
    "upper case identifier": body(identifier="A" * 32),
    "newline behind the identifier": body(identifier="0" * 32 + "\n"),
    "newline before the identifier": body(identifier="\n" + "0" * 32),
    "short proof": body(proof="0" * 63),
    "long proof": body(proof="0" * 65),
    "proof not ASCII": body(proof="é" * 64),
    "newline behind the proof": body(proof="0" * 64 + "\n"),
    "private key's shape": body(public_key=MEMBER_KEY[:-1]),
    "key with a newline": body(public_key=MEMBER_KEY + "\n"),
    "no worker": body(workers=0),
    "too many workers": body(workers=65536),
    "workers as text": body(workers="4"),
    "workers as truth": body(workers=True),
    "half a worker": body(workers=4.5),
    "endpoint without a port": body(endpoint="host"),
    "endpoint with a bad port": body(endpoint="host:0"),
    "no host": body(endpoint="a b:5"),
    "endpoint too long": body(endpoint="h:" + "0" * 299),
    "octets that are no UTF-8": body(endpoint="@:5").replace(b"@", b"\xff"),
    "octets that are no UTF-8 in a name": body().replace(b"proof", b"proo\xff"),
    "ten megabytes of key": body(public_key="A" * 10**7),
    "ten megabytes of nothing": b" " * 10**7,
    "nested deep": b'{"identifier":' + b"[" * 10**6,
}


@pytest.mark.parametrize("octets", NOT_UNDERSTOOD.values(), ids=NOT_UNDERSTOOD)
def test_e2_what_is_no_redemption_is_not_understood(octets: bytes) -> None:
    with pytest.raises(EnrolmentRefused, match="the redemption is not understood") as caught:
        read_redemption(octets)
    assert caught.value.exit_code == 4
    assert in_one_line(caught.value)


def redeemed(octets: bytes) -> Redemption | None:
    """What is read and proven; None for what is refused."""
    try:
        read = read_redemption(octets)
        verify_redemption_proof(read, SECRET)
    except EnrolmentRefused:
        return None
    return read


@given(st.binary())
def test_e2_arbitrary_octets_are_refused(octets: bytes) -> None:
    assert redeemed(octets) is None


@given(st.integers(0, len(body())), st.binary(max_size=2))
def test_e2_a_redemption_altered_in_any_octet_is_refused_or_says_the_same(place: int, new: bytes) -> None:
    octets = body()[:place] + new + body()[place + 1 :]
    assert redeemed(octets) in {None, REDEMPTION}
    assert redeemed(body()) == REDEMPTION


def test_a_mesh_is_called_after_its_verification_key() -> None:
    assert compute_mesh_identifier(b"") == "e3b0c44298fc1c14"
    assert compute_mesh_identifier(VERIFICATION_KEY) != compute_mesh_identifier(b"x" * 32)


def test_a_redemption_holds_nothing_secret() -> None:
    derived = derive_invitation_keys(SECRET)
    sent = msgspec.json.encode(REDEMPTION).decode() + repr(REDEMPTION)
    assert isinstance(REDEMPTION, Redemption)
    for secret in (SECRET, derived.proof_key):
        assert secret.hex() not in sent
        assert base64.b64encode(secret).decode() not in sent
    assert derived.private_key.reveal() not in sent
    assert derived.preshared_key.reveal() not in sent


def test_where_an_invited_machine_comes_from_is_its_address_unless_that_is_in_use() -> None:
    assert invitation().source_address == invitation().address
    made = invitation(from_address="10.77.0.9")
    assert parse_invitation(made.text()).source_address == "10.77.0.9"
    with pytest.raises(BadInput):
        invitation(from_address="10.99.0.9")


def test_a_key_that_is_offered_is_one() -> None:
    assert read_key_offer(msgspec.json.encode({"public_key": MEMBER_KEY})) == MEMBER_KEY
    for octets in (b"", b"{}", b'{"public_key":"x"}', b'{"public_key":"\xff"}', b'{"public_key":1}'):
        with pytest.raises(EnrolmentRefused, match="not understood"):
            read_key_offer(octets)
    for weak in (bytes(32), (1).to_bytes(32, "little")):
        octets = msgspec.json.encode({"public_key": base64.b64encode(weak).decode()})
        with pytest.raises(EnrolmentRefused, match="cannot be used"):
            read_key_offer(octets)


@pytest.mark.parametrize(
    ("text", "seconds"), [("60s", 60), ("1m", 60), ("24h", 86400), ("30d", 30 * 86400), ("2592000s", 2592000)]
)
def test_an_invitation_is_good_for_a_minute_to_thirty_days(text, seconds):
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "59s", "31d", "24", "1w", "-1h", "024h", "1 h", "24h\n", "99999999m"])
def test_no_other_time_is_one_for_which_an_invitation_is_good(text):
    with pytest.raises(BadInput, match="is not a time that an invitation can be valid for"):
        parse_duration_s(text)
