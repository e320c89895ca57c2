"""What members report of their node's keys, and what the control node's agent makes of it: in files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from qmesh.agent.local import Local, load_local
from qmesh.agent.node import identity_files, node_keys
from qmesh.agent.node.node_keys import KeyComparer, KeyReporter, list_other_keys
from qmesh.host.registry import Registry
from qmesh.host.state.directory import State
from qmesh.host.state.documents import Settings
from qmesh.mesh.changes import pause_machine
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.mesh_options import MeshOptions, set_mesh_options
from qmesh.mesh.protocol.key_digests import (
    NODE_KEYS,
    KeyDigests,
    NodeIdentity,
    compute_digests,
    decrypt_digests,
    encrypt_digests,
)
from qmesh.mesh.values import Secret
from tests.support.factories import key
from tests.support.node_identity import ENCRYPTION_KEY, IDENTITY, KEY_STORE, PEER_KEY, SECRETS
from tests.support.registries import MESH, NOW, invite, message, redeem

PEER, ENCRYPTION, STORE = NODE_KEYS
B, C = "10.77.0.2", "10.77.0.3"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look is due, and what was written has settled."""
    monkeypatch.setattr(identity_files, "SETTLED_S", 0.0)
    for name in ("LOOK_S", "COMPARE_S", "REST"):
        monkeypatch.setattr(node_keys, name, 0)


class Files:
    """A node's directory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.path = directory
        self.write(IDENTITY.replace(".config/keys.yml", str(directory / "keys.yml")), KEY_STORE)

    def write(self, config: str | None = None, key_store: str | None = None) -> None:
        for name, text in (("config.yml", config), ("keys.yml", key_store)):
            if text is not None:
                (self.path / name).write_text(text)

    def with_other(self, old: str, new: str) -> None:
        self.write((self.path / "config.yml").read_text().replace(old, new))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "node")


@pytest.fixture
def control(tmp_path: Path, files: Files) -> State:
    """A control node with machine-b and machine-c, and a node 2.1."""
    state = State(tmp_path / "state")
    state.create_directory()
    mesh = msgspec.structs.replace(MESH, node="2.1", base_port=32500, p2p_base_port=25000)
    Registry.create(state.registry_file, mesh, now=NOW)
    state.save_settings(
        Settings(
            mesh=mesh.mesh,
            name="control",
            control=True,
            interface="qmesh0",
            listen_port=51820,
            verification_key=bytes(32),
            config_directory=str(files.path),
            config_owner=os.geteuid(),
        )
    )
    with Registry(state.registry_file) as registry:
        for number, name in enumerate(("machine-b", "machine-c"), 1):
            redeem(registry, invite(registry, name), key(number))
    return state


def shared_key(state: State, address: str = B) -> Secret:
    with Registry(state.registry_file) as registry:
        return registry.find_preshared_key(address)


def report(state: State, address: str = B, **values: bytes | None) -> dict[str, bytes]:
    """What a member says whose keys are the control node's, but for these."""
    from qmesh.mesh.node_keys.key_store import read_identity  # noqa: PLC0415

    same = read_identity(IDENTITY, KEY_STORE.encode())
    identity = NodeIdentity(
        peer_key=values.get("peer_key", same.peer_key),
        encryption_key=values.get("encryption_key", same.encryption_key),
        key_store=values.get("key_store", same.key_store),
    )
    shared = shared_key(state, address)
    return {address: encrypt_digests(compute_digests(identity, shared), shared)}


class Told(dict[str, bytes]):
    """Reports that wait to be taken."""

    def take(self) -> Mapping[str, bytes]:
        taken = dict(self)
        self.clear()
        return taken


def differing(state: State) -> dict[str, tuple[str, ...]]:
    return {each.machine: each.keys for each in list_other_keys(state, load_local(state))}


def change(state: State, after: object) -> None:
    with Registry(state.registry_file) as registry:
        registry.change_mesh(after, command="set", what="mesh-changed", machine="control", now=NOW)  # type: ignore[arg-type]


def test_n1_machines_with_other_keys_are_remembered_by_name_and_key_and_nothing_of_a_secret(
    control: State, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told()
    comparer = KeyComparer(control, take_reports=told.take)
    told.update(report(control))
    comparer.look(load_local(control))
    assert differing(control) == {}
    assert not control.key_differences.exists()
    told.update(report(control, peer_key=b"ab") | report(control, C, key_store=None))
    comparer.look(load_local(control))
    assert differing(control) == {"machine-b": (PEER,), "machine-c": (STORE,)}
    assert "machine-b has another p2p.peerPrivKey than this machine" in caplog.text
    assert "qmesh set machine-b --node-files on; then on machine-b: qmesh node-files" in caplog.text
    since = control.key_differences.read()
    comparer.look(load_local(control))
    told.update(report(control, peer_key=b"ab", encryption_key=b"cd"))
    comparer.look(load_local(control))
    assert differing(control)["machine-b"] == (PEER, ENCRYPTION)
    again = control.key_differences.read()
    assert since is not None
    assert again is not None
    assert {name: each.since for name, each in since.machines.items()} == {
        name: each.since for name, each in again.machines.items()
    }
    said = control.key_differences.path.read_text() + caplog.text
    assert not any(secret in said for secret in SECRETS)
    # Another process of the agent goes on from there.
    comparer = KeyComparer(control, take_reports=told.take)
    told.update(report(control))
    comparer.look(load_local(control))
    assert differing(control) == {"machine-c": (STORE,)}


def test_n1_what_is_not_of_a_members_root_counts_for_nothing(control: State) -> None:
    told = Told()
    comparer = KeyComparer(control, take_reports=told.take)
    told.update(report(control, peer_key=b"ab"))
    comparer.look(load_local(control))
    other = encrypt_digests(KeyDigests(None, None, None), Secret(key(77)))
    for sealed in (b"", b"x" * 100, other):
        told.update({B: sealed, "10.77.0.99": sealed})
        comparer.look(load_local(control))
        assert differing(control) == {"machine-b": (PEER,)}


def test_n1_another_file_of_the_control_node_is_compared_with_what_was_said(
    control: State, files: Files
) -> None:
    told = Told()
    comparer = KeyComparer(control, take_reports=told.take)
    told.update(report(control) | report(control, C))
    comparer.look(load_local(control))
    files.write(key_store=KEY_STORE.replace("aabb", "aabc"))
    comparer.look(load_local(control))
    assert differing(control) == {"machine-b": (STORE,), "machine-c": (STORE,)}
    files.write(key_store="# mine\n" + KEY_STORE)
    comparer.look(load_local(control))
    assert differing(control) == {}
    # What is wrong with its own files is no machine's fault.
    for text in ("- x\n", ""):
        files.write(key_store=text)
        comparer.look(load_local(control))
    files.write(config="a: [")
    comparer.look(load_local(control))
    assert differing(control) == {}


def test_n1_nothing_is_said_of_machines_without_workers_nor_of_a_node_that_needs_no_keys(
    control: State,
) -> None:
    told = Told()
    comparer = KeyComparer(control, take_reports=told.take)
    told.update(report(control, peer_key=b"ab") | report(control, C, key_store=None))
    comparer.look(load_local(control))
    change(control, lambda mesh: pause_machine(mesh, "machine-b"))
    assert differing(control) == {"machine-c": (STORE,)}
    comparer.look(load_local(control))
    assert differing(control) == {"machine-c": (STORE,)}
    change(control, lambda mesh: set_mesh_options(mesh, MeshOptions(node="1.4")))
    comparer.look(load_local(control))
    assert differing(control) == {}


def test_n1_nothing_is_said_of_a_machine_that_took_the_place_of_another(control: State) -> None:
    """As one with an older qmesh, which reports nothing: what the one before it said is not its word."""
    told = Told()
    comparer = KeyComparer(control, take_reports=told.take)
    told.update(report(control, key_store=None))
    comparer.look(load_local(control))
    assert differing(control) == {"machine-b": (STORE,)}
    with Registry(control.registry_file) as registry:
        issued = registry.invite(
            "machine-b", workers=None, endpoint=None, expires_at=NOW + 99, now=NOW, replace=True
        )
        registry.redeem(message(issued, key(8)), sender=issued.from_address, now=NOW)
    comparer.look(load_local(control))
    assert differing(control) == {}
    told.update(report(control, peer_key=b"ab"))
    comparer.look(load_local(control))
    assert differing(control) == {"machine-b": (PEER,)}


def as_member(control: State, files: Files | None, *, node: str = "2.1") -> Local:
    """machine-b, as it knows itself."""
    here = load_local(control)
    p2p = None if node == "1.4" else 25000
    mesh: Inventory = msgspec.structs.replace(here.inventory, node=node, p2p_base_port=p2p)
    settings = msgspec.structs.replace(
        here.settings,
        name="machine-b",
        control=False,
        config_directory=None if files is None else str(files.path),
        config_owner=os.geteuid(),
        up=False,
    )
    return Local(settings, mesh, {mesh.control_node.public_key: shared_key(control)})


def reported(control: State, reporter: KeyReporter) -> KeyDigests | None:
    hub = load_local(control).inventory.control_node.public_key
    sealed = reporter.reports.get(hub, b"")
    return decrypt_digests(sealed, shared_key(control)) if sealed else None


def test_n1_a_member_reports_what_its_files_have_and_compares_equal(control: State, files: Files) -> None:
    reporter, told = KeyReporter(), Told()
    comparer = KeyComparer(control, take_reports=told.take)
    here = as_member(control, files)
    hub = here.inventory.control_node.public_key
    assert reported(control, reporter) is None
    reporter.look(here)
    first = reporter.reports.get(hub, b"")
    assert not any(secret.encode() in first for secret in SECRETS)
    reporter.look(here)
    assert reporter.reports.get(hub, b"") == first
    told[B] = first
    comparer.look(load_local(control))
    assert differing(control) == {}


@pytest.mark.parametrize(
    ("old", "new", "missing"),
    [
        (PEER_KEY, "ab" * 114, ()),
        (PEER_KEY, "''", (PEER,)),
        (ENCRYPTION_KEY, "", (ENCRYPTION,)),
        ("keys.yml", "none.yml", (STORE,)),
    ],
)
def test_n1_a_member_reports_what_changes(
    control: State, files: Files, old: str, new: str, missing: tuple[str, ...]
) -> None:
    reporter = KeyReporter()
    here = as_member(control, files)
    reporter.look(here)
    before = reported(control, reporter)
    files.with_other(old, new)
    reporter.look(here)
    after = reported(control, reporter)
    assert before is not None
    assert after is not None
    assert before != after
    assert (
        tuple(name for name, value in zip(NODE_KEYS, after.values, strict=True) if value is None) == missing
    )


def test_n1_a_member_reports_nothing_where_there_is_nothing_to_report(control: State, files: Files) -> None:
    reporter = KeyReporter()
    reporter.look(as_member(control, files))
    assert reported(control, reporter) is not None
    for here in (
        as_member(control, None),
        as_member(control, files, node="1.4"),
        load_local(control),
    ):
        reporter.look(here)
        assert reported(control, reporter) is None
        reporter.look(as_member(control, files))
    files.write(config="a: [")
    reporter.look(as_member(control, files))
    assert reported(control, reporter) is None
    (files.path / "config.yml").unlink()
    reporter.look(as_member(control, files))
    assert reported(control, reporter) is None


def test_n1_a_file_that_is_being_written_is_looked_at_later(
    control: State, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    reporter = KeyReporter()
    monkeypatch.setattr(identity_files, "SETTLED_S", 3600.0)
    reporter.look(as_member(control, files))
    assert reported(control, reporter) is None
    monkeypatch.setattr(identity_files, "SETTLED_S", 0.0)
    reporter.look(as_member(control, files))
    assert reported(control, reporter) is not None
