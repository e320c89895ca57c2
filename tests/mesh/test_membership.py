"""The signed membership: what is genuine and newer is believed, and nothing else is; and how it travels."""

from __future__ import annotations

import base64
import contextlib
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from qmesh.errors import EnrolmentRefused, QmeshError
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.machine import Machine
from qmesh.mesh.protocol.aead import encrypt_message
from qmesh.mesh.protocol.membership import (
    HOLDS,
    MAX_PARTS,
    History,
    SignedMembership,
    Update,
    apply_update,
    build_full_update,
    compute_difference,
    decode_membership,
    decrypt_held_revision,
    encode_membership,
    encrypt_held_revision,
    is_newer_membership,
    read_update,
    refuse_unlisted_machine,
    sign_membership,
    verify_membership,
)
from qmesh.mesh.values import Endpoint, Secret
from tests.support.invitations import MESH, SIGNING_KEY, VERIFICATION_KEY

OTHER_KEY = Ed25519PrivateKey.from_private_bytes(b"o" * 32)


def in_one_line(error: QmeshError) -> str:
    assert "\n" not in error.message + error.hint
    return error.message


def member(name: str, number: int, **named: Any) -> Machine:
    values = {"public_key": base64.b64encode(bytes([number]) * 32).decode(), "workers": 3, **named}
    return Machine(name=name, address=f"10.77.0.{number}", **values)


INVENTORY = Inventory(
    mesh=MESH,
    network="10.77.0.0/20",
    control="a",
    node="2.0",
    base_port=40000,
    service_port=51820,
    revision=5,
    machines=(
        member("a", 1, endpoints=(Endpoint("203.0.113.5", 51820),)),
        member("b", 2, state="invited", workers=None),
        member("c", 3, state="paused"),
        member("d", 4, state="invited"),
        member("e", 5),
    ),
)
SIGNED = sign_membership(INVENTORY, SIGNING_KEY)


def believe(signed: SignedMembership, *, key: bytes = VERIFICATION_KEY, mesh: str = MESH) -> Inventory:
    return verify_membership(decode_membership(encode_membership(signed)), key, mesh=mesh)


def assert_not_believed(octets: bytes, **named: Any) -> None:
    with pytest.raises(EnrolmentRefused, match="is not signed by this mesh's key, or is damaged") as caught:
        verify_membership(decode_membership(octets), named.get("key", VERIFICATION_KEY), mesh=MESH)
    assert in_one_line(caught.value)


def test_e6_a_signed_membership_is_believed_without_those_who_are_only_invited() -> None:
    found = believe(SIGNED)
    assert [machine.name for machine in found.machines] == ["a", "c", "e"]
    assert found == msgspec.structs.replace(INVENTORY, machines=found.machines)
    assert set(found.machines) <= set(INVENTORY.machines)
    assert INVENTORY.machine("b").public_key.encode() not in SIGNED.payload


def test_the_same_membership_is_signed_as_the_same_octets() -> None:
    assert sign_membership(INVENTORY, SIGNING_KEY) == SIGNED


def test_e6_a_membership_altered_in_any_octet_is_not_believed() -> None:
    for place in range(len(SIGNED.payload)):
        altered = bytearray(SIGNED.payload)
        altered[place] ^= 1
        assert_not_believed(msgspec.json.encode(SignedMembership(bytes(altered), SIGNED.signature)))


def test_e6_a_signature_altered_in_any_octet_is_not_believed() -> None:
    for place in range(64):
        altered = bytearray(SIGNED.signature)
        altered[place] ^= 1
        assert_not_believed(msgspec.json.encode(SignedMembership(SIGNED.payload, bytes(altered))))


@pytest.mark.parametrize(
    "signature",
    [
        *(b"", SIGNED.signature[:-1], SIGNED.signature + b"\0"),
        OTHER_KEY.sign(b"qmesh membership 1\n" + SIGNED.payload),
        SIGNING_KEY.sign(SIGNED.payload),
        SIGNING_KEY.sign(b"qmesh membership 2\n" + SIGNED.payload),
    ],
    ids=["none", "short", "long", "another key's", "of the payload alone", "for another purpose"],
)
def test_e6_a_membership_with_another_signature_is_not_believed(signature: bytes) -> None:
    assert_not_believed(msgspec.json.encode(SignedMembership(SIGNED.payload, signature)))


@pytest.mark.parametrize("key", [OTHER_KEY.public_key().public_bytes_raw(), b"", b"x" * 31, b"x" * 33])
def test_e6_a_membership_is_believed_by_the_meshs_key_only(key: bytes) -> None:
    assert_not_believed(msgspec.json.encode(SIGNED), key=key)


NOT_A_MEMBERSHIP: dict[str, bytes] = {
    "nothing": b"",
    "null": b"null",
    "no object": b"[]",
    "empty object": b"{}",
    "no base64": b'{"payload":"!","signature":"!"}',
    "no UTF-8": b'{"payload":"\xff","signature":""}',
    "unknown field": msgspec.json.encode({**msgspec.to_builtins(SIGNED), "x": 1}),
    "cut": msgspec.json.encode(SIGNED)[:-1],
    "something behind": msgspec.json.encode(SIGNED) + b"x",
    "nested deep": b"[" * 10**6,
}


@pytest.mark.parametrize("octets", NOT_A_MEMBERSHIP.values(), ids=NOT_A_MEMBERSHIP)
def test_e6_what_is_no_membership_is_an_error_and_never_an_empty_one(octets: bytes) -> None:
    assert_not_believed(octets)


SIGNED_NONSENSE: dict[str, bytes] = {
    "nothing": b"",
    "empty object": b"{}",
    "no UTF-8": b'{"mesh":"\xff"}',
    "no machines": SIGNED.payload.replace(b"machines", b"machinas"),
    "no control node": SIGNED.payload.replace(b'"control":"a"', b'"control":"x"'),
    "no network": SIGNED.payload.replace(b"10.77.0.0/20", b"10.77.0.1/20"),
    "address twice": SIGNED.payload.replace(b'"10.77.0.3"', b'"10.77.0.1"'),
    "unknown profile": SIGNED.payload.replace(b'"2.0"', b'"3.0"'),
}


@pytest.mark.parametrize("payload", SIGNED_NONSENSE.values(), ids=SIGNED_NONSENSE)
def test_e6_even_what_is_signed_has_to_be_valid(payload: bytes) -> None:
    assert payload != SIGNED.payload
    signature = SIGNING_KEY.sign(b"qmesh membership 1\n" + payload)
    assert_not_believed(msgspec.json.encode(SignedMembership(payload, signature)))


@given(st.binary())
def test_e6_arbitrary_octets_are_no_membership(octets: bytes) -> None:
    assert_not_believed(octets)


def test_e6_a_membership_of_another_mesh_is_not_believed() -> None:
    with pytest.raises(EnrolmentRefused) as caught:
        believe(SIGNED, mesh="0" * 16)
    assert in_one_line(caught.value).startswith(f"the membership is of mesh '{MESH}', not of '{'0' * 16}'")


def test_e6_a_meshs_name_cannot_break_the_line_that_refuses_it() -> None:
    signed = sign_membership(msgspec.structs.replace(INVENTORY, mesh="a\nb\x1b"), SIGNING_KEY)
    with pytest.raises(EnrolmentRefused) as caught:
        believe(signed, mesh="c\nd")
    assert r"of mesh 'a\nb\x1b', not of 'c\nd'" in in_one_line(caught.value)


@pytest.mark.parametrize(("revision", "is_newer"), [(4, False), (5, False), (6, True), (0, False)])
def test_e6_only_a_higher_revision_replaces_what_is_held(revision: int, is_newer: bool) -> None:
    offered = msgspec.structs.replace(INVENTORY, revision=revision)
    assert is_newer_membership(INVENTORY, offered) is is_newer


def signed(revision: int, count: int = 40) -> SignedMembership:
    machines = tuple(member(f"m{number}", number, workers=revision) for number in range(1, count + 1))
    mesh = msgspec.structs.replace(
        INVENTORY, control="m1", base_port=1024, machines=machines, revision=revision
    )
    return sign_membership(mesh, SIGNING_KEY)


def through(update: Update, held: SignedMembership | None) -> SignedMembership:
    return apply_update(read_update(msgspec.msgpack.encode(update)), held)


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_a_difference_makes_the_newer_of_the_older(old: bytes, new: bytes) -> None:
    update = Update(1, (compute_difference(old, new),), b"s")
    assert through(update, SignedMembership(old, b"")) == SignedMembership(new, b"s")


def test_a_whole_membership_needs_none_that_is_held() -> None:
    assert through(build_full_update(SIGNED), None) == SIGNED


def test_a_difference_is_as_small_as_the_change_is() -> None:
    history = History(signed(1, 250), 1)
    history.advance(signed(2, 250), 2)
    small = len(msgspec.msgpack.encode(history.build_update(1)))
    assert small < 4000  # each of 250 machines is another
    history.advance(sign_membership(msgspec.structs.replace(INVENTORY, revision=3), SIGNING_KEY), 3)
    history.advance(sign_membership(msgspec.structs.replace(INVENTORY, revision=4), SIGNING_KEY), 4)
    assert len(msgspec.msgpack.encode(history.build_update(3))) < 64 + 60


def test_who_holds_any_that_is_remembered_gets_the_steps_and_others_the_whole() -> None:
    history = History(signed(1), 1, depth=3)
    for revision in (2, 4, 5, 9):
        history.advance(signed(revision), revision)
    for held in (2, 4, 5):
        update = history.build_update(held)
        assert update.base == held
        assert through(update, signed(held)) == signed(9)
    assert len(history.build_update(2).parts) == 3
    for unknown in (None, 1, 3, 8, 10):
        update = history.build_update(unknown)
        assert (update.base, through(update, None)) == (None, signed(9))
    assert history.build_update(9) == Update(9, (), signed(9).signature)
    history.advance(signed(10), 10)
    assert through(history.build_update(None), None) == signed(10)


def test_an_update_has_no_more_parts_than_are_kept() -> None:
    for count in (MAX_PARTS, MAX_PARTS + 1):
        packed = msgspec.msgpack.encode([1, [compute_difference(b"", b"x")] * count, b"s"])
        if count <= MAX_PARTS:
            assert len(read_update(packed).parts) == count
        else:
            with pytest.raises(EnrolmentRefused, match="not understood"):
                read_update(packed)


def test_what_all_parts_of_an_update_make_is_no_more_than_one_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few octets make thousands of times as many: 256 parts made 8 GiB."""
    monkeypatch.setattr("qmesh.mesh.protocol.membership.MAX_PAYLOAD", 100_000)
    part = compute_difference(b"", bytes(10_000))
    assert apply_update(Update(None, (part,) * 10, b"s"), None).payload == bytes(10_000)
    with pytest.raises(EnrolmentRefused, match="damaged"):
        apply_update(Update(None, (part,) * 11, b"s"), None)


def test_who_is_so_far_behind_that_the_steps_are_too_large_gets_the_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    octets = len(signed(1).payload)
    monkeypatch.setattr("qmesh.mesh.protocol.membership.MAX_PAYLOAD", 3 * octets + 10)
    history = History(signed(1), 1)
    for revision in (2, 3, 4, 5):
        history.advance(signed(revision), revision)
    assert [history.build_update(held).base for held in (1, 2, 3, 4)] == [None, 2, 3, 4]
    for held in (1, 2, 3, 4):
        assert through(history.build_update(held), signed(held)) == signed(5)


def test_a_whole_membership_is_packed_once_for_all_who_need_it() -> None:
    history = History(signed(1), 1)
    history.advance(signed(2), 2)
    packed = history.encode_update(None)
    assert packed is history.encode_update(7)
    assert through(read_update(packed), None) == signed(2)
    assert through(read_update(history.encode_update(1)), signed(1)) == signed(2)
    history.advance(signed(3), 3)
    assert through(read_update(history.encode_update(None)), None) == signed(3)


SHARED, OTHERS = (Secret(base64.b64encode(bytes([octet]) * 32).decode()) for octet in (1, 2))


def test_what_a_member_holds_is_read_with_its_preshared_key_alone() -> None:
    sealed = encrypt_held_revision(7, SHARED, nonce=bytes(12))
    assert decrypt_held_revision(sealed, SHARED) == 7
    with pytest.raises(EnrolmentRefused):
        decrypt_held_revision(sealed, OTHERS)


@given(st.binary(max_size=100))
def test_what_a_member_says_that_it_holds_is_read_or_refused(octets: bytes) -> None:
    for said in (octets, encrypt_message(octets, SHARED, about=HOLDS, nonce=bytes(12))):
        with contextlib.suppress(EnrolmentRefused):
            assert isinstance(decrypt_held_revision(said, SHARED), int)


@pytest.mark.parametrize(
    "said", [b"-1", b"9007199254740993", b"9223372036854775808", b"9" * 30, b"1.0", b"[" * 9999]
)
def test_a_member_holds_no_revision_that_cannot_be(said: bytes) -> None:
    """SQLite has no number beyond 64 bits: one in the way would end each look of the control node."""
    with pytest.raises(EnrolmentRefused, match="not understood"):
        decrypt_held_revision(encrypt_message(said, SHARED, about=HOLDS, nonce=bytes(12)), SHARED)


@given(st.data())
def test_e6_a_difference_to_another_than_the_held_one_is_never_believed(data: st.DataObject) -> None:
    history = History(signed(1), 1)
    history.advance(signed(2), 2)
    update = history.build_update(1)
    place = data.draw(st.integers(0, len(signed(1).payload) - 1))
    other = bytearray(signed(1).payload)
    other[place] ^= data.draw(st.integers(1, 255))
    try:
        made = apply_update(update, SignedMembership(bytes(other), b""))
        assert believe(made) == believe(signed(2))  # where the altered octet is not of what is kept
    except EnrolmentRefused:
        pass


@pytest.mark.parametrize(
    "part",
    [
        b"",
        b"no Zstandard",
        compute_difference(b"", b"x" * 100)[:-1],
        compute_difference(b"", b"x" * 100) + b"more",
        compute_difference(b"", bytes(33 * 1024 * 1024)),
    ],
    ids=["empty", "nonsense", "cut", "with more behind", "of 33 MiB from few octets"],
)
def test_e6_what_is_no_difference_is_refused(part: bytes) -> None:
    with pytest.raises(EnrolmentRefused, match="arrived damaged"):
        apply_update(Update(None, (part,), b"s"), None)


@pytest.mark.parametrize(
    "octets",
    [b"", b"{}", msgspec.msgpack.encode([1]), msgspec.msgpack.encode(build_full_update(SIGNED)) + b"x"],
)
def test_what_is_no_update_is_refused(octets: bytes) -> None:
    with pytest.raises(EnrolmentRefused, match="is not understood"):
        read_update(octets)


def test_a_membership_is_for_the_machine_that_it_lists_with_its_name_address_and_key():
    a, b = INVENTORY.machines[:2]
    refuse_unlisted_machine(INVENTORY, a.name, a.address, a.public_key)
    for name, address, public_key in (
        ("x", a.address, a.public_key),
        (a.name, b.address, a.public_key),
        (a.name, a.address, b.public_key),
    ):
        with pytest.raises(EnrolmentRefused, match=f"has no machine {name} with this key"):
            refuse_unlisted_machine(INVENTORY, name, address, public_key)
