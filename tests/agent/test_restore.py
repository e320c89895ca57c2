"""A restore that is killed between any two writes, and what it does and does not do to a state directory."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qmesh.agent.backup_contents import parse_contents
from qmesh.agent.commands import restore
from qmesh.agent.commands.backup import make_backup, record_backup
from qmesh.agent.commands.invite import InviteOptions as Invited
from qmesh.agent.commands.invite import invite
from qmesh.agent.commands.join import online
from qmesh.agent.commands.join.steps import JoinOptions
from qmesh.agent.commands.set import set_machine, set_metrics
from qmesh.agent.local import load_local
from qmesh.cli.output_file import refuse_output_file
from qmesh.errors import BadInput, QmeshError, StateUnreadable
from qmesh.host import files
from qmesh.host.config_directory import ConfigDirectory
from qmesh.host.registry import Registry
from qmesh.host.state.directory import State
from qmesh.host.state.documents import LastBackup
from qmesh.mesh.links.retirement import RetiredKey, RetiredKeys
from qmesh.mesh.protocol import backup_file
from qmesh.mesh.protocol.backup_file import MAGIC, decode_backup, encode_backup
from qmesh.mesh.values import REVISION_JUMP, Secret
from tests.support.control_node import make_control_node
from tests.support.factories import key

pytestmark = [pytest.mark.lab]

WISH = restore.RestoreOptions(endpoints=(), config=None)
CALLS = ("open", "write", "fsync", "rename", "replace", "unlink", "mkdir", "chmod")
"""Of the system, by which anything becomes durable or visible."""


@pytest.fixture(autouse=True)
def quick_key(monkeypatch):
    """A passphrase costs nothing: what it does else is in tests/mesh/test_backup_file.py."""
    monkeypatch.setattr(backup_file, "_SCRYPT_N", 2)


RETIRED = RetiredKey(
    machine="d",
    public_key=key(9),
    preshared_key=Secret(base64.b64encode(bytes(32)).decode()),
    reason="removed",
    at=1_800_000_000,
)


def made(directory: Path) -> State:
    """A control node's state, its tunnel never up; machine-b is invited."""
    state = State(directory)
    make_control_node(state, node="2.0")
    invite(state, Invited(name="machine-b", workers=4, endpoint=None, expires="24h"))
    state.retired_keys.write(RetiredKeys((RETIRED,)))
    return state


def restored(state: State, octets: bytes, **wish: Any) -> restore.RestoreResult:
    return restore.restore(state, octets, None, msgspec.structs.replace(WISH, **wish), apply=False)


def what_counts(state: State) -> dict[str, object]:
    """Of a state directory, all but the times in it."""
    with Registry(state.registry_file) as registry:
        events = [(each.command, each.what, each.machine, each.revision) for each in registry.events()]
        mesh = registry.inventory()
    with contextlib.closing(sqlite3.connect(state.registry_file)) as connection:
        invitations = connection.execute("SELECT outcome, secret FROM invitations").fetchall()
    here = load_local(state)
    return {
        "settings": here.settings,
        "mesh": mesh,
        "events": events,
        "invitations": invitations,
        "key": state.keys.read_private_key(),
        "signing": state.keys.read_signing_key().private_bytes_raw(),
        "retired": state.retired_keys.read(),
        "files": {path.name: path.stat().st_mode & 0o777 for path in state.directory.iterdir()},
    }


def killed_at(number: int, state: State, octets: bytes) -> bool:
    """Restore in a process that is killed at that call of the system; whether it came so far."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            left = iter(range(number))

            def counted(call: Any) -> Any:
                def instead(*arguments: Any, **options: Any) -> Any:
                    if next(left, None) is None:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return call(*arguments, **options)

                return instead

            for name in CALLS:
                setattr(os, name, counted(getattr(os, name)))
            restored(state, octets)
            os._exit(0)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert status in {0, signal.SIGKILL}
    return status == signal.SIGKILL


def in_turn(tmp_path: Path) -> Iterator[tuple[int, State]]:
    for number in range(500):
        yield number, State(tmp_path / str(number))


def test_e4_killed_at_any_write_the_same_restore_again_succeeds(own_machine, tmp_path):
    octets, _ = make_backup(made(tmp_path / "old"), None)
    whole = State(tmp_path / "whole")
    restored(whole, octets)
    wanted = what_counts(whole)
    assert wanted["retired"] == RetiredKeys((RETIRED,)), "a removed machine that was away is still told"
    seen: set[tuple[str, ...]] = set()
    for number, state in in_turn(tmp_path):
        if not killed_at(number, state, octets):
            break
        left = state.directory.iterdir() if state.directory.exists() else ()
        seen.add(tuple(sorted(path.name for path in left if not path.name.startswith("."))))
        is_member = (state.directory / "machine.json").exists()
        assert not is_member or load_local(state).inventory == wanted["mesh"]
        if not is_member:
            with pytest.raises(QmeshError):
                load_local(state)
        restored(state, octets)
        found = what_counts(state)
        for rest in [name for name in found["files"] if name.startswith(".")]:  # type: ignore[attr-defined]
            del found["files"][rest]  # type: ignore[attr-defined]
        assert found == wanted, number
    else:
        pytest.fail("it never came to its end")
    # It was killed before, between and after all of them.
    keys = ("private.key", "restored.json")
    assert seen >= {
        (),
        ("restored.json",),
        keys,
        (*keys, "signing.key"),
        ("mesh.db", *keys, "retired.json", "signing.key"),
        ("machine.json", "mesh.db", *keys, "retired.json", "signing.key"),
    }


def test_what_was_cut_off_is_no_start_for_another_mesh(own_machine, tmp_path):
    octets, _ = make_backup(made(tmp_path / "old"), None)
    for number, state in in_turn(tmp_path):
        killed_at(number, state, octets)
        if (state.directory / "signing.key").exists():
            break
    else:
        pytest.fail("it never wrote the key")
    with pytest.raises(StateUnreadable, match="was interrupted"):
        made(state.directory)
    invitation = invite(State(tmp_path / "old"), Invited(name="x", workers=1, endpoint=None, expires="1h"))
    wish = JoinOptions(endpoint=None, config=None, listen_port=None, interface=None)
    with pytest.raises(StateUnreadable, match="was interrupted"):
        online.join(state, invitation.text(), wish, apply=False)
    other, _ = make_backup(made(tmp_path / "other"), None)
    assert restored(state, other).mesh == load_local(State(tmp_path / "other")).inventory.mesh


def test_e3_what_was_open_is_withdrawn_and_its_secret_is_in_no_octet(own_machine, tmp_path):
    state = made(tmp_path / "old")
    with contextlib.closing(sqlite3.connect(state.registry_file)) as connection:
        [(secret,)] = connection.execute("SELECT secret FROM invitations").fetchall()
        [(shared,)] = connection.execute(
            "SELECT preshared_key FROM machines WHERE preshared_key IS NOT NULL"
        ).fetchall()
    octets, taken = make_backup(state, None)
    assert taken.withdrawn == ("machine-b",)
    assert secret not in octets
    assert shared.encode() not in octets
    key = state.keys.read_private_key()
    assert key is not None
    assert key.reveal().encode() in octets  # a secret would be found
    again = State(tmp_path / "new")
    assert restored(again, octets).withdrawn == ("machine-b",)
    facts = what_counts(again)
    assert facts["invitations"] == [("withdrawn", None)]
    assert facts["events"] == [
        ("init", "mesh-made", "control", 1),
        ("invite", "invited", "machine-b", 1),
        ("backup", "invitation-withdrawn", "machine-b", 1),
        ("restore", "restored", "control", 1 + REVISION_JUMP),
    ]
    # In the mesh that goes on, nothing was withdrawn.
    with contextlib.closing(sqlite3.connect(state.registry_file)) as connection:
        assert connection.execute("SELECT outcome FROM invitations").fetchall() == [("open",)]


def test_e3_of_what_was_deleted_before_there_is_no_octet(own_machine, tmp_path):
    state = made(tmp_path / "old")
    with contextlib.closing(sqlite3.connect(state.registry_file, isolation_level=None)) as connection:
        connection.execute("PRAGMA secure_delete = OFF")
        row = (1, "burnt secret " * 1000, "", 1)
        connection.execute("INSERT INTO events (at, command, what, revision) VALUES (?, ?, ?, ?)", row)
        connection.execute("DELETE FROM events WHERE command LIKE 'burnt%'")
    assert b"burnt secret" in state.registry_file.read_bytes()
    assert b"burnt secret" not in make_backup(state, None)[0]


def test_what_was_committed_a_moment_ago_is_in_it(own_machine, tmp_path):
    state = made(tmp_path / "old")
    with Registry(state.registry_file) as held:  # as the agent does, so that it is in SQLite's log only
        set_machine(state, "control", workers=5, endpoints=None)
        found = parse_contents(decode_backup(make_backup(state, None)[0], None)).inventory
        assert (found.revision, found.control_node.workers) == (held.revision(), 5) == (2, 5)


def test_a_sealed_backup_takes_its_passphrase(own_machine, tmp_path):
    octets, taken = make_backup(made(tmp_path / "old"), b"correct horse")
    assert taken.encrypted
    new = State(tmp_path / "new")
    for passphrase in (None, b"wrong"):
        with pytest.raises(BadInput, match="passphrase"):
            restore.restore(new, octets, passphrase, WISH, apply=False)
    assert not new.directory.exists()
    restore.restore(new, octets, b"correct horse", WISH, apply=False)
    assert load_local(new).inventory.revision == 1 + REVISION_JUMP


def test_a_plain_backup_in_the_place_of_a_sealed_one_is_refused(own_machine, tmp_path):
    swapped, _ = make_backup(made(tmp_path / "mallorys"), None)
    with pytest.raises(BadInput, match="not encrypted, though a passphrase was given"):
        restore.restore(State(tmp_path / "new"), swapped, b"correct horse", WISH, apply=False)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("passphrase", [None, b"correct horse"])
def test_what_is_to_be_restored_is_shown_before_anything_is_written(own_machine, tmp_path, passphrase):
    state, new = made(tmp_path / "old"), State(tmp_path / "new")
    octets, taken = make_backup(state, passphrase)
    shown: list[restore.BackupSummary] = []

    def refuse(offered: restore.BackupSummary) -> None:
        assert not new.directory.exists()
        shown.append(offered)
        raise BadInput("no", hint="")

    with pytest.raises(BadInput, match="no"):
        restore.restore(new, octets, passphrase, WISH, apply=False, agree=refuse)
    assert not new.directory.exists()
    (offered,) = shown
    here = load_local(state)
    assert (offered.mesh, offered.name, offered.public_key, offered.machines, offered.revision) == (
        *(here.inventory.mesh, "control", here.machine.public_key, ("control",), 1),
    )
    assert (offered.taken_at, offered.encrypted) == (taken.taken_at, passphrase is not None)
    assert 0 <= offered.age_s < 3600


def test_a_backup_that_could_not_be_restored_is_not_made(own_machine, tmp_path, monkeypatch):
    state = made(tmp_path / "old")
    whole, _ = make_backup(state, None)
    with monkeypatch.context() as less:
        less.setattr(files, "MAX_OCTETS", len(whole) - 1)
        with pytest.raises(StateUnreadable, match="larger than a backup can be"):
            make_backup(state, None)
    with contextlib.closing(sqlite3.connect(state.registry_file)) as connection, connection:
        connection.execute("UPDATE events SET at = ? WHERE number = 1", (2**62,))
    for passphrase in (None, b"correct horse"):
        with pytest.raises(StateUnreadable):
            make_backup(state, passphrase)


def test_when_the_last_backup_was_is_remembered_and_goes_with_the_state(own_machine, tmp_path):
    state = made(tmp_path / "old")
    assert state.last_backup.read() is None
    _, taken = make_backup(state, None)
    assert state.last_backup.read() is None  # it is not written yet
    record_backup(state, taken)
    assert state.last_backup.read() == LastBackup(at=taken.taken_at, revision=1)
    state.remove_mesh_state(keep_private_key=True)
    assert state.last_backup.read() is None


def test_endpoints_and_config_directory_are_the_new_machines(own_machine, tmp_path):
    octets, _ = make_backup(made(tmp_path / "old"), None)
    (tmp_path / ".config").mkdir()
    new = State(tmp_path / "new")
    done = restored(
        new, octets, endpoints=("198.51.100.7", "control.example:5000"), config=tmp_path / ".config"
    )
    assert [str(each) for each in done.endpoints] == ["198.51.100.7:51820", "control.example:5000"]
    assert done.endpoints == load_local(new).machine.endpoints
    assert load_local(new).settings.config_directory == str(tmp_path / ".config")
    assert done.revision == 1 + REVISION_JUMP
    again = restored(State(tmp_path / "third"), octets, jump=2 * REVISION_JUMP)
    assert again.revision == 1 + 2 * REVISION_JUMP


def test_where_the_metrics_go_is_in_the_backup(own_machine, tmp_path):
    state, again = made(tmp_path / "old"), State(tmp_path / "new")
    set_metrics(state, place="10.77.0.1:9586", directory="/var/lib/node_exporter")
    octets, _ = make_backup(state, None)
    restore.restore(again, octets, None, WISH, apply=False)
    settings = again.settings()
    assert (str(settings.metrics), settings.metrics_directory) == ("10.77.0.1:9586", "/var/lib/node_exporter")


@pytest.mark.parametrize(("owner", "is_kept"), [(1001, True), (1002, False), (0, False)])
def test_a_directory_of_the_backups_is_kept_only_where_it_is_the_same_users(
    own_machine, tmp_path, owner, is_kept
):
    config = tmp_path / ".config"
    config.mkdir()
    os.chown(config, 1001, 1001)
    old = made(tmp_path / "old")
    old.save_settings(old.settings().with_node_directory(ConfigDirectory(config, 1001)))
    octets, _ = make_backup(old, None)
    os.chown(config, owner, owner)
    new = State(tmp_path / "new")
    restored(new, octets)
    assert new.settings().node_directory == (ConfigDirectory(config, 1001) if is_kept else None)


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"endpoints": ("10.77.0.9",)}, "10.77.0.9"),
        ({"endpoints": ("no host",)}, "no host"),
        ({"jump": REVISION_JUMP - 1}, "jump"),
        ({"jump": 10**12}, "jump"),
        ({"config": Path("/nowhere")}, "no directory"),
    ],
)
def test_what_cannot_be_is_refused_with_nothing_written(own_machine, tmp_path, wish, said):
    octets, _ = make_backup(made(tmp_path / "old"), None)
    with pytest.raises(BadInput, match=said):
        restored(State(tmp_path / "new"), octets, **wish)
    assert not (tmp_path / "new").exists()


def test_a_machine_that_has_a_mesh_or_keys_is_never_overwritten(own_machine, tmp_path):
    state = made(tmp_path / "old")
    octets, _ = make_backup(state, None)
    before = what_counts(state)
    with pytest.raises(BadInput, match="already"):
        restored(state, octets)
    (state.directory / "machine.json").rename(tmp_path / "machine.json")
    with pytest.raises(StateUnreadable, match="keys or a mesh"):
        restored(state, octets)
    (tmp_path / "machine.json").rename(state.directory / "machine.json")
    assert what_counts(state) == before
    fresh = State(tmp_path / "fresh")
    fresh.create_directory()
    key = fresh.keys.ensure_private_key()
    with pytest.raises(StateUnreadable, match="keys or a mesh"):
        restored(fresh, octets)
    assert fresh.keys.read_private_key() == key
    other, _ = make_backup(made(tmp_path / "other"), None)
    done = State(tmp_path / "new")
    restored(done, octets)
    set_machine(done, "control", workers=5, endpoints=None)
    before = what_counts(done)
    with pytest.raises(BadInput, match="already"):
        restored(done, other)
    with pytest.raises(BadInput, match="--endpoint"):
        restored(done, octets, endpoints=("192.0.2.9",))
    assert restored(done, octets).revision == 2 + REVISION_JUMP
    assert what_counts(done) == before
    (done.directory / "machine.json").unlink()
    with pytest.raises(StateUnreadable, match="keys or a mesh"):
        restored(done, octets)


def test_a_mesh_that_went_on_after_a_restore_cut_off_is_never_overwritten(own_machine, tmp_path):
    octets, _ = make_backup(made(tmp_path / "old"), None)
    for number, state in in_turn(tmp_path):
        killed_at(number, state, octets)
        if (state.directory / "machine.json").exists():
            break
    else:
        pytest.fail("it never came so far")
    set_machine(state, "control", workers=5, endpoints=None)
    (state.directory / "machine.json").unlink()
    with pytest.raises(StateUnreadable, match="keys or a mesh"):
        restored(state, octets)
    with Registry(state.registry_file) as registry:
        assert registry.revision() == 2 + REVISION_JUMP


def versioned(image: bytes, version: int) -> bytes:
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.deserialize(image[:18] + b"\1\1" + image[20:])
        connection.execute(f"PRAGMA user_version = {version}")
        return connection.serialize()


def test_a_newer_registry_is_refused(own_machine, tmp_path):
    backup = decode_backup(make_backup(made(tmp_path / "old"), None)[0], None)
    newer = encode_backup(msgspec.structs.replace(backup, registry=versioned(backup.registry, 99)), None)
    with pytest.raises(BadInput, match="newer qmesh"):
        restored(State(tmp_path / "new"), newer)
    assert not (tmp_path / "new").exists()


def test_what_does_not_belong_together_is_refused_with_nothing_written(own_machine, tmp_path):
    backup = decode_backup(make_backup(made(tmp_path / "old"), None)[0], None)
    other = decode_backup(make_backup(made(tmp_path / "other"), None)[0], None)
    settings = json.loads(backup.settings)
    altered: list[dict[str, Any]] = [
        {name: getattr(other, name)} for name in ("private_key", "signing_key", "registry", "settings")
    ]
    altered += [
        {"settings": json.dumps(settings | change).encode()}
        for change in (
            {"control": False},
            {"name": "machine-b"},
            {"unheard-of": 1},
            {"listen_port": "x"},
            {"mtu": -5},
            {"interface": "../x"},
            {"config_directory": "/\0"},
            {"verification_key": ""},
        )
    ]
    altered += [{"settings": b""}, {"registry": b""}, {"registry": bytes(9000)}]
    altered += [{"registry": backup.registry[:8192]}, {"private_key": "none"}, {"signing_key": b"x"}]
    for change in altered:
        octets = encode_backup(msgspec.structs.replace(backup, **change), None)
        with pytest.raises(BadInput):
            restored(State(tmp_path / "new"), octets)
    assert not (tmp_path / "new").exists()


def test_a_clock_that_is_behind_the_backup_is_said(own_machine, tmp_path, caplog):
    caplog.set_level(logging.INFO, "qmesh")
    backup = decode_backup(make_backup(made(tmp_path / "old"), None)[0], None)
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("qmesh").addHandler(handler)
    for taken_at, name in ((2**39, "ahead"), (1, "behind")):
        octets = encode_backup(msgspec.structs.replace(backup, taken_at=taken_at), None)
        assert (restored(State(tmp_path / name), octets).age_s == 0) == (name == "ahead")
        assert any("clock" in line for line in said) == (name == "ahead")
        said.clear()


def test_a_damaged_control_node_gives_no_backup(own_machine, tmp_path):
    state = made(tmp_path / "old")
    for path, octets in ((state.keys.signing_file, os.urandom(32)), (state.keys.private_file, None)):
        kept = path.read_bytes()
        path.unlink()
        if octets is not None:
            files.write(path, octets)
        with pytest.raises(StateUnreadable):
            make_backup(state, None)
        files.write(path, kept)
    assert make_backup(state, None)[1].machines == 1


def test_it_is_of_one_moment_whatever_is_written_meanwhile(own_machine, tmp_path):
    state = made(tmp_path / "old")
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            for number in range(100000):
                with Registry(state.registry_file) as registry:
                    registry.invite(f"m{number % 50}", workers=1, endpoint=None, expires_at=2**40, now=number)
        os._exit(1)
    try:
        seen: set[int] = set()
        while len(seen) < 4:  # the other one does write meanwhile: each invitation is an event more
            assert os.waitpid(child, os.WNOHANG) == (0, 0)
            found = parse_contents(decode_backup(make_backup(state, None)[0], None))
            assert [each.name for each in found.inventory.machines] == ["control"]
            seen.add(len(found.backup.registry))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_only_a_backup_is_replaced_by_one(tmp_path):
    refuse_output_file(tmp_path / "new", begins=MAGIC, what="backup")
    for name, octets in (("empty", b""), ("old", MAGIC + bytes(40))):
        (tmp_path / name).write_bytes(octets)
        refuse_output_file(tmp_path / name, begins=MAGIC, what="backup")
    (tmp_path / "theirs").write_bytes(b"notes")
    (tmp_path / "link").symlink_to(tmp_path / "old")
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe")
    for name in ("theirs", "link", "dangling", "pipe", ".", "none/file"):
        with pytest.raises(BadInput):
            refuse_output_file(tmp_path / name, begins=MAGIC, what="backup")


def test_a_rest_of_sqlites_beside_an_earlier_registry_is_not_read_into_the_restored_one(
    own_machine, tmp_path
):
    octets, _ = make_backup(made(tmp_path / "old"), None)
    new = State(tmp_path / "new")
    restored(new, octets)
    other = made(tmp_path / "other")
    with Registry(other.registry_file) as registry:
        set_machine(other, "control", workers=5, endpoints=None)
        for end in ("-wal", "-shm"):
            beside = other.registry_file.with_name("mesh.db" + end).read_bytes()
            (tmp_path / f"third{end}").write_bytes(beside)
        assert registry.revision() == 2
    for number, third in in_turn(tmp_path / "third"):
        third.directory.parent.mkdir(exist_ok=True)
        assert killed_at(number, third, octets)
        if (third.directory / "signing.key").exists():
            break
    for end in ("-wal", "-shm"):
        (third.directory / f"mesh.db{end}").write_bytes((tmp_path / f"third{end}").read_bytes())
    restored(third, octets)
    assert load_local(third).inventory == load_local(new).inventory
