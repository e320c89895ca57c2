"""What the control node answers to members, from its registry."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from qmesh.agent.daemon.loop_events import LookRequests
from qmesh.agent.daemon.membership import api as membership_api
from qmesh.agent.daemon.membership import unanswered
from qmesh.agent.daemon.membership.api import ControlNode
from qmesh.agent.node import identity_files
from qmesh.errors import EnrolmentRefused, MachineRefused, QmeshError, StateUnreadable
from qmesh.host.api.handlers import SentRedemption
from qmesh.host.registry import IssuedInvitation, Registry, sqlite
from qmesh.host.state.directory import State
from qmesh.host.state.documents import Settings
from qmesh.mesh.changes import set_machine_fields
from qmesh.mesh.links.activity import SILENT_S
from qmesh.mesh.protocol.aead import encrypt_message
from qmesh.mesh.protocol.enrolment import (
    KEY_OFFER,
    KeyOffer,
    build_redemption,
    derive_invitation_keys,
    derive_public_key,
)
from qmesh.mesh.protocol.facts_report import MOST_SEALED
from qmesh.mesh.protocol.key_digests import NodeIdentity, compute_digests, encrypt_digests
from qmesh.mesh.protocol.member_note import MemberNote
from qmesh.mesh.protocol.membership import (
    HOLDS,
    SignedMembership,
    apply_update,
    encrypt_held_revision,
    read_update,
    sign_membership,
)
from qmesh.mesh.protocol.membership_conflict import build_proof, read_membership_content
from qmesh.mesh.protocol.node_files import (
    NodeFilesRequest,
    compute_reply_key,
    decrypt_node_files,
    encrypt_request,
)
from qmesh.mesh.values import Secret
from tests.support.factories import key
from tests.support.node_identity import IDENTITY, PEER_KEY
from tests.support.registries import MESH, NOW, invite, message, redeem

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
    state.keys.save_signing_key(SIGNING_KEY)
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
    sent = SentRedemption(body, address)
    (first,) = node.redeem_all([sent])
    assert node.list_unanswered() == {address}
    node.finish_redemption(sender=address)
    assert not node.list_unanswered()
    statements = traced(monkeypatch)
    monkeypatch.setattr(membership_api, "sign_membership", None)
    for _ in range(3):
        statements.clear()
        (one,), (other,) = node.redeem_all([sent]), node.redeem_all([sent])
        assert one is other
        node.finish_redemption(sender=address)
        assert [text.split()[0] for text in statements if is_work(text)] == ["SELECT", "SELECT"]
    assert node.redeem_all([sent]) == [first]
    assert looks == [None]

    another = msgspec.structs.replace(message, public_key=key(3))
    unknown = msgspec.structs.replace(message, identifier="0" * 32)
    for refused in (another, unknown):
        statements.clear()
        (answer,) = node.redeem_all([SentRedemption(msgspec.json.encode(refused), address)])
        assert isinstance(answer, EnrolmentRefused)
        assert [text.split()[0] for text in statements if is_work(text)] == ["SELECT"]


def invited(state: State, *names: str) -> list[SentRedemption]:
    """What these machines send."""
    now, found = int(time.time()), []
    with Registry(state.registry_file) as registry:
        for number, name in enumerate(names):
            issued = invite(registry, name, now=now)
            body = msgspec.json.encode(message(issued, key(100 + number)))
            found.append(SentRedemption(body, issued.machine.address))
    return found


def test_those_that_come_together_have_one_membership_which_is_signed_once(
    state: State, node: ControlNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = invited(state, *(f"machine-{number}" for number in range(5)))
    signed: list[None] = []

    def count(*given: Any) -> SignedMembership:
        signed.append(None)
        return sign_membership(*given)

    monkeypatch.setattr(membership_api, "sign_membership", count)
    wrong = sent[3]._replace(sender="10.77.0.200")
    answers = node.redeem_all([*sent[:3], SentRedemption(b"{", B), wrong, *sent[4:], sent[0]])
    assert len(signed) == 1
    refused = [each for each in answers if isinstance(each, EnrolmentRefused)]
    assert [answers.index(each) for each in refused] == [3, 4]
    (whole,) = {each for each in answers if isinstance(each, bytes)}
    inventory = json.loads(apply_update(read_update(whole), None).payload)
    assert [each["name"] for each in inventory["machines"]][2:] == [f"machine-{n}" for n in (0, 1, 2, 4)]
    assert all(isinstance(each, bytes) for each in node.redeem_all(sent))


def test_a_look_at_the_machine_comes_once_an_answer_was_taken(state: State) -> None:
    looks: list[None] = []
    node = ControlNode(state, changed=lambda: looks.append(None), turns=Looking(lambda: None))
    sent = invited(state, "machine-c", "machine-d")
    node.redeem_all(sent)
    assert node.list_unanswered() == {each.sender for each in sent}
    assert not looks
    for each, left in zip(sent, ({sent[1].sender}, set()), strict=True):
        node.finish_redemption(sender=each.sender)
        assert node.list_unanswered() == left
    assert looks == [None, None]
    node.finish_redemption(sender=sent[0].sender)
    assert looks == [None, None]


def test_who_does_not_take_its_answer_is_waited_for_for_a_short_time(
    state: State, node: ControlNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.redeem_all(invited(state, "machine-c"))
    assert node.list_unanswered()
    now = time.monotonic() + unanswered.TAKEN_S
    monkeypatch.setattr(time, "monotonic", lambda: now)
    assert not node.list_unanswered()


def test_where_all_are_refused_nobody_is_waited_for(state: State, node: ControlNode) -> None:
    (sent,) = invited(state, "machine-c")
    wrong = sent._replace(sender="10.77.0.200")
    assert isinstance(node.redeem_all([wrong])[0], EnrolmentRefused)
    assert not node.list_unanswered()


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


OWN = Secret(base64.b64encode(bytes([64]) * 32).decode())
"""machine-b's private key where it fetches files."""
ONCE = bytes([7]) * 32


@pytest.fixture
def files_node(state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ControlNode:
    """A control node with a node's directory, and machine-b, which may fetch from it."""
    monkeypatch.setattr(identity_files, "SETTLED_S", 0.0)
    directory = tmp_path / "node"
    directory.mkdir()
    (directory / "config.yml").write_text(IDENTITY)
    state.save_settings(
        msgspec.structs.replace(state.settings(), config_directory=str(directory), config_owner=os.geteuid())
    )
    with Registry(state.registry_file) as registry:
        issued = registry.invite(
            "machine-b", workers=None, endpoint=None, expires_at=NOW + 99, now=NOW, replace=True
        )
        redeem_as(registry, issued, derive_public_key(OWN))
        permit(registry, allowed=True)
    return ControlNode(state, changed=lambda: None, turns=Looking(lambda: None))


def redeem_as(registry: Registry, issued: IssuedInvitation, public_key: str) -> None:
    registry.redeem(message(issued, public_key), sender=issued.from_address, now=NOW)


def permit(registry: Registry, *, allowed: bool) -> None:
    registry.change_mesh(
        lambda mesh: set_machine_fields(mesh, "machine-b", node_files=allowed),
        command="set",
        what="machine-changed",
        machine="machine-b",
        now=NOW,
    )


def shared_key(state: State) -> Secret:
    with Registry(state.registry_file) as registry:
        return registry.find_preshared_key(B)


def ask_for_files(state: State, *, name: str = "machine-b", private_key: bytes = ONCE) -> bytes:
    request = NodeFilesRequest(
        name=name, reply_key=compute_reply_key(private_key), key_store="/root/.config/keys.yml"
    )
    return encrypt_request(request, shared_key(state), nonce=bytes(12))


def list_fetches(state: State) -> list[str | None]:
    with Registry(state.registry_file) as registry:
        return [each.machine for each in registry.events() if each.what == "node-files-fetched"]


def test_a_member_that_may_gets_the_files_as_they_are_now_and_the_registry_says_so(
    state: State, files_node: ControlNode, tmp_path: Path
) -> None:
    answer = files_node.fetch_node_files(ask_for_files(state), sender=B)
    files = decrypt_node_files(answer, private_key=ONCE, member_private_key=OWN, shared=shared_key(state))
    assert f'peerPrivKey: "{PEER_KEY}"' in files.config
    assert "/ip4/10.77.0.2/tcp/40003" in files.config
    assert files.keys is None  # of node 2.0
    assert list_fetches(state) == ["machine-b"]
    for path in state.directory.rglob("*"):
        if path.is_file():
            assert PEER_KEY.encode() not in path.read_bytes(), path


def test_a_request_is_answered_once(state: State, files_node: ControlNode) -> None:
    body = ask_for_files(state)
    files_node.fetch_node_files(body, sender=B)
    with pytest.raises(EnrolmentRefused, match="was answered already"):
        files_node.fetch_node_files(body, sender=B)
    files_node.fetch_node_files(ask_for_files(state, private_key=bytes([8]) * 32), sender=B)
    assert list_fetches(state) == ["machine-b"] * 2


def test_who_may_not_gets_nothing_and_no_event_says_otherwise(
    state: State, files_node: ControlNode, tmp_path: Path
) -> None:
    """Without permission, for another's name, as any user, as no member; with files not whole."""
    with Registry(state.registry_file) as registry:
        redeem(registry, invite(registry, "machine-c"), key(2))
    body = ask_for_files(state)
    for asked, sender, words in (
        (ask_for_files(state, name="machine-c"), B, "may not fetch the node's files for another name"),
        (body, "10.77.0.3", "not encrypted"),
        (body, "10.77.0.1", "not a member"),
        (body, "10.77.0.9", "not a member"),
        (b"", B, "not encrypted"),
        (body[:-1], B, "not encrypted"),
    ):
        with pytest.raises(EnrolmentRefused, match=words):
            files_node.fetch_node_files(asked, sender=sender)
    config = tmp_path / "node" / "config.yml"
    short = IDENTITY.replace(PEER_KEY, "5ec4e7a1")
    for text, words in (("", "peerPrivKey"), ("a: [", "not YAML"), (short, "8 digits")):
        config.write_text(text)
        with pytest.raises(QmeshError, match=words) as refused:
            files_node.fetch_node_files(ask_for_files(state, private_key=os.urandom(32)), sender=B)
        assert "5ec4e7a1" not in refused.value.message
    with Registry(state.registry_file) as registry:
        permit(registry, allowed=False)
    with pytest.raises(EnrolmentRefused, match="machine-b may not fetch the node's files"):
        files_node.fetch_node_files(ask_for_files(state, private_key=os.urandom(32)), sender=B)
    assert list_fetches(state) == []


def test_what_cannot_be_logged_is_not_given(
    state: State, files_node: ControlNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MachineRefused("the disk is full", hint="")

    monkeypatch.setattr(Registry, "record_files_fetched", fail)
    with pytest.raises(MachineRefused, match="full"):
        files_node.fetch_node_files(ask_for_files(state), sender=B)


def test_reports_of_keys_are_kept_of_members_alone_and_what_is_new_is_looked_at(state: State) -> None:
    looks: list[None] = []
    node = ControlNode(state, changed=lambda: looks.append(None), turns=Looking(lambda: None))
    shared = shared_key(state)
    first, second = (
        encrypt_digests(compute_digests(NodeIdentity(peer_key=value), shared), shared)
        for value in (b"aa", b"bb")
    )
    node.report_keys(first, sender=B)
    node.report_keys(first, sender=B)
    assert (node.take_key_reports(), node.take_key_reports(), len(looks)) == ({B: first}, {}, 1)
    node.report_keys(second, sender=B)
    assert (node.take_key_reports(), len(looks)) == ({B: second}, 2)
    for body, sender, words in ((first, "10.77.0.9", "not a member"), (b"x", B, "not encrypted")):
        with pytest.raises(EnrolmentRefused, match=words):
            node.report_keys(body, sender=sender)
    node.record_key_report(b"x" * 2000, sender=B)
    node.record_key_report(first, sender="10.77.0.9")
    assert (node.take_key_reports(), len(looks)) == ({}, 2)
    node.record_key_report(second, sender=B)
    assert (node.take_key_reports(), len(looks)) == ({B: second}, 2)


def test_facts_are_kept_of_members_alone_and_the_last_ones_until_they_are_taken(state: State) -> None:
    node = ControlNode(state, changed=lambda: None, turns=Looking(lambda: None))
    for sealed, sender in (
        (b"first", B),
        (b"last", B),
        (b"stranger's", "10.77.0.9"),
        (bytes(MOST_SEALED + 1), B),
    ):
        node.record_facts(sealed, sender=sender)
    assert (node.take_facts(), node.take_facts()) == ({B: b"last"}, {})


def test_what_members_note_is_kept_until_they_ask_again(state: State) -> None:
    node = ControlNode(state, changed=lambda: None, turns=Looking(lambda: None))
    node.record_note("4@127.0.0.1", sender=B)
    node.record_note("down", sender="10.77.0.9")  # no member's
    assert node.list_notes() == ((B, MemberNote(elsewhere=((4, "127.0.0.1"),))),)
    node.record_note("down", sender=B)
    assert node.list_notes() == ((B, MemberNote(is_down=True)),)
    node.record_note("", sender=B)
    assert node.list_notes() == ()


def test_who_asks_no_more_is_not_known_to_stand_still(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    node = ControlNode(state, changed=lambda: None, turns=Looking(lambda: None))
    node.record_note("2-3@stopped", sender=B)
    assert node.list_notes() == ((B, MemberNote(stopped=((2, 3),))),)
    later = time.monotonic() + SILENT_S
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert node.list_notes() == ()


def restored_to(state: State, revision: int) -> None:
    """The control node as an older copy of itself."""
    with contextlib.closing(sqlite3.connect(state.registry_file)) as connection, connection:
        connection.execute("UPDATE mesh SET revision = ?", (revision,))


def test_a_control_node_that_is_an_older_copy_gives_out_nothing_once_a_member_has_shown_it(
    state: State,
) -> None:
    with Registry(state.registry_file) as registry:
        held = registry.inventory()
    signing = state.keys.read_signing_key()
    newer = sign_membership(msgspec.structs.replace(held, revision=held.revision + 3), signing)
    node = ControlNode(state, changed=lambda: None, turns=Looking(lambda: None))
    digest = read_membership_content(sign_membership(held, signing)).digest

    def ask(newer_than: int, said: str = digest) -> bytes | None:
        return node.find_membership_update(newer_than=newer_than, whole=False, sender=B, digest=said)

    # Who holds what comes after it, or what contradicts it, is shown it; what is only said is no proof.
    assert ask(held.revision) is None
    assert ask(held.revision, "") is None
    shown = ask(held.revision + 3)
    assert shown is not None
    assert ask(held.revision, "0" * 32) == shown
    own = apply_update(read_update(shown), None)
    assert state.membership_conflict.read() is None
    stranger = sign_membership(
        msgspec.structs.replace(held, revision=held.revision + 3), Ed25519PrivateKey.generate()
    )
    for proof, sender in (
        (build_proof(stranger, own, held.revision), B),
        (build_proof(own, own, held.revision), B),
        (build_proof(newer, own, held.revision), "10.77.0.9"),
    ):
        with pytest.raises(EnrolmentRefused):
            node.report_conflict(proof, sender=sender)
    assert state.membership_conflict.read() is None
    assert ask(held.revision - 1) is not None

    node.report_conflict(build_proof(newer, own, held.revision), sender=B)
    conflict = state.membership_conflict.read()
    assert conflict is not None
    assert (conflict.own, conflict.revision, conflict.machine) == (
        held.revision,
        held.revision + 3,
        "machine-b",
    )
    written = state.membership_conflict.path.stat()
    node.report_conflict(build_proof(newer, own, held.revision), sender=B)
    assert os.path.samestat(state.membership_conflict.path.stat(), written), "each proof costs a write"
    for each in (node, ControlNode(state, changed=lambda: None, turns=Looking(lambda: None))):
        # None of it reaches a member, also once its revision is beyond theirs, and after a restart.
        restored_to(state, held.revision + 10)
        each.refresh_membership()
        for revision in (0, held.revision, held.revision + 9):
            assert each.find_membership_update(newer_than=revision, whole=True, sender=B) is None
        with pytest.raises(EnrolmentRefused, match="an older copy: machine-b holds revision"):
            each.find_membership_update(newer_than=held.revision + 11, whole=False, sender=B)
        with pytest.raises(EnrolmentRefused, match="an older copy"):
            each.redeem_all([SentRedemption(b"{}", B)])


def test_what_a_command_gave_out_a_moment_ago_contradicts_nothing(state: State, node: ControlNode) -> None:
    with Registry(state.registry_file) as registry:
        held = registry.inventory()
    newer = msgspec.structs.replace(held, revision=held.revision + 1)
    own, shown = (sign_membership(each, state.keys.read_signing_key()) for each in (held, newer))
    restored_to(state, newer.revision)  # `admit` has just changed it, and the service has not looked yet
    with pytest.raises(EnrolmentRefused):
        node.report_conflict(build_proof(shown, own, held.revision), sender=B)
    assert state.membership_conflict.read() is None


def test_no_member_keeps_the_others_from_hearing_of_a_handover(state: State) -> None:
    """The new control node's memberships contradict nothing: the one before it goes on telling of it."""
    with contextlib.closing(sqlite3.connect(state.registry_file)) as connection, connection:
        connection.execute("UPDATE mesh SET revision = revision + 1, control = 'machine-b'")
    with Registry(state.registry_file) as registry:
        held = registry.inventory()
    node = ControlNode(state, changed=lambda: None, turns=Looking(lambda: None))
    assert node.has_handed_over
    node.publish_handover()
    newer = msgspec.structs.replace(held, revision=held.revision + 1)
    own, shown = (sign_membership(each, state.keys.read_signing_key()) for each in (held, newer))
    with pytest.raises(EnrolmentRefused, match="another machine is the control node"):
        node.report_conflict(build_proof(shown, own, held.revision), sender=B)
    assert state.membership_conflict.read() is None
    assert node.find_membership_update(newer_than=held.revision - 1, whole=True, sender=B) is not None


def test_a_member_that_asks_for_no_membership_is_known_after_three_minutes(
    state: State, node: ControlNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = float(int(time.monotonic()))  # seconds are added to it without a rest
    monkeypatch.setattr(time, "monotonic", lambda: now)
    assert node.list_unasked() == ()
    now += SILENT_S - 1
    say(state, node, MESH.revision)
    now += 2
    assert [address for address, _ in node.list_unasked()] == ["10.77.0.1"]  # the control node asks nothing
    now += SILENT_S
    assert dict(node.list_unasked())[B] == SILENT_S + 2
    for sender in (B, "10.77.0.99"):
        node.record_question(sender=sender)  # which it is refused, as its qmesh is not understood
    assert [address for address, _ in node.list_unasked()] == ["10.77.0.1"]
