"""How the control role passes on, in the files of each machine: cut off at every write, and found again."""

from __future__ import annotations

import base64
import contextlib
import itertools
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from qmesh.agent import control_role
from qmesh.agent.commands import handover
from qmesh.agent.commands.backup import make_backup
from qmesh.agent.commands.join.steps import is_member
from qmesh.agent.local import load_local
from qmesh.agent.membership import adopt_membership
from qmesh.errors import BadInput, EnrolmentRefused, StateUnreadable
from qmesh.host import files
from qmesh.host.registry import Registry, load_image
from qmesh.host.state.directory import State
from qmesh.host.state.documents import Settings, SuccessorKey
from qmesh.mesh.changes import set_endpoints
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.links.retirement import RetiredKey, RetiredKeys, build_notice, read_notice
from qmesh.mesh.protocol.handover import (
    HandoverData,
    HandoverProgress,
    decode_handover_data,
    derive_successor_preshared_key,
    encode_handover_data,
)
from qmesh.mesh.protocol.membership import encode_membership, sign_membership
from qmesh.mesh.values import Endpoint, Secret
from tests.support.factories import key
from tests.support.registries import MESH, NOW, SIGNS, invite, redeem

CONTROL, B, C = key(9000), key(1), key(2)


class Killed(BaseException):
    """The process is no more."""


class Mesh:
    """A control node, machine-b and machine-c, as files."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.path = directory / "mesh.db"
        Registry.create(self.path, MESH, now=NOW)
        self.registry = Registry(self.path)
        for number, name in enumerate(("machine-b", "machine-c"), 1):
            redeem(self.registry, invite(self.registry, name), key(number))
        self.registry.change_mesh(
            lambda mesh: set_endpoints(mesh, "machine-b", [Endpoint("203.0.113.2", 51820)]),
            command="set",
            what="machine-changed",
            machine="machine-b",
            now=NOW,
        )
        self.shared = self.registry.preshared_keys()
        self.b, self.c = (self._member(directory / name, name) for name in ("machine-b", "machine-c"))

    def _member(self, directory: Path, name: str) -> State:
        state = State(directory)
        state.create_directory()
        mesh = self.registry.inventory()
        state.keys.save_preshared_key(self.shared[mesh.machine(name).public_key])
        files.write(state.membership_file, encode_membership(sign_membership(mesh, SIGNS)))
        settings = Settings(
            mesh=MESH.mesh,
            name=name,
            control=False,
            interface="qmesh0",
            listen_port=51820,
            verification_key=SIGNS.public_key().public_bytes_raw(),
            control_endpoints=(Endpoint("192.168.0.200", 51820),),
        )
        state.save_settings(settings)
        return state

    def tell(self, state: State) -> bool:
        """Have a member hold the membership as it is now."""
        mesh = self.registry.inventory()
        with state.lock():
            return adopt_membership(state, sign_membership(mesh, SIGNS), mesh)

    def estate(self) -> bytes:
        with load_image(self.path) as image:
            event, octets = image.serialize_for_successor()
        return encode_handover_data(
            HandoverData(event=event, registry=octets, signing_key=SIGNS.private_bytes_raw())
        )

    def begin(self) -> None:
        self.registry.begin_handover("machine-b", now=NOW + 1)

    def hand_over(self) -> Inventory:
        estate = self.estate()
        self.b.save_handover_payload(estate)
        said = HandoverProgress(holds=self.registry.last_event_number(), silent=())
        assert self.registry.record_progress(said, sender="10.77.0.2", now=NOW + 2)
        return self.registry.complete_handover("machine-b", now=NOW + 2)


@pytest.fixture
def another_mesh(tmp_path: Path) -> Iterator[Callable[[], Mesh]]:
    numbers = itertools.count()
    with contextlib.ExitStack() as registries:

        def another() -> Mesh:
            mesh = Mesh(tmp_path / f"mesh-{next(numbers)}")
            registries.enter_context(mesh.registry)
            return mesh

        yield another


@pytest.fixture
def mesh(another_mesh: Callable[[], Mesh]) -> Mesh:
    return another_mesh()


@contextlib.contextmanager
def killed_at(number: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Die before the numbered change of a file from now on."""
    left = number
    with monkeypatch.context() as patch:
        for name in ("write", "remove"):
            real = getattr(files, name)

            def dying(path: Path, *rest: object, _real: Callable[..., None] = real) -> None:
                nonlocal left
                left -= 1
                if left == 0:
                    raise Killed
                _real(path, *rest)

            patch.setattr(files, name, dying)
        yield


def test_a_member_has_a_key_for_each_and_then_for_the_new_one_alone(mesh: Mesh) -> None:
    derived = derive_successor_preshared_key(B, mesh.shared[C])
    mesh.begin()
    assert mesh.tell(mesh.c)
    assert load_local(mesh.c).preshared == {CONTROL: mesh.shared[C], B: derived}
    mesh.hand_over()
    assert mesh.tell(mesh.c)
    assert load_local(mesh.c).preshared == {B: derived}
    assert mesh.c.successor_key.read() is None
    assert load_local(mesh.c).settings.control_endpoints == ()  # those were the old one's


def test_given_up_a_member_is_as_it_was(mesh: Mesh) -> None:
    mesh.begin()
    mesh.tell(mesh.b)
    mesh.b.save_handover_payload(mesh.estate())
    mesh.tell(mesh.c)
    assert set(load_local(mesh.b).preshared) == {CONTROL, C}
    mesh.registry.end_handover(now=NOW + 2)
    for state, own in ((mesh.b, B), (mesh.c, C)):
        assert mesh.tell(state)
        assert load_local(state).preshared == {CONTROL: mesh.shared[own]}
        assert state.successor_key.read() is None
        assert state.handover_payload() is None
        assert load_local(state).settings.control_endpoints != ()


def test_who_hears_of_both_changes_at_once_follows_too(mesh: Mesh) -> None:
    mesh.begin()
    mesh.tell(mesh.b)
    mesh.hand_over()
    assert mesh.tell(mesh.c)
    assert load_local(mesh.c).preshared == {B: derive_successor_preshared_key(B, mesh.shared[C])}


def both_changes(mesh: Mesh) -> None:
    """Machine-c hears of them one after the other, or from where it was cut off."""
    if mesh.registry.successor() is None:
        mesh.begin()
    mesh.tell(mesh.c)
    if mesh.registry.inventory().successor is not None:
        mesh.hand_over()
    mesh.tell(mesh.c)


def test_a_member_that_is_killed_anywhere_has_the_right_keys_all_the_time(
    another_mesh: Callable[[], Mesh], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 40):
        mesh = another_mesh()
        derived = derive_successor_preshared_key(B, mesh.shared[C])
        died = True
        with killed_at(number, monkeypatch), contextlib.suppress(Killed):
            both_changes(mesh)
            died = False
        there = load_local(mesh.c)
        control = there.inventory.control_node.public_key
        assert there.preshared[control] == {CONTROL: mesh.shared[C], B: derived}[control], number
        with mesh.c.lock():
            control_role.resume_handover(mesh.c)
        both_changes(mesh)
        assert load_local(mesh.c).inventory.control == "machine-b", number
        assert load_local(mesh.c).preshared == {B: derived}
        if not died:
            assert number > 8
            return
    pytest.fail("it never came to its end")


def test_a_successor_that_is_killed_anywhere_is_the_control_node_in_the_end(
    another_mesh: Callable[[], Mesh], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 40):
        mesh = another_mesh()
        mesh.begin()
        mesh.tell(mesh.b)
        wanted = mesh.hand_over()
        with killed_at(number, monkeypatch):
            try:
                mesh.tell(mesh.b)
            except Killed:
                died = True
            else:
                died = False
        with mesh.b.lock():
            control_role.resume_handover(mesh.b)
        mesh.tell(mesh.b)
        here = load_local(mesh.b)
        assert (here.settings.control, here.inventory) == (True, wanted), number
        assert here.preshared == {
            CONTROL: mesh.shared[B],
            C: derive_successor_preshared_key(B, mesh.shared[C]),
        }
        assert mesh.b.keys.read_signing_key().private_bytes_raw() == SIGNS.private_bytes_raw()
        left = {path.name for path in mesh.b.directory.iterdir() if not path.name.startswith(".")}
        assert left - {"mesh.db-wal", "mesh.db-shm"} == {"machine.json", "mesh.db", "signing.key"}
        if not died:
            assert number > 8
            return
    pytest.fail("it never came to its end")


def test_a_successor_without_its_estate_or_with_another_says_so_and_is_none(mesh: Mesh) -> None:
    mesh.begin()
    mesh.tell(mesh.b)
    older = mesh.estate()
    mesh.registry.end_handover(now=NOW + 2)
    mesh.begin()
    mesh.hand_over()
    mesh.b.save_handover_payload(older)
    with pytest.raises(StateUnreadable, match="is not of the mesh at revision"):
        mesh.tell(mesh.b)
    mesh.b.save_handover_payload(None)
    with pytest.raises(StateUnreadable, match=r"estate.msgpack is missing"), mesh.b.lock():
        control_role.apply_control_role(mesh.b, mesh.registry.inventory())
    assert not mesh.b.settings().control
    mesh.b.save_handover_payload(b"x")
    with pytest.raises(StateUnreadable, match="is damaged"):
        mesh.b.handover_payload()


def test_a_successor_does_not_say_that_it_holds_what_it_could_not_take_over_by(mesh: Mesh) -> None:
    mesh.begin()
    mesh.tell(mesh.b)
    held = mesh.registry.inventory()
    fits = decode_handover_data(mesh.estate())
    control_role._refuse_unfit_handover(fits, held, mesh.b)

    with contextlib.closing(sqlite3.connect(":memory:")) as newer:
        newer.deserialize(fits.registry[:18] + b"\1\1" + fits.registry[20:])
        newer.execute("PRAGMA user_version = 999")
        of_a_newer_qmesh = newer.serialize()
    another_key = Ed25519PrivateKey.generate().private_bytes_raw()
    others = (
        msgspec.structs.replace(fits, registry=of_a_newer_qmesh),
        msgspec.structs.replace(fits, registry=b""),
        msgspec.structs.replace(fits, signing_key=another_key),
    )
    for estate in others:
        with pytest.raises(EnrolmentRefused) as refused:
            control_role._refuse_unfit_handover(estate, held, mesh.b)
        assert "--cancel" in refused.value.hint

    mesh.registry.end_handover(now=NOW + 2)
    mesh.begin()
    mesh.tell(mesh.b)
    with pytest.raises(EnrolmentRefused, match="is not of the mesh at revision"):
        control_role._refuse_unfit_handover(fits, mesh.registry.inventory(), mesh.b)


@pytest.fixture
def control(mesh: Mesh, tmp_path: Path) -> State:
    """The control node's state, with a registry of its own."""
    state = State(tmp_path / "control")
    state.create_directory()
    files.write(state.registry_file, mesh.registry.copy_database())
    settings = mesh.b.settings()
    state.save_settings(
        Settings(
            mesh=MESH.mesh,
            name="control",
            control=True,
            interface=settings.interface,
            listen_port=51820,
            verification_key=settings.verification_key,
        )
    )
    return state


@pytest.mark.lab
def test_the_old_control_node_serves_on_until_it_is_a_member(control: State) -> None:
    with Registry(control.registry_file) as registry:
        registry.begin_handover("machine-b", now=NOW)
        before_it = load_local(control)
        before = before_it.inventory
        registry.record_progress(
            HandoverProgress(holds=registry.last_event_number(), silent=()), sender="10.77.0.2", now=NOW
        )
        registry.complete_handover("machine-b", now=NOW)
    assert not before_it.has_handed_over
    here = load_local(control)
    after = here.inventory
    assert (after.control, after.successor) == (before.control, before.successor) == ("control", "machine-b")
    assert after.revision == before.revision + 1
    assert here.has_handed_over
    with pytest.raises(BadInput, match="machine-b is the control node now"):
        make_backup(control, None)
    # Where nobody answers it any more, an invitation for its place makes it a member.
    assert is_member(control, None)
    assert not is_member(control, "an invitation")


@pytest.mark.lab
def test_what_is_missing_since_the_role_has_passed_is_no_trouble(control: State) -> None:
    """The agent looks with what it knew before; its registry is gone by then."""
    here = load_local(control)
    assert control_role.is_role_unchanged(control, here)
    control.save_settings(msgspec.structs.replace(control.settings(), control=False))
    assert not control_role.is_role_unchanged(control, here)
    (control.directory / "machine.json").write_text("{")
    assert control_role.is_role_unchanged(control, here), "what cannot be read is a trouble"


def test_who_reads_while_the_role_passes_on_sees_what_is_so_then(
    control: State, mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have no lock, and the settings are what they read first."""
    control.keys.save_signing_key(SIGNS.private_bytes_raw())
    mesh.begin()
    mesh.tell(mesh.b)
    before = [control.settings(), mesh.b.settings()]
    signed = sign_membership(mesh.hand_over(), SIGNS)
    shared = load_local(control).preshared[B]
    control_role.become_member(control, control_role.NewControlAnswer("machine-b", signed, shared))
    mesh.tell(mesh.b)
    read = State.settings
    monkeypatch.setattr(State, "settings", lambda self: before.pop(0) if before else read(self))

    for state, is_control in ((control, False), (mesh.b, True)):
        here = load_local(state)
        assert here.settings.control is is_control
        assert here.inventory.control == "machine-b"

    state.registry_file.unlink()
    with pytest.raises(StateUnreadable, match="is missing"):
        load_local(state)


def test_who_was_the_control_node_tells_a_removed_machine_so_wherever_it_is_killed(
    control: State, mesh: Mesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # That was away meanwhile, and knows no other key and endpoint than this machine's.
    shared = Secret(base64.b64encode(bytes(32)).decode())
    gone = RetiredKey(machine="d", public_key=key(9), preshared_key=shared, reason="removed", at=NOW)
    control.keys.save_signing_key(SIGNS.private_bytes_raw())
    earlier = msgspec.structs.replace(gone, machine="e", public_key=key(8))
    control.retired_keys.write(RetiredKeys((earlier,)))  # of when it was the control node before
    with contextlib.closing(sqlite3.connect(control.registry_file, isolation_level=None)) as connection:
        row = (gone.machine, gone.public_key, shared.reveal(), gone.reason, gone.at)
        connection.execute("INSERT INTO retired_keys VALUES (NULL, ?, ?, ?, ?, ?)", row)
    assert load_local(control).retired == (earlier, gone)
    mesh.begin()
    answered = control_role.NewControlAnswer("machine-b", sign_membership(mesh.hand_over(), SIGNS), shared)
    verifies = SIGNS.public_key().public_bytes_raw()
    for number in range(1, 40):
        state = State(shutil.copytree(control.directory, tmp_path / str(number)))
        died = True
        with killed_at(number, monkeypatch), contextlib.suppress(Killed):
            control_role.become_member(state, answered)
            died = False
        with state.lock():
            control_role.resume_handover(state)
        control_role.become_member(state, answered)
        left = {path.name for path in state.directory.iterdir() if not path.name.startswith(".")}
        assert left == {"machine.json", "membership.json", "preshared.key", "retired.json"}, number
        known = load_local(state).retired
        assert [each.public_key for each in known] == [key(8), key(9)]
        for each in known:
            packet = build_notice(each, MESH.mesh, source="10.77.0.1", nonce=bytes(12))
            said = read_notice(packet, each.public_key, shared, verifies, mesh=MESH.mesh)
            assert said is not None
            assert (said.machine, said.reason) == (each.machine, "removed")
        if not died:
            assert number > 6
            state.remove_mesh_state(keep_private_key=False)
            assert state.retired_keys.read() is None
            return
    pytest.fail("it never came to its end")


def test_a_command_that_is_cut_off_gives_up_no_handover_that_another_began_meanwhile(control: State) -> None:
    with Registry(control.registry_file) as registry:
        registry.begin_handover("machine-b", now=NOW)
        registry.end_handover(now=NOW + 1)
        registry.change_mesh(
            lambda mesh: set_endpoints(mesh, "machine-c", [Endpoint("203.0.113.3", 51820)]),
            command="set",
            what="machine-changed",
            machine="machine-c",
            now=NOW + 1,
        )
        registry.begin_handover("machine-c", now=NOW + 2)
        handover._abort_handover(control, registry, "machine-b")
        assert registry.successor() == "machine-c"
        handover._abort_handover(control, registry, "machine-c")
        assert registry.successor() is None


def test_an_invitation_ends_what_was_to_be_shared(mesh: Mesh) -> None:
    """Who was left behind has a key with the new control node that is past once it joins anew."""
    mesh.c.successor_key.write(SuccessorKey(B, Secret(key(5))))
    mesh.c.keys.save_preshared_key(Secret(key(6)))
    assert mesh.c.successor_key.read() is None
