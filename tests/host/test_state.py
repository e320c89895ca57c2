from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import signal
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from qmesh.errors import BadInput, Busy, MachineRefused, StateUnreadable
from qmesh.host import files
from qmesh.host.state import lock as state_lock
from qmesh.host.state.directory import State
from qmesh.host.state.documents import (
    KeyRotation,
    PortReservations,
    SentRequest,
    Settings,
    SuccessorKey,
    UnfinishedRedemption,
)
from qmesh.mesh.protocol.enrolment import Redemption, derive_public_key
from qmesh.mesh.rollback import ChangeProcess, GuardSnapshot, MachineSnapshot, RollbackRecord
from qmesh.mesh.state import Peer, Tunnel
from qmesh.mesh.systemd.due_restarts import DueRestarts
from qmesh.mesh.values import Endpoint, Secret
from tests.support.waiting import pause

SETTINGS = Settings(
    mesh="0123456789abcdef",
    name="machine-b",
    control=False,
    interface="qmesh0",
    listen_port=51820,
    verification_key=bytes(range(32)),
    control_endpoints=(Endpoint("203.0.113.5", 51820), Endpoint("2001:db8::5", 51820)),
    config_directory="/root/.config",
    mtu=1380,
    up=False,
    guarded=False,
)
KEY = Secret(base64.b64encode(bytes(range(32))).decode())
ASKED = SentRequest(
    mesh=SETTINGS.mesh,
    name=SETTINGS.name,
    address="10.77.0.2",
    endpoints=SETTINGS.control_endpoints,
    verification_key=SETTINGS.verification_key,
    interface="qmesh0",
    listen_port=51820,
    config_directory=None,
    redemption=Redemption("0" * 32, derive_public_key(KEY), 4, None, "0" * 64),
    preshared_key=KEY,
)


def names_in(state: State) -> list[str]:
    return sorted(path.name for path in state.directory.iterdir())


def modes_in(state: State) -> set[int]:
    return {stat.S_IMODE(path.lstat().st_mode) for path in state.directory.iterdir()}


@contextlib.contextmanager
def another_process(work: Callable[[], object]) -> Iterator[int]:
    """Another process that does `work`, says so, and then waits to be killed."""
    reading, writing = os.pipe()
    identifier = os.fork()
    if identifier == 0:
        with contextlib.suppress(BaseException):
            os.close(reading)
            work_and_tell(work, writing)
        os._exit(1)
    os.close(writing)
    try:
        assert os.read(reading, 1) == b"!", "the other process failed"
        yield identifier
    finally:
        os.close(reading)
        os.kill(identifier, signal.SIGKILL)
        os.waitpid(identifier, 0)


def work_and_tell(work: Callable[[], object], writing: int) -> None:
    kept = work()
    os.write(writing, b"!")
    signal.pause()
    del kept


def test_reading_makes_nothing(tmp_path):
    state = State(tmp_path / "state")

    assert state.find_settings() is None
    assert state.unfinished_redemption.read() is None
    assert state.keys.read_private_key() is None
    assert state.keys.read_preshared_key() is None
    assert state.read_port_reservations() == PortReservations()
    assert not state.directory.exists()


def test_in_no_mesh_it_is_told_how_to_be_in_one(state):
    with pytest.raises(BadInput, match="in no mesh") as refused:
        state.settings()

    assert "qmesh init" in refused.value.hint
    assert "qmesh join" in refused.value.hint


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        msgspec.structs.replace(SETTINGS, control=True, control_endpoints=(), config_directory=None, up=True),
        msgspec.structs.replace(SETTINGS, config_directory="/home/käthe/ \u2603"),
    ],
)
def test_settings_are_read_as_they_were_saved(state, settings):
    state.save_settings(settings)

    assert state.settings() == settings
    assert State(state.directory).find_settings() == settings


BEFORE_READERS = """\
{
  "mesh": "0123456789abcdef",
  "name": "machine-b",
  "control": false,
  "interface": "qmesh0",
  "listen_port": 51820,
  "verification_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
  "control_endpoints": [{"host": "203.0.113.5", "port": 51820}, {"host": "2001:db8::5", "port": 51820}],
  "config_directory": "/root/.config",
  "config_owner": null,
  "mtu": 1380,
  "up": false,
  "guarded": false,
  "removed": false,
  "invitation": null,
  "metrics": null,
  "metrics_directory": null
}"""
"""The settings as the version wrote them that knew no readers."""


def test_settings_of_an_older_version_are_read_and_it_reads_these_while_nothing_newer_is_set(state):
    """What it does not know it refuses: 0.1.0 says that the file is damaged, later ones that it is newer."""
    path = state.directory / "machine.json"
    path.write_text(BEFORE_READERS)
    assert state.settings() == SETTINGS
    state.save_settings(state.settings())
    assert json.loads(path.read_text()).keys() <= json.loads(BEFORE_READERS).keys()
    state.save_settings(msgspec.structs.replace(SETTINGS, readers="monitoring"))
    assert json.loads(path.read_text()).keys() - json.loads(BEFORE_READERS).keys() == {"readers"}


def test_a_redemption_under_way_is_remembered_until_it_is_not(state):
    state.unfinished_redemption.write(UnfinishedRedemption("0" * 32))

    assert state.unfinished_redemption.read() == UnfinishedRedemption("0" * 32)

    for _ in range(2):
        state.unfinished_redemption.remove()

        assert state.unfinished_redemption.read() is None
        assert names_in(state) == []


def test_a_request_is_remembered_until_it_is_not(state):
    state.sent_request.write(ASKED)

    assert state.sent_request.read() == ASKED
    assert KEY.reveal() not in repr(state.sent_request.read())
    with pytest.raises(BadInput, match="in no mesh yet") as waiting:
        state.settings()
    assert "--answer" in waiting.value.hint

    for _ in range(2):
        state.sent_request.remove()

        assert state.sent_request.read() is None
        assert names_in(state) == []


def test_a_damaged_request_is_made_anew_by_its_invitation(state):
    state.sent_request.write(ASKED)
    path = state.directory / "request.json"
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(StateUnreadable, match=r"request\.json is damaged") as damaged:
        state.sent_request.read()
    assert "`qmesh join --offline`" in damaged.value.hint


def test_held_ports_are_remembered_until_there_are_none(state):
    held = PortReservations(ours=(40000, 40001), others=(40002,))
    state.save_port_reservations(held)

    assert state.read_port_reservations() == held

    for _ in range(2):
        state.save_port_reservations(PortReservations())

        assert state.read_port_reservations() == PortReservations()
        assert names_in(state) == []


def filled(state: State) -> State:
    state.save_settings(SETTINGS)
    state.unfinished_redemption.write(UnfinishedRedemption("0" * 32))
    state.sent_request.write(ASKED)
    state.save_port_reservations(PortReservations(ours=(40000,)))
    state.keys.ensure_private_key()
    state.keys.save_preshared_key(KEY)
    state.keys.ensure_signing_key()
    state.successor_key.write(SuccessorKey(derive_public_key(KEY), KEY))
    state.key_rotation.write(KeyRotation(derive_public_key(KEY), KEY.reveal()))
    state.due_restarts.write(DueRestarts(control=True))
    return state


READERS: dict[str, Callable[[State], object]] = {
    "machine.json": State.find_settings,
    "joining.json": lambda state: state.unfinished_redemption.read(),
    "request.json": lambda state: state.sent_request.read(),
    "reserved-ports.json": State.read_port_reservations,
    "private.key": lambda state: state.keys.read_private_key(),
    "preshared.key": lambda state: state.keys.read_preshared_key(),
    "signing.key": lambda state: state.keys.read_signing_key(),
    "successor.json": lambda state: state.successor_key.read(),
    "rotating.json": lambda state: state.key_rotation.read(),
    "due.json": lambda state: state.due_restarts.read(),
}
PASSING = {"joining.json", "reserved-ports.json", "successor.json", "rotating.json", "due.json"}
"""What no other command makes whole, and nobody misses."""


def test_all_that_is_remembered_is_0600_in_a_directory_that_is_0700(state):
    before = os.umask(0)
    try:
        with filled(state).lock():
            pass
    finally:
        os.umask(before)

    assert set(READERS) <= set(names_in(state))
    assert modes_in(state) == {0o600}
    assert stat.S_IMODE(state.directory.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    "octets",
    [b"", b"\0", b"\xff\xfe", b"null", b"[]", b"{}x", b"\n", b'"\xff"', b"x" * 2000, b'{"new": 1}'],
)
def test_a_damaged_file_is_an_error_and_never_nothing_there(state, name, octets):
    (filled(state).directory / name).write_bytes(octets)

    with pytest.raises(StateUnreadable) as unreadable:
        READERS[name](state)

    assert name in unreadable.value.message
    assert unreadable.value.hint
    assert ("delete it: it is only a note" in unreadable.value.hint) == (name in PASSING)
    assert "\n" not in unreadable.value.message + unreadable.value.hint


@pytest.mark.parametrize("name", READERS)
def test_a_truncated_file_is_an_error_whatever_is_left_of_it(state, name):
    path = filled(state).directory / name
    whole = path.read_bytes()
    for length in range(len(whole.rstrip())):
        path.write_bytes(whole[:length])

        with pytest.raises(StateUnreadable):
            READERS[name](state)


def test_settings_of_a_newer_version_are_no_damage_and_stay_as_they_are(state):
    path = filled(state).directory / "machine.json"
    newer = path.read_bytes().replace(b'"mesh"', b'"new_rule": {"a": [1]}, "another": true, "mesh"', 1)
    path.write_bytes(newer)
    with pytest.raises(StateUnreadable, match=r"written by a newer qmesh: .* another, new_rule$") as found:
        state.settings()
    assert found.value.hint.startswith("install that version again, or a newer one; the guard stays as it is")
    assert path.read_bytes() == newer

    for damaged in (
        newer.replace(b"51820", b"0"),
        newer.replace(b'"another"', b'"an other"'),
        newer.replace(b'"name"', b'"nale"'),
        newer[:-3],
    ):
        path.write_bytes(damaged)
        with pytest.raises(StateUnreadable, match="is damaged"):
            state.settings()


def test_text_in_the_settings_that_is_no_text_is_damage(state):
    path = filled(state).directory / "machine.json"
    path.write_bytes(path.read_bytes().replace(b"machine-b", b"machine-\xff"))

    with pytest.raises(StateUnreadable, match="is damaged"):
        state.settings()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"51820", b"0"),
        (b"51820", b"65536"),
        (b'"203.0.113.5"', b'"203.0.113.555"'),
        (b'"control": false', b'"control": "no"'),
        (b'"qmesh0"', b'"../x"'),
        (b'"machine-b"', b'"a\\u0000b"'),
        (b'"/root/.config"', b'"/root\\u0000"'),
        (b'"/root/.config"', b'".config"'),
        (b'"mtu": 1380', b'"mtu": -5'),
        (b'"mtu": 1380', b'"mtu": 575'),
        (b'"mtu": 1380', b'"mtu": 1421'),
        (b'"mtu": 1380', b'"mtu": ' + b"9" * 5000),
        (b'"mtu": 1380', b'"more": ' + b"[" * 5000),
    ],
)
def test_settings_that_cannot_be_are_damage(state, old, new):
    path = filled(state).directory / "machine.json"
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new))

    with pytest.raises(StateUnreadable, match="is damaged"):
        state.settings()


ODD = (
    ("successor.json", KEY.reveal().encode(), b"x"),
    ("successor.json", b'"' + KEY.reveal().encode() + b'"', b"5"),
    ("successor.json", b'"' + KEY.reveal().encode() + b'"', b"null"),
    ("successor.json", b'"' + KEY.reveal().encode() + b'"', b'{"a": []}'),
    ("successor.json", derive_public_key(KEY).encode(), b"x"),
    ("request.json", b'"' + KEY.reveal().encode() + b'"', b"7"),
    ("request.json", KEY.reveal().encode(), b"x"),
    ("request.json", b'"10.77.0.2"', b'"nowhere"'),
    ("request.json", b'"qmesh0"', b'""'),
    ("rotating.json", KEY.reveal().encode(), b"x"),
    ("joining.json", b"0" * 32, b"a-file"),
    ("reserved-ports.json", b"40000", b"-1"),
    ("reserved-ports.json", b"40000", b"65536"),
    ("due.json", b'"restart":[]', b'"restart":[0]'),
    ("due.json", b'"stop":[]', b'"stop":[65536]'),
)


@pytest.mark.parametrize(("name", "old", "new"), ODD)
def test_what_cannot_be_is_damage_and_gets_no_further(state, name, old, new):
    path = filled(state).directory / name
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new))

    with pytest.raises(StateUnreadable, match="is damaged"):
        READERS[name](state)


def test_a_change_that_waits_and_cannot_be_put_back_is_damage(state):
    peer = Peer(public_key=derive_public_key(KEY), allowed_ips=("10.77.0.2/32",), preshared_key=KEY)
    tunnel = Tunnel(
        interface="qmesh0",
        kind="tun",
        public_key=None,
        listen_port=51820,
        addresses=("10.77.0.1/20",),
        mtu=1420,
        up=True,
        peers=(peer,),
    )
    before = MachineSnapshot(
        guard=GuardSnapshot(script=None, boot_file=None, held_file=None),
        tunnel=tunnel,
        reserved_ports=(40000,),
        up=True,
        guarded=True,
    )
    undoing = RollbackRecord(before=before, boot="a", deadline_s=1.0, by=ChangeProcess(process=1, started=1))
    state.rollback_record.write(undoing)
    assert state.rollback_record.read() == undoing
    whole = state.rollback_record.path.read_bytes()
    for old, new in (
        (b"10.77.0.1/20", b"10.77.0.1/99"),
        (b"10.77.0.2/32", b"10.77.0.2/8"),
        (b"51820", b"-1"),
        (b"1420", b"-5"),
        (b"40000", b"0"),
        (b'"qmesh0"', b'"a/b"'),
        (derive_public_key(KEY).encode(), b"x"),
        (KEY.reveal().encode(), b"x"),
        (b'"keepalive_s":0', b'"keepalive_s":65536'),
        (b'"endpoint":null', b'"endpoint":{"host":"a.example","port":1}'),
    ):
        assert old in whole
        state.rollback_record.path.write_bytes(whole.replace(old, new))
        with pytest.raises(StateUnreadable, match="is damaged"):
            state.rollback_record.read()


@pytest.mark.parametrize("name", READERS)
def test_a_link_or_directory_in_the_place_of_a_file_is_an_error(state, name):
    path = filled(state).directory / name
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))
    with pytest.raises(StateUnreadable):
        READERS[name](state)

    path.unlink()
    path.mkdir()
    with pytest.raises(StateUnreadable):
        READERS[name](state)


def test_e1_the_private_key_is_made_once_and_is_0600(state):
    before = os.umask(0)
    try:
        key = state.keys.ensure_private_key()
    finally:
        os.umask(before)

    assert modes_in(state) == {0o600}
    assert (
        state.keys.ensure_private_key()
        == state.keys.read_private_key()
        == State(state.directory).keys.ensure_private_key()
        == key
    )
    assert len(derive_public_key(key)) == 44


def test_keys_of_two_machines_are_not_the_same(tmp_path):
    states = [State(tmp_path / name) for name in ("a", "b")]
    for state in states:
        state.create_directory()

    assert len({state.keys.ensure_private_key() for state in states}) == 2

    assert len({state.keys.ensure_signing_key().private_bytes_raw() for state in states}) == 2


def activate(state: State, public_key: str) -> None:
    if change := state.keys.plan_activation(public_key):
        files.replace_together(change)


def test_a_machine_that_takes_its_own_place_has_a_key_of_its_own_for_each_invitation(state):
    """Whoever has a copy of the old one goes on calling with it."""
    first, second = "1" * 32, "2" * 32
    old, is_new = state.keys.ensure_joining_key(first, is_replacing=False)
    assert (old, is_new) == (state.keys.read_private_key(), True)
    assert state.keys.ensure_joining_key(second, is_replacing=False) == (old, False)
    key, is_new = state.keys.ensure_joining_key(first, is_replacing=True)
    assert is_new
    assert key not in {old, state.keys.read_private_key()}
    assert state.keys.read_private_key() == old  # until the machine is a member by the new one
    assert state.keys.ensure_joining_key(first, is_replacing=True) == (key, False)  # cut off, and run again
    activate(state, derive_public_key(old))
    assert state.keys.read_joining_key() == key
    activate(state, derive_public_key(key))
    assert (state.keys.read_private_key(), state.keys.read_joining_key()) == (key, None)
    activate(state, derive_public_key(key))
    assert state.keys.ensure_joining_key(first, is_replacing=True) == (key, False)  # cut off after that
    another, is_new = state.keys.ensure_joining_key(second, is_replacing=True)
    assert is_new
    assert another != key
    state.remove_mesh_state(keep_private_key=False)
    alone, is_new = state.keys.ensure_joining_key(second, is_replacing=True)  # as on a new disk
    assert is_new
    assert state.keys.read_private_key() == alone
    assert state.keys.read_joining_key() is None
    assert state.keys.ensure_joining_key(second, is_replacing=True) == (alone, False)


def test_e1_a_damaged_private_key_is_not_made_anew(state):
    state.keys.private_file.write_bytes(b"")

    with pytest.raises(StateUnreadable, match=r"there is no WireGuard key in .*private\.key"):
        state.keys.ensure_private_key()

    assert state.keys.private_file.read_bytes() == b""


def test_e1_no_error_repeats_what_stood_in_a_key_file(state):
    text = base64.b64encode(b"5ec2e7" * 5).decode()
    state.keys.private_file.write_text(text)

    with pytest.raises(StateUnreadable) as unreadable:
        state.keys.read_private_key()

    assert text not in repr(unreadable.value) + unreadable.value.hint
    assert unreadable.value.__suppress_context__


def test_a_key_is_read_with_and_without_its_line_break(state):
    for text in (KEY.reveal(), KEY.reveal() + "\n", KEY.reveal() + "\r\n"):
        state.keys.preshared_file.write_text(text)

        assert state.keys.read_preshared_key() == KEY


def test_the_preshared_key_is_replaced(state):
    state.keys.save_preshared_key(Secret(base64.b64encode(bytes(32)).decode()))
    state.keys.save_preshared_key(KEY)

    assert state.keys.read_preshared_key() == KEY
    assert modes_in(state) == {0o600}


def test_the_signing_key_is_made_once_and_its_absence_is_an_error(state):
    with pytest.raises(StateUnreadable, match="there is no signing key"):
        state.keys.read_signing_key()

    key = state.keys.ensure_signing_key().private_bytes_raw()

    assert state.keys.ensure_signing_key().private_bytes_raw() == key
    assert state.keys.read_signing_key().private_bytes_raw() == key
    assert modes_in(state) == {0o600}


@pytest.mark.parametrize("octets", [b"", b"x" * 31, b"x" * 33])
def test_a_damaged_signing_key_is_not_made_anew(state, octets):
    state.keys.signing_file.write_bytes(octets)

    with pytest.raises(StateUnreadable, match="there is no signing key"):
        state.keys.ensure_signing_key()

    assert state.keys.signing_file.read_bytes() == octets


@pytest.fixture
def holder(state):
    """Another process that has the lock."""

    def hold() -> object:
        held = state.lock()
        held.__enter__()
        return held

    with another_process(hold) as holder:
        yield holder


class Killer(logging.Handler):
    """Ends a process at the first word that is logged."""

    def __init__(self, process: int) -> None:
        super().__init__()
        self._process = process

    def emit(self, _record: logging.LogRecord) -> None:
        os.kill(self._process, signal.SIGKILL)


def test_the_lock_waits_for_another_process_and_says_so(state, holder, caplog):
    caplog.set_level(logging.INFO, "qmesh")
    log, killer = logging.getLogger("qmesh"), Killer(holder)
    log.addHandler(killer)
    try:
        with state.lock():  # whose holder was killed: nobody had to clean up
            said = f"waiting for another qmesh command on this machine to end (process {holder}) ..."
            assert caplog.messages == [said]
    finally:
        log.removeHandler(killer)


def test_who_has_the_lock_is_named_and_not_who_waits_for_it(state, holder):
    waiting = os.open(state.directory, os.O_RDONLY)
    with subprocess.Popen(["sleep", "1000"], stdin=waiting) as other:
        os.close(waiting)
        try:
            with pytest.raises(Busy, match=rf"\(process {holder}\)"):
                state.lock(0).__enter__()
        finally:
            other.kill()


def test_a_short_wait_for_the_lock_is_not_worth_a_word(state, holder, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "qmesh")
    monkeypatch.setattr(state_lock, "SHORT_WAIT_S", 60.0)
    is_killed = threading.Event()

    def kill() -> None:
        is_killed.set()
        os.kill(holder, signal.SIGKILL)

    killer = threading.Timer(0.1, kill)
    killer.start()
    with state.lock():
        assert is_killed.is_set()
    killer.join()

    assert caplog.messages == []


def test_two_processes_are_never_in_the_lock_at_once(state):
    counter = state.directory / "counter"
    counter.write_text("0")

    def count() -> None:
        for _ in range(60):
            with state.lock():
                number = int(counter.read_text())
                pause(0.001)
                counter.write_text(str(number + 1))

    children = []
    for _ in range(3):
        identifier = os.fork()
        if identifier == 0:
            with contextlib.suppress(BaseException):
                count()
                os._exit(0)
            os._exit(1)
        children.append(identifier)
    ends = [os.waitpid(identifier, 0)[1] for identifier in children]

    assert ends == [0, 0, 0]
    assert counter.read_text() == "180"


def test_the_lock_is_free_after_the_block_however_that_ended(state):
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt), state.lock():
            raise KeyboardInterrupt
    with state.lock():
        pass


def test_a_program_that_was_started_under_the_lock_does_not_hold_it(state):
    with state.lock():
        numbers = [
            int(path.name)
            for path in Path("/proc/self/fd").iterdir()
            if path.is_symlink() and path.readlink() == state.directory
        ]

        assert numbers
        assert not any(os.get_inheritable(number) for number in numbers)


@pytest.mark.parametrize("keep", [False, True])
def test_a_forgotten_mesh_leaves_nothing_but_what_is_the_machines(state, keep):
    filled(state)
    for name in ("mesh.db", "mesh.db-wal", "mesh.db-shm", "membership.json"):
        (state.directory / name).write_bytes(b"octets")
    for _ in range(2):
        state.remove_mesh_state(keep_private_key=keep)

        assert names_in(state) == [*(["private.key"] if keep else []), "reserved-ports.json"]
        assert state.find_settings() is None


def test_a_mesh_that_was_half_forgotten_is_none(state):
    (filled(state).directory / "membership.json").mkdir()  # which cannot be removed as a file

    with pytest.raises(MachineRefused, match="could not be removed"):
        state.remove_mesh_state(keep_private_key=False)

    assert state.find_settings() is None
    state.membership_file.rmdir()
    state.remove_mesh_state(keep_private_key=False)

    assert names_in(state) == ["reserved-ports.json"]


def test_what_a_killed_process_left_half_written_is_removed_and_nothing_else(state):
    state.keys.ensure_private_key()
    names = [".private.key.ab1_2xyz", ".estate.msgpack.abcdefgh"]
    for name in names:
        (state.directory / name).write_bytes(b"a key")
    (state.directory / ".link.abcdefgh").symlink_to(state.keys.private_file)
    (state.directory / ".notes").write_bytes(b"")
    with state.lock():
        state.remove_temporary_files()
    left = {path.name for path in state.directory.iterdir()}
    assert left == {"private.key", ".link.abcdefgh", ".notes"}


def test_the_directory_is_made_where_it_is_wanted_and_never_by_the_lock(tmp_path):
    state = State(tmp_path / "a" / "state")
    with pytest.raises(BadInput, match="in no mesh"), state.lock():
        pass
    assert not (tmp_path / "a").exists()

    state.create_directory()

    with state.lock():
        assert stat.S_IMODE(state.directory.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o755, 0o1777, 0o770])
def test_a_directory_of_other_things_keeps_its_mode(tmp_path, mode):
    (tmp_path / "theirs").write_text("")
    tmp_path.chmod(mode)

    with pytest.raises(MachineRefused, match="other files"):
        State(tmp_path).create_directory()
    with State(tmp_path).lock():
        pass

    assert stat.S_IMODE(tmp_path.stat().st_mode) == mode


def test_a_directory_of_ours_that_was_opened_to_others_is_closed(state):
    state.keys.ensure_private_key()
    state.directory.chmod(0o755)

    state.create_directory()

    assert stat.S_IMODE(state.directory.stat().st_mode) == 0o700


def lock(state: State) -> None:
    with state.lock():
        pytest.fail("it is locked")


def try_lock(state: State) -> None:
    with state.try_lock(1):
        pytest.fail("it is locked")


@pytest.mark.lab  # for root alone there is something to lose
@pytest.mark.parametrize("use", [lock, try_lock, State.settings, State.find_settings, State.create_directory])
def test_r1_root_does_nothing_that_a_users_directory_says(state, use):
    """A command may be typed with `--state` of a user's choice, as where a hint names it."""
    state.create_directory()
    state.save_settings(SETTINGS)
    os.chown(state.directory, 1000, 1000)
    with pytest.raises(MachineRefused, match=r"belongs to (user 1000|another user)"):
        use(state)


def test_a_directory_that_is_a_link_is_no_state(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "state").symlink_to("real")

    with (
        pytest.raises(MachineRefused, match="cannot be opened as a directory"),
        State(tmp_path / "state").lock(),
    ):
        pass

    assert list((tmp_path / "real").iterdir()) == []
