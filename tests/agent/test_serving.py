"""What the control node answers to members, from its registry."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from qmesh.agent.serving import ControlNode, Turns
from qmesh.errors import EnrolmentRefused, StateUnreadable
from qmesh.host import database
from qmesh.host.records import Settings
from qmesh.host.registry import Registry
from qmesh.host.state import State
from qmesh.mesh.enrolment import KEY_OFFER, KeyOffer
from qmesh.mesh.model import Secret
from qmesh.mesh.sealing import seal
from tests.host.test_registry import MESH, NOW, invite, key, redeem

SIGNING_KEY = bytes(range(32))
B = "10.77.0.2"


class Looking(Turns):
    """An agent that looks at once."""

    def wait_for_one(self, seconds: float) -> bool:
        return seconds > 0


@pytest.fixture
def state(tmp_path: Path) -> State:
    """A control node with the member machine-b."""
    state = State(tmp_path / "state")
    state.prepare()
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
    return seal(msgspec.json.encode(KeyOffer(key(7))), shared, about=about, nonce=bytes(12))


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
            with pytest.raises(EnrolmentRefused, match="not sealed"):
                node.offer_key(body, sender=B)
        for stranger in ("10.77.0.1", "10.77.0.9"):
            with pytest.raises(EnrolmentRefused, match="no member"):
                node.offer_key(offer(shared), sender=stranger)
        assert len(registry.events()) == events
        node.offer_key(offer(shared), sender=B)
        assert [each.what for each in registry.events()][events:] == ["key-offered"]


def test_what_members_hold_is_not_forgotten_where_it_cannot_be_written(
    state: State, node: ControlNode
) -> None:
    with contextlib.closing(database.connect(state.registry_file)) as connection:
        connection.execute("UPDATE machines SET acknowledged = 0")
    node.membership(newer_than=MESH.revision + 1, whole=False, sender=B)
    away = state.registry_file.with_suffix(".away")
    state.registry_file.rename(away)
    with pytest.raises(StateUnreadable):
        node.write_acknowledged()
    away.rename(state.registry_file)
    node.write_acknowledged()
    with contextlib.closing(database.connect(state.registry_file)) as connection:
        found = connection.execute("SELECT acknowledged FROM machines WHERE name = 'machine-b'")
        assert found.fetchone() == (MESH.revision + 1,)
