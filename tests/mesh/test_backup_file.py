"""What is in a backup comes out again, and what is no whole backup of ours is refused."""

from __future__ import annotations

import base64
import hashlib

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from qmesh.errors import BadInput
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.machine import Machine
from qmesh.mesh.protocol import backup_file
from qmesh.mesh.protocol.backup_file import (
    MAGIC,
    VERSION,
    Backup,
    BackupEncryption,
    build_restored_inventory,
    decode_backup,
    encode_backup,
    find_mismatched_key,
    is_encrypted,
)
from qmesh.mesh.protocol.enrolment import compute_mesh_identifier, derive_public_key
from qmesh.mesh.values import REVISION_JUMP, Endpoint, Secret

KEY = base64.b64encode(bytes(range(32))).decode()
SIGNING = bytes(range(1, 33))
VERIFICATION = Ed25519PrivateKey.from_private_bytes(SIGNING).public_key().public_bytes_raw()
BACKUP = Backup(
    taken_at=1_800_000_000,
    written_by="0.1.0",
    settings=b"{}",
    private_key=KEY,
    signing_key=SIGNING,
    registry=b"SQLite format 3\0" + bytes(5000),
    withdrawn=("machine-c",),
)
SEAL = BackupEncryption(passphrase=b"correct horse", salt=bytes(16), nonce=bytes(12))
MESH = Inventory(
    mesh=compute_mesh_identifier(VERIFICATION),
    network="10.77.0.0/20",
    control="control",
    node="2.0",
    base_port=40000,
    service_port=51820,
    revision=7,
    machines=(
        Machine(
            name="control",
            public_key=derive_public_key(Secret(KEY)),
            address="10.77.0.1",
            workers=3,
            endpoints=(Endpoint("203.0.113.5", 51820),),
        ),
    ),
)
PLAIN = encode_backup(BACKUP, None)
with pytest.MonkeyPatch.context() as patch:
    patch.setattr(backup_file, "_SCRYPT_N", 2)
    SEALED = encode_backup(BACKUP, SEAL)


@pytest.fixture
def quick_key(monkeypatch):
    """A passphrase costs nothing, as where SEALED was made."""
    monkeypatch.setattr(backup_file, "_SCRYPT_N", 2)


def summed(octets: bytes) -> bytes:
    """With the checksum that fits."""
    return octets + hashlib.sha256(octets).digest()


def test_comes_out_as_it_went_in():
    assert not is_encrypted(PLAIN)
    assert decode_backup(PLAIN, None) == BACKUP
    sealed = encode_backup(BACKUP, SEAL)
    assert is_encrypted(sealed)
    assert decode_backup(sealed, b"correct horse") == BACKUP


def test_sealed_it_shows_nothing_of_what_is_in_it():
    for secret in (KEY.encode(), SIGNING, b"SQLite", b"machine-c"):
        assert secret in PLAIN
        assert secret not in SEALED
    assert KEY not in repr(BACKUP)
    assert "horse" not in repr(SEAL)


@pytest.mark.parametrize("passphrase", [None, b"", b"correct horse\n", b"Correct horse"])
def test_another_passphrase_is_said_to_be_wrong(quick_key, passphrase):
    with pytest.raises(BadInput, match="the passphrase is not"):
        decode_backup(SEALED, passphrase)


@pytest.mark.parametrize("passphrase", [b"correct horse", b""])
def test_a_plain_one_in_the_place_of_a_sealed_one_is_refused_where_there_is_a_passphrase(passphrase):
    with pytest.raises(BadInput, match="not encrypted, though a passphrase was given"):
        decode_backup(PLAIN, passphrase)


def test_what_a_seal_covers_includes_all_before_it(quick_key):
    body = len(MAGIC) + 3
    for place in (body, body + 16, body + 28):  # salt, nonce, what is sealed
        altered = bytearray(SEALED[:-32])
        altered[place] ^= 1
        with pytest.raises(BadInput, match="the passphrase is not"):
            decode_backup(summed(bytes(altered)), b"correct horse")
    plain = SEALED[: len(MAGIC) + 2] + b"\0" + SEALED[len(MAGIC) + 3 : -32]
    with pytest.raises(BadInput, match="is not understood"):
        decode_backup(summed(plain), None)


@given(data=st.data())
def test_a_changed_octet_or_a_missing_end_is_never_read(data):
    octets = data.draw(st.sampled_from([PLAIN, SEALED]))
    place = data.draw(st.integers(0, len(octets) - 1))
    other = data.draw(st.integers(1, 255))
    changed = octets[:place] + bytes([octets[place] ^ other]) + octets[place + 1 :]
    for wrong in (changed, octets[:place], octets + b"\n"):
        with pytest.raises(BadInput):
            is_encrypted(wrong)
        with pytest.raises(BadInput):
            decode_backup(wrong, b"correct horse")


@pytest.mark.parametrize("octets", [b"", b"qmesh backup\n", b"\x1f\x8b" + bytes(90)], ids=len)
def test_another_file_is_said_to_be_none(octets):
    with pytest.raises(BadInput, match="not a qmesh backup"):
        is_encrypted(octets)


@pytest.mark.parametrize("octets", [MAGIC, summed(MAGIC), summed(MAGIC + b"\0\1")], ids=len)
def test_too_little_is_damaged(octets):
    with pytest.raises(BadInput, match="damaged or incomplete"):
        is_encrypted(octets)


def test_a_sealed_one_without_what_is_sealed_is_refused(quick_key):
    with pytest.raises(BadInput, match="the passphrase is not"):
        decode_backup(summed(SEALED[: len(MAGIC) + 3]), b"correct horse")


def test_one_of_a_newer_qmesh_is_refused_and_one_that_is_damaged_there_called_so():
    newer = MAGIC + (VERSION + 1).to_bytes(2, "big") + PLAIN[len(MAGIC) + 2 : -32]
    with pytest.raises(BadInput, match="newer qmesh"):
        decode_backup(summed(newer), None)
    with pytest.raises(BadInput, match="damaged"):
        decode_backup(newer + PLAIN[-32:], None)


@pytest.mark.parametrize(
    "body", [b"", b"\xc1", msgspec.msgpack.encode({"taken_at": 1}), msgspec.msgpack.encode(5)]
)
def test_what_holds_something_else_is_refused(body):
    with pytest.raises(BadInput, match="is not understood"):
        decode_backup(summed(PLAIN[: len(MAGIC) + 3] + body), None)


def odd(**other: object) -> str | None:
    keys = {"private_key": Secret(KEY), "signing_key": SIGNING, "verification_key": VERIFICATION}
    return find_mismatched_key(MESH, **{**keys, **other})  # type: ignore[arg-type]


def test_a_key_that_is_not_its_meshs_is_named():
    assert odd() is None
    assert odd(private_key=Secret(base64.b64encode(bytes(32)).decode())) == "private key"
    assert odd(private_key=Secret("none")) == "keys"
    assert odd(signing_key=b"short") == "keys"
    assert odd(signing_key=bytes(32)) == "signing key"
    assert odd(verification_key=bytes(32)) == "signing key"
    other = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw()
    assert odd(signing_key=bytes(32), verification_key=other) == "signing key"


@pytest.mark.parametrize("endpoints", [(), (Endpoint("203.0.113.5", 51820),), (Endpoint("198.51.100.7", 1),)])
def test_e6_restored_it_has_a_revision_that_no_member_can_hold(endpoints):
    after = build_restored_inventory(MESH, endpoints)
    assert after.revision == 7 + REVISION_JUMP
    assert after.control_node.endpoints == (endpoints or MESH.control_node.endpoints)
    assert build_restored_inventory(MESH, endpoints, jump=5 * REVISION_JUMP).revision == 7 + 5 * REVISION_JUMP


def test_a_new_endpoint_inside_the_tunnel_is_refused():
    with pytest.raises(BadInput, match="is an address of the tunnel network"):
        build_restored_inventory(MESH, (Endpoint("10.77.0.9", 51820),))
