"""What a member makes of memberships that are signed by the right key and are not what it holds."""

from __future__ import annotations

import base64
import contextlib
import subprocess
import threading
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from qmesh.agent.commands.join import steps
from qmesh.agent.commands.rotate_key import _wait_for_key
from qmesh.agent.daemon.membership.poll import REST_S, MembershipPoller
from qmesh.agent.daemon.supervisor import Troubles
from qmesh.agent.local import Local, linux_for, load_local
from qmesh.agent.machine_facts.teller import FactsTeller
from qmesh.agent.membership import update_membership
from qmesh.agent.node.node_keys import KeyReporter
from qmesh.errors import ContradictedByMember, EnrolmentRefused, QmeshError, RemovedFromMesh
from qmesh.host import files
from qmesh.host.api.handlers import SentRedemption
from qmesh.host.api.messages import ControlNodeUnavailable
from qmesh.host.api.server import Service
from qmesh.host.state.directory import State
from qmesh.host.state.documents import KeyRotation, Settings, SuccessorKey
from qmesh.host.system import agent_notify
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.links.retirement import KeyRetirement
from qmesh.mesh.protocol.enrolment import compute_mesh_identifier
from qmesh.mesh.protocol.membership import (
    Update,
    build_full_update,
    compute_difference,
    decrypt_held_revision,
    encode_membership,
    sign_membership,
)
from qmesh.mesh.protocol.membership_conflict import read_proof
from qmesh.mesh.state import Peer
from qmesh.mesh.values import Secret
from tests.support.factories import key, machine, mesh
from tests.support.waiting import within

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
VERIFICATION_KEY = KEY.public_key().public_bytes_raw()
SHARED = Secret(base64.b64encode(b"p" * 32).decode())


def mesh_of(revision: int, *names: str, workers: int = 1) -> Inventory:
    machines = (
        machine(name, number, workers, public_key=base64.b64encode(bytes([8 + number]) * 32).decode())
        for number, name in enumerate(("control", *names), 1)
    )
    identifier = compute_mesh_identifier(VERIFICATION_KEY)
    return mesh(*machines, mesh=identifier, control="control", revision=revision)


class Control:
    """A control node that says what the test has it say, whatever it is asked."""

    def __init__(self, answer: bytes, whole: bytes | None = None) -> None:
        self.answer = answer
        self.acknowledged: list[tuple[int, int, str]] = []
        self.shown: list[tuple[bytes, str]] = []
        self.whole = answer if whole is None else whole

    def redeem_all(self, sent: Sequence[SentRedemption]) -> list[bytes | QmeshError]:
        raise NotImplementedError

    def finish_redemption(self, *, sender: str) -> None:
        raise NotImplementedError

    def offer_key(self, body: bytes, *, sender: str) -> None:
        raise NotImplementedError

    def record_acknowledgement(self, sealed: bytes, *, newer_than: int, sender: str) -> None:
        with contextlib.suppress(EnrolmentRefused):  # as where a test has given the member another key
            self.acknowledged.append(
                (newer_than, decrypt_held_revision(base64.b64decode(sealed), SHARED), sender)
            )

    def report_handover(self, body: bytes, *, sender: str) -> bytes | None:
        raise NotImplementedError

    def fetch_node_files(self, body: bytes, *, sender: str) -> bytes:
        raise NotImplementedError

    def report_keys(self, body: bytes, *, sender: str) -> None:
        raise NotImplementedError

    def report_conflict(self, body: bytes, *, sender: str) -> None:
        self.shown.append((body, sender))

    def record_key_report(self, sealed: bytes, *, sender: str) -> None:
        raise NotImplementedError

    def record_facts(self, sealed: bytes, *, sender: str) -> None:
        del sealed, sender

    def record_question(self, *, sender: str) -> None:
        raise NotImplementedError

    def record_note(self, line: str, *, sender: str) -> None:
        pass

    def refresh_membership(self) -> None:
        pass

    def list_departed(self) -> frozenset[str]:
        raise NotImplementedError

    def find_membership_update(
        self,
        *,
        newer_than: int,  # noqa: ARG002 - the protocol's
        whole: bool,
        sender: str,  # noqa: ARG002 - the same
        digest: str,  # noqa: ARG002 - the same
    ) -> bytes | None:
        return self.whole if whole else self.answer


def signed(inventory: Inventory, key: Ed25519PrivateKey = KEY) -> bytes:
    return msgspec.msgpack.encode(build_full_update(sign_membership(inventory, key)))


def kept(inventory: Inventory) -> bytes:
    return encode_membership(sign_membership(inventory, KEY))


HELD = mesh_of(5, "machine-b")


@pytest.fixture
def member(tmp_path) -> State:
    """A member that holds revision 5."""
    state = State(tmp_path)
    state.save_settings(
        Settings(
            mesh=HELD.mesh,
            name="machine-b",
            control=False,
            interface="qmesh0",
            listen_port=51820,
            verification_key=VERIFICATION_KEY,
        )
    )
    state.keys.save_preshared_key(SHARED)
    files.write(state.membership_file, kept(HELD))
    return state


def ask(state: State, answer: bytes, whole: bytes | None = None) -> bool:
    """Have the member ask; from a test itself only, which runs on a machine of its own."""
    return asked(state, Control(answer, whole))


@contextlib.contextmanager
def served(state: State, control: Control) -> Iterator[None]:
    for words in ("link set lo up", "addr replace 10.77.0.1/32 dev lo"):
        subprocess.run(["ip", *words.split()], check=True)
    told = agent_notify.listen(state.directory)
    service = Service(control, address="10.77.0.1", port=51820, interface="lo", told=told)
    service.start()
    try:
        yield
    finally:
        service.stop()


def asked(state: State, control: Control) -> bool:
    with served(state, control):
        return update_membership(state, load_local(state), connect_s=5)


def test_what_a_member_holds_it_says_sealed_with_its_preshared_key(member):
    control = Control(signed(mesh_of(6, "machine-b")))
    asked(member, control)
    asked(member, control)
    assert control.acknowledged == [(5, 5, "10.77.0.1"), (6, 6, "10.77.0.1")]


@pytest.mark.parametrize(
    "offered",
    [
        mesh_of(4, "machine-b", "machine-c", workers=7),
        mesh_of(5, "machine-b", "machine-c", workers=7),
        msgspec.structs.replace(HELD, base_port=41000),
    ],
    ids=["lower", "the same", "the same with other ports"],
)
def test_e6_a_membership_that_is_not_newer_is_not_kept_although_it_is_signed(member, offered):
    before = member.membership_file.read_bytes()
    control = Control(signed(offered))
    with pytest.raises(ContradictedByMember, match=f"revision 5 of the mesh.*revision {offered.revision}"):
        asked(member, control)
    assert member.membership_file.read_bytes() == before
    # The control node is shown what is held here: it is of the mesh, and so the control node is what is old.
    ((proof, sender),) = control.shown
    assert sender == "10.77.0.1"
    assert read_proof(proof, sign_membership(offered, KEY), VERIFICATION_KEY, offered) == HELD

    assert ask(member, signed(mesh_of(5, "machine-b"))) is False  # the same is no contradiction
    newer = mesh_of(6, "machine-b", "machine-c")
    assert ask(member, signed(newer)) is True
    assert member.membership_file.read_bytes() == kept(newer)


def test_a_difference_is_taken_and_one_that_leads_to_nothing_is_asked_for_as_a_whole(member):
    newer = sign_membership(mesh_of(6, "machine-b", "machine-c"), KEY)
    held = sign_membership(HELD, KEY)
    part = compute_difference(held.payload, newer.payload)
    right = msgspec.msgpack.encode(Update(5, (part,), newer.signature))
    assert ask(member, right, whole=b"") is True
    assert member.membership_file.read_bytes() == encode_membership(newer)

    newest = mesh_of(7, "machine-b", "machine-c")
    assert ask(member, right, whole=signed(newest)) is True
    assert member.membership_file.read_bytes() == kept(newest)


def test_e7_a_machine_that_is_not_in_it_takes_itself_for_removed(member):
    before = member.membership_file.read_bytes()
    member.save_handover_payload(b"all keys of a mesh that it was to be the control node of")
    member.successor_key.write(
        SuccessorKey(HELD.machines[0].public_key, Secret(base64.b64encode(b"n" * 32).decode()))
    )
    with pytest.raises(RemovedFromMesh):
        ask(member, signed(mesh_of(6, "machine-c")))
    assert not member.estate_file.exists()
    assert member.successor_key.read() is None
    settings = member.settings()
    assert (settings.removed, settings.up, settings.guarded) == (True, False, True)
    assert member.membership_file.read_bytes() == before


def test_e6_an_older_membership_without_this_machine_removes_nobody(member):
    with pytest.raises(ContradictedByMember):
        ask(member, signed(mesh_of(5, "machine-c")))
    assert not member.settings().removed


@pytest.mark.parametrize(
    "answer",
    [
        signed(mesh_of(6, "machine-b"), Ed25519PrivateKey.from_private_bytes(b"x" * 32)),
        signed(msgspec.structs.replace(mesh_of(6, "machine-b"), mesh="0" * 16)),
        signed(mesh_of(6, "machine-b"))[:-9],
        b"{}",
        b"\0" * 1000,
    ],
    ids=["another key", "another mesh", "cut off", "empty", "zeros"],
)
def test_e6_what_is_not_to_be_believed_changes_nothing(member, answer):
    before = member.membership_file.read_bytes()
    with pytest.raises(EnrolmentRefused):
        ask(member, answer)
    assert member.membership_file.read_bytes() == before


class Hesitating(Control):
    """One that refuses the first question."""

    has_refused = False

    def find_membership_update(self, **asked: Any) -> bytes | None:
        if not self.has_refused:
            self.has_refused = True
            raise EnrolmentRefused("not yet", hint="ask again")
        return super().find_membership_update(**asked)


def test_a_key_that_is_in_use_is_waited_for_though_the_control_node_refuses_at_first(member):
    own = HELD.machines[1]
    new = base64.b64encode(bytes([77]) * 32).decode()
    changed = (HELD.machines[0], msgspec.structs.replace(own, public_key=new))
    member.key_rotation.write(KeyRotation(own.public_key, new))
    control = Hesitating(signed(msgspec.structs.replace(HELD, revision=6, machines=changed)))
    with served(member, control):
        assert _wait_for_key(member)
    assert control.has_refused
    assert member.key_rotation.read() is None


def test_e4_who_is_a_member_goes_on_though_the_control_node_refuses_at_first(member, caplog):
    control = Hesitating(signed(HELD))
    with served(member, control):
        steps._wait_for_control_node(
            load_local(member), linux_for(member, member.settings()), patience_s=30.0
        )
    assert control.has_refused
    assert caplog.messages == []


@pytest.mark.parametrize("answers_after_s", [0.0, 0.7, 1.9])
def test_a_control_node_that_is_far_is_given_the_time_that_a_handshake_takes_there(
    member, caplog, monkeypatch, answers_after_s
):
    """What takes longer than the first connection has would, asked so again, never be answered."""
    now, given, reset = 1000.0, [], []

    class Far:
        def poll_membership(self, *, connect_s: float, **_: object) -> None:
            nonlocal now
            given.append(connect_s)
            now += min(connect_s, answers_after_s)
            if connect_s < answers_after_s:
                raise ControlNodeUnavailable("no connection", was_reached=False)

    def slept(seconds: float) -> None:
        nonlocal now
        now += seconds

    peer = Peer(public_key=key(1), allowed_ips=("10.77.0.1/32",))
    linux = SimpleNamespace(
        observe=lambda: SimpleNamespace(tunnel=SimpleNamespace(peers=(peer,))),
        backend=SimpleNamespace(reset_session=lambda _, which: reset.append(which)),
    )
    monkeypatch.setattr(steps, "build_client", lambda _: Far())
    monkeypatch.setattr(steps, "time", SimpleNamespace(monotonic=lambda: now, sleep=slept))
    steps._wait_for_control_node(load_local(member), cast("Any", linux), patience_s=15.0)

    assert given[-1] >= answers_after_s
    assert reset == [peer] * (len(given) - 1)
    assert now - 1000 < max(0.1, 4 * answers_after_s)
    assert caplog.messages == []


def test_a_control_node_that_never_answers_is_waited_for_no_longer_than_was_said(member, caplog, monkeypatch):
    monkeypatch.setattr(steps, "build_client", lambda _: Silent())
    linux = SimpleNamespace(observe=lambda: SimpleNamespace(tunnel=None))
    with within(20):
        steps._wait_for_control_node(load_local(member), cast("Any", linux), patience_s=0.5)

    assert "does not answer yet; the agent keeps trying" in caplog.text
    assert Silent.asked < 10


class Silent:
    """Refuses at once."""

    asked = 0

    def poll_membership(self, **_: object) -> None:
        Silent.asked += 1
        raise ControlNodeUnavailable("no connection", was_reached=False)


class Told:
    """Has heard that the machine was removed."""

    def close(self) -> None: ...

    def find_notice(self, here: Local) -> KeyRetirement:
        return KeyRetirement(
            mesh=HELD.mesh,
            machine="machine-b",
            public_key=here.machine.public_key,
            reason="removed",
            at=1,
        )


def test_e7_a_notice_that_comes_while_a_command_changes_the_machine_counts_the_next_time(member):
    arrived: list[bool] = []
    poller = MembershipPoller(
        State(member.directory, patience_s=0.05),
        arrived=lambda: arrived.append(True),
        troubles=Troubles(lambda _: None),
        stopped=threading.Event(),
        key_reporter=KeyReporter(),
        teller=FactsTeller(lambda: None),
        answer_request=lambda _: None,
    )
    poller._listener = Told()  # type: ignore[assignment]
    with member.lock():
        assert poller._poll_once() < REST_S
    assert (member.settings().removed, arrived) == (False, [])
    assert poller._poll_once() == REST_S
    assert (member.settings().removed, arrived) == (True, [True])
