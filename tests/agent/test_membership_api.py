"""What the control node answers to members, from its registry."""

from __future__ import annotations

import base64
import contextlib
import sqlite3
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from qmesh.agent.daemon import membership_api
from qmesh.agent.daemon.membership_api import ControlNode, LookRequests
from qmesh.errors import EnrolmentRefused, MachineRefused, StateUnreadable
from qmesh.host.registry import Registry, sqlite
from qmesh.host.state.directory import State
from qmesh.host.state.documents import Settings
from qmesh.mesh.protocol.aead import encrypt_message
from qmesh.mesh.protocol.enrolment import KEY_OFFER, KeyOffer, build_redemption, derive_invitation_keys
from qmesh.mesh.protocol.membership import HOLDS, encrypt_held_revision
from qmesh.mesh.values import Secret
from tests.support.factories import key
from tests.support.registries import MESH, NOW, invite, redeem

SIGNING_KEY = bytes(range(32))
B = "10.77.0.2"


class Looking(LookRequests):
    """An agent that looks at once."""

    def wait_for_look(self, seconds: float) -> bool:
        return seconds > 0


@pytest.fixture
def state(tmp_path: Path) -> State:
    """A control node with the member machine-b."""
    state = State(tmp_path / "state")
    state.create_directory()
    Registry.create(state.registry_file, MESH, now=NOW)
    with Registry(state.registry_file) as registry:
        redeem(registry, invite(registry, "machine-b"), key(1))
    state.save_signing_key(SIGNING_KEY)
    verification_key = Ed25519PrivateKey.from_private_bytes(SIGNING_KEY).public_key().public_bytes_raw()
    state.save_settings(
        Settings(
            mesh=MESH.mesh,
            name="control",
            control=True,
            interface="qmesh0",
            listen_port=51820,
            verification_key=verification_key,
        )
    )
    return state


@pytest.fixture
def node(state: State) -> ControlNode:
    return ControlNode(state, changed=lambda: None, turns=Looking(lambda: None))


def offer(shared: Secret, about: bytes = KEY_OFFER) -> bytes:
    return encrypt_message(msgspec.json.encode(KeyOffer(key(7))), shared, about=about, nonce=bytes(12))


def test_a_key_is_taken_of_root_on_the_machine_alone(state: State, node: ControlNode) -> None:
    """Any user of a machine can speak from its tunnel address."""
    with Registry(state.registry_file) as registry:
        shared = registry.preshared_keys()[key(1)]
        events = len(registry.events())
        for body in (
            msgspec.json.encode(KeyOffer(key(7))),
            offer(Secret(key(8))),
            offer(shared, about=b"else"),
        ):
            with pytest.raises(EnrolmentRefused, match="not encrypted"):
                node.offer_key(body, sender=B)
        for stranger in ("10.77.0.1", "10.77.0.9"):
            with pytest.raises(EnrolmentRefused, match="not a member"):
                node.offer_key(offer(shared), sender=stranger)
        assert len(registry.events()) == events
        node.offer_key(offer(shared), sender=B)
        assert [each.what for each in registry.events()][events:] == ["key-offered"]


def say(state: State, node: ControlNode, revision: int, *, sealed: bytes | None = None) -> None:
    """Ask as machine-b does, and say what it holds."""
    with Registry(state.registry_file) as registry:
        shared = registry.preshared_keys()[key(1)]
    said = encrypt_held_revision(revision, shared, nonce=bytes(12)) if sealed is None else sealed
    node.record_acknowledgement(base64.b64encode(said), newer_than=revision, sender=B)
    node.find_membership_update(newer_than=revision, whole=False, sender=B)


def acknowledged(state: State) -> int:
    with contextlib.closing(sqlite.connect(state.registry_file)) as connection:
        found = connection.execute("SELECT acknowledged FROM machines WHERE name = 'machine-b'")
        return int(found.fetchone()[0])


def forget_acknowledged(state: State) -> None:
    with contextlib.closing(sqlite.connect(state.registry_file)) as connection:
        connection.execute("UPDATE machines SET acknowledged = 0")


def test_what_a_member_holds_counts_where_it_is_sealed_alone(state: State, node: ControlNode) -> None:
    """Any user of a machine can ask from its tunnel address, and so could say that it knows the successor."""
    held = MESH.revision + 1
    forget_acknowledged(state)
    with Registry(state.registry_file) as registry:
        shared = registry.preshared_keys()[key(1)]
    another = Secret(base64.b64encode(bytes(32)).decode())
    for sealed in (
        b"",
        msgspec.json.encode(held),
        encrypt_held_revision(held, another, nonce=bytes(12)),
        encrypt_message(msgspec.json.encode(held), shared, about=KEY_OFFER, nonce=bytes(12)),
        encrypt_message(b'"x"', shared, about=HOLDS, nonce=bytes(12)),
    ):
        say(state, node, held, sealed=sealed)
        node.write_acknowledgements()
        assert acknowledged(state) == 0
    node.record_acknowledgement(b"no base64!", newer_than=held, sender=B)
    node.record_acknowledgement(b"AAAA", newer_than=held, sender="10.77.0.9")
    node.write_acknowledgements()
    say(state, node, held)
    node.write_acknowledgements()
    assert acknowledged(state) == held


def test_a_member_of_an_older_qmesh_is_answered_and_its_word_counts_for_nothing(
    state: State, node: ControlNode
) -> None:
    forget_acknowledged(state)
    assert node.find_membership_update(newer_than=0, whole=False, sender=B) is not None
    assert node.find_membership_update(newer_than=MESH.revision + 1, whole=False, sender=B) is None
    node.write_acknowledgements()
    assert acknowledged(state) == 0


def test_what_a_member_holds_is_written_once(
    state: State, node: ControlNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(state, node, MESH.revision + 1)
    node.write_acknowledgements()
    statements = traced(monkeypatch)
    for _ in range(3):
        say(state, node, MESH.revision + 1)
        statements.clear()
        node.write_acknowledgements()
        assert statements == []


def traced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of databases that are opened from now on."""
    statements: list[str] = []
    connect = sqlite.connect

    def connected(path: Path, **options: Any) -> sqlite3.Connection:
        connection = connect(path, **options)
        connection.set_trace_callback(statements.append)
        return connection

    monkeypatch.setattr(sqlite, "connect", connected)
    return statements


def is_work(statement: str) -> bool:
    """Whether it is more than how a database is opened."""
    return not statement.startswith("PRAGMA")


def test_a_used_redemption_said_again_costs_one_select(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[None] = []
    node = ControlNode(state, changed=lambda: looks.append(None), turns=Looking(lambda: None))
    with Registry(state.registry_file) as registry:
        derived = derive_invitation_keys(invite(registry, "machine-c", now=int(time.time())).secret)
        address = registry.inventory().machine("machine-c").address
    message = build_redemption(derived, public_key=key(2), workers=4, endpoint=None)
    body = msgspec.json.encode(message)
    first = node.redeem(body, sender=address)
    node.finish_redemption()
    statements = traced(monkeypatch)
    monkeypatch.setattr(membership_api, "sign_membership", None)
    for _ in range(3):
        statements.clear()
        assert node.redeem(body, sender=address) is node.redeem(body, sender=address)
        node.finish_redemption()
        assert [text.split()[0] for text in statements if is_work(text)] == ["SELECT", "SELECT"]
    assert node.redeem(body, sender=address) == first
    assert looks == [None]

    other = msgspec.structs.replace(message, public_key=key(3))
    unknown = msgspec.structs.replace(message, identifier="0" * 32)
    for refused in (other, unknown):
        statements.clear()
        with pytest.raises(EnrolmentRefused):
            node.redeem(msgspec.json.encode(refused), sender=address)
        assert [text.split()[0] for text in statements if is_work(text)] == ["SELECT"]


def test_a_key_that_is_offered_again_costs_no_look_at_the_machine(state: State) -> None:
    waited: list[None] = []

    class Counting(LookRequests):
        def wait_for_look(self, seconds: float) -> bool:
            waited.append(None)
            return seconds > 0 and len(waited) > 1

    node = ControlNode(state, changed=lambda: None, turns=Counting(lambda: None))
    with Registry(state.registry_file) as registry:
        body = offer(registry.preshared_keys()[key(1)])
    with pytest.raises(MachineRefused, match="busy"):
        node.offer_key(body, sender=B)
    for _ in range(5):
        node.offer_key(body, sender=B)
    assert len(waited) == 2  # the first was in vain


def test_what_members_hold_is_not_forgotten_where_it_cannot_be_written(
    state: State, node: ControlNode
) -> None:
    forget_acknowledged(state)
    say(state, node, MESH.revision + 1)
    away = state.registry_file.with_suffix(".away")
    state.registry_file.rename(away)
    with pytest.raises(StateUnreadable):
        node.write_acknowledgements()
    away.rename(state.registry_file)
    node.write_acknowledgements()
    assert acknowledged(state) == MESH.revision + 1
