"""What members report of their node's keys, and what the control node makes of it."""

from __future__ import annotations

import msgspec
import pytest

from qmesh.errors import EnrolmentRefused
from qmesh.mesh.protocol.aead import encrypt_message
from qmesh.mesh.protocol.key_digests import (
    DIGESTS,
    NODE_KEYS,
    KeyDigests,
    NodeIdentity,
    NodeKey,
    compute_digests,
    decrypt_digests,
    encrypt_digests,
    find_different_keys,
)
from qmesh.mesh.values import Secret
from tests.support.factories import key

SHARED = Secret(key(77))
OWN = NodeIdentity(peer_key=b"aa", encryption_key=b"bb", key_store=b"cc")
PEER, ENCRYPTION, STORE = NODE_KEYS


def differ(
    theirs: NodeIdentity, own: NodeIdentity = OWN, needed: tuple[NodeKey, ...] = NODE_KEYS
) -> tuple[str, ...]:
    return find_different_keys(compute_digests(theirs, SHARED), own, SHARED, needed=needed)


@pytest.mark.parametrize(
    ("theirs", "found"),
    [
        (OWN, ()),
        (NodeIdentity(peer_key=b"x", encryption_key=b"bb", key_store=b"cc"), (PEER,)),
        (NodeIdentity(peer_key=b"aa", encryption_key=b"x", key_store=b"cc"), (ENCRYPTION,)),
        (NodeIdentity(peer_key=b"aa", encryption_key=b"bb", key_store=b"x"), (STORE,)),
        (NodeIdentity(peer_key=b"bb", encryption_key=b"aa", key_store=b"cc"), (PEER, ENCRYPTION)),
        (NodeIdentity(), NODE_KEYS),
    ],
)
def test_the_keys_that_differ_are_named(theirs: NodeIdentity, found: tuple[str, ...]) -> None:
    assert differ(theirs) == found


def test_of_what_a_profile_does_not_need_nothing_is_said() -> None:
    assert differ(NodeIdentity(), needed=(PEER,)) == (PEER,)
    assert differ(NodeIdentity(), needed=()) == ()


def test_what_the_control_node_lacks_itself_is_not_compared() -> None:
    assert differ(OWN, NodeIdentity(peer_key=b"x")) == (PEER,)
    assert differ(OWN, NodeIdentity()) == ()


def test_digests_differ_by_member_and_by_key_and_show_no_value() -> None:
    """So no member can tell another's keys by its report, and none can be tried without the preshared key."""
    same = NodeIdentity(peer_key=b"aa", encryption_key=b"aa", key_store=b"aa")
    values = [*compute_digests(same, SHARED).values, *compute_digests(same, Secret(key(78))).values]
    assert len(set(values)) == 6
    assert compute_digests(same, SHARED) == compute_digests(same, SHARED)
    assert "aa" not in repr(same)


def test_a_report_is_its_members_alone() -> None:
    digests = compute_digests(OWN, SHARED)
    assert decrypt_digests(encrypt_digests(digests, SHARED), SHARED) == digests
    assert encrypt_digests(digests, SHARED) == encrypt_digests(digests, SHARED)
    other = compute_digests(NodeIdentity(), SHARED)
    assert encrypt_digests(digests, SHARED)[:12] != encrypt_digests(other, SHARED)[:12]
    empty = KeyDigests(None, None, None)
    assert decrypt_digests(encrypt_digests(empty, SHARED), SHARED) == empty
    for body in (
        b"",
        msgspec.msgpack.encode(digests),
        encrypt_digests(digests, Secret(key(78))),
        encrypt_message(msgspec.msgpack.encode(digests), SHARED, about=b"else", nonce=bytes(12)),
    ):
        with pytest.raises(EnrolmentRefused, match="not encrypted"):
            decrypt_digests(body, SHARED)


@pytest.mark.parametrize("octets", [b"", b"x", msgspec.msgpack.encode([b"", None, None]), b"\x92\xc0\xc0"])
def test_what_is_no_report_is_refused(octets: bytes) -> None:
    with pytest.raises(EnrolmentRefused, match="report of its node's keys is not understood"):
        decrypt_digests(encrypt_message(octets, SHARED, about=DIGESTS, nonce=bytes(12)), SHARED)
