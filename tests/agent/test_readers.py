"""Readers: who is answered, by what socket, how much work that is, and that no secret is in an answer."""

from __future__ import annotations

import base64
import contextlib
import functools
import os
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qmesh.agent import limited_command
from qmesh.agent.commands.check import Report, check
from qmesh.agent.commands.log import list_events
from qmesh.agent.commands.metrics import read_metrics
from qmesh.agent.commands.set import set_readers
from qmesh.agent.commands.status import Status, status
from qmesh.agent.daemon.supervisor import READERS_PLACE, Troubles
from qmesh.agent.limited_command import find_answer_line, run_limited_command
from qmesh.agent.local import load_local
from qmesh.agent.metrics.collector import AgentKnowledge, MetricsCollector
from qmesh.agent.readers import service as service_module
from qmesh.agent.readers.answers import ReaderAnswers, select_shown
from qmesh.agent.readers.ask import is_reader
from qmesh.agent.readers.service import ReaderService
from qmesh.agent.readers.shared_answer import SharedAnswer
from qmesh.errors import BadInput, Busy, MachineRefused, NeedsRoot, QmeshError, RemovedFromMesh
from qmesh.host.readers import server
from qmesh.host.readers.client import ask_agent
from qmesh.host.readers.place import DIRECTORY, SOCKET, ReaderPlace, remove_place
from qmesh.host.readers.server import read_caller
from qmesh.host.registry import Event, Registry
from qmesh.host.state.directory import State
from qmesh.host.system import unix_socket
from qmesh.mesh.notifications.targets import NotifySettings, NotifyTarget, SecretUrl
from qmesh.mesh.values import STATE_DIRECTORY, Endpoint
from qmesh.mesh.view.answers import ReportAnswer, StatusAnswer
from qmesh.mesh.view.cluster_view import EventView
from qmesh.mesh.view.questions import MOST_ANSWER, QUESTIONS, Caller, ReaderQuestion
from tests.support.control_node import make_control_node
from tests.support.factories import key
from tests.support.forked import run_forked
from tests.support.node_identity import IDENTITY, KEY_STORE
from tests.support.node_identity import SECRETS as NODE_SECRETS
from tests.support.registries import invite, redeem
from tests.support.waiting import patience, wait_until, within

CONFIG = f"""{IDENTITY}
db:
  path: .config/store
  password: hunter2
  url: postgres://qmesh:hunter2@db.example/x
engine:
  dataWorkerMultiaddrs: ["/ip4/10.77.0.1/tcp/hunter2"]
  token: hunter2
  dataWorkerBaseListenMultiaddr: hunter2
logger: hunter2
listenRESTMultiaddr: /ip4/0.0.0.0/tcp/8338?token=hunter2
"""
NOW = int(time.time())
USER, GROUP, OTHER_GROUP = 1001, 3001, 3002
READER = Caller(USER, frozenset((GROUP,)))
NAMED: list[str | None] = ["readers"]
"""The groups that the settings have named; the last is the one that they name."""
READERS = f"readers:x:{GROUP}:alice,bob\n"

# One answer for all


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_answer_is_found_once_for_all_who_ask_within_some_seconds():
    clock, found = Clock(), list[int]()

    def find() -> bytes:
        found.append(1)
        clock.now += 3.0
        return b"%d" % len(found)

    shared = SharedAnswer(find, least_s=2.0, times=10.0, clock=clock)
    assert shared.find_answer() == (b"1", 3.0)
    clock.now += 10 * 3.0 - 0.1
    assert shared.find_answer().octets == b"1"  # what takes long is found seldom
    clock.now += 0.1
    assert shared.find_answer() == (b"2", 3.0)
    shared.forget_old()
    assert shared.find_answer().octets == b"2"
    clock.now += 10 * 3.0
    shared.forget_old()
    assert shared._held is None


def test_a_user_who_names_another_state_directory_is_not_told_of_the_agents(monkeypatch, tmp_path):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert is_reader(State(Path(STATE_DIRECTORY)))
    for look in (status, check, list_events, read_metrics):
        with pytest.raises(NeedsRoot, match="--state"):
            look(State(tmp_path))


@pytest.mark.parametrize("talk", [b"", b"warning: rolled back\nhint: {x}\n", b"{not: json\n"])
def test_what_a_command_logs_while_it_answers_spoils_no_answer(talk):
    """As a check does by which a change is rolled back that nobody confirmed."""
    answer = b'{"machine":"b","revision":5,"findings":[]}'
    assert find_answer_line(talk + answer + b"\n") == answer
    assert find_answer_line(b"Killed\n") == b"Killed\n"


def test_a_command_is_not_waited_for_beyond_its_end(tmp_path, monkeypatch):
    """What it leaves behind in a session of its own holds its output, and is out of reach."""
    words = ("/bin/sh", "-c", "echo '{}'; setsid sleep 90 &")
    monkeypatch.setattr(limited_command, "build_command_line", lambda *_, **__: words)
    with within(6):
        assert run_limited_command(State(tmp_path), "status", most_octets=100) == (b"{}", 0)


@pytest.mark.parametrize(
    ("error", "said"), [(BadInput("no", hint="do"), "no"), (ValueError("SECRET"), "not find")]
)
def test_an_error_is_kept_as_an_answer_is_and_one_of_the_program_says_nothing(error, said):
    asked = []

    def find() -> bytes:
        asked.append(1)
        raise error

    shared = SharedAnswer(find, least_s=60.0)
    for _ in range(3):
        with pytest.raises((BadInput, MachineRefused), match=said) as raised:
            shared.find_answer()
        assert "SECRET" not in f"{raised.value.message}{raised.value.hint}"
    assert asked == [1]


def test_while_an_answer_is_found_others_wait_for_it_and_not_for_ever():
    begun, go_on = threading.Event(), threading.Event()

    def find() -> bytes:
        begun.set()
        assert go_on.wait(patience(30))
        return b"x"

    shared = SharedAnswer(find, least_s=60.0)
    first = threading.Thread(target=shared.find_answer)
    first.start()
    assert begun.wait(patience(30))
    with pytest.raises(Busy):
        shared.find_answer(wait_s=0.01)
    shared.forget_old()  # and does not wait
    go_on.set()
    assert shared.find_answer().octets == b"x"
    first.join()


# What is shown


def list_fields(kind: Any) -> Iterator[tuple[str, str]]:
    """Each field of a type and of those in it: the path of names to it, and its name."""

    def walk(info: Any, path: str) -> Iterator[tuple[str, str]]:
        if isinstance(info, msgspec.inspect.StructType):
            for field in info.fields:
                yield path, field.name
                yield from walk(field.type, f"{path}{field.name}.")
        for name in ("item_type", "value_type"):
            if hasattr(info, name):
                yield from walk(getattr(info, name), path)
        for each in getattr(info, "types", ()):
            yield from walk(each, path)

    yield from walk(msgspec.inspect.type_info(kind), "")


@pytest.mark.parametrize(
    ("shown", "whole", "hidden"),
    [
        (StatusAnswer, Status, {("machines.", "public_key"), ("machines.", "endpoint")}),
        (ReportAnswer, Report, set()),
        (EventView, Event, {("", "endpoint"), ("", "public_key")}),
    ],
)
def test_each_field_of_an_answer_is_shown_or_hidden_on_purpose(shown, whole, hidden):
    """Who adds one to a command's answer decides whether readers see it: here, and in qmesh.mesh.view."""
    assert set(list_fields(whole)) - set(list_fields(shown)) == hidden
    assert set(list_fields(shown)) <= set(list_fields(whole))


def test_what_a_command_says_besides_is_cut_off():
    said = b'{"machine":"b","revision":5,"findings":[],"private_key":"s3cret"}'
    assert b"s3cret" not in select_shown(said, ReportAnswer, "check")
    with pytest.raises(MachineRefused, match="had no answer"):
        select_shown(b'{"private_key":"s3cret"}', ReportAnswer, "check")


# The socket


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    """A file for /etc/group, which `machine_groups` puts there."""
    return tmp_path / "group"


def put_groups(path: Path, *lines: str) -> None:
    """Have this machine have these groups, besides root's; for the test itself."""
    is_first = not path.exists()
    path.write_text("root:x:0:\n" + "".join(lines))
    if is_first:
        path.chmod(0o644)
        subprocess.run(["mount", "--bind", path, "/etc/group"], check=True)


def ask(question: str, *, user: int = USER, groups: tuple[int, ...] = (GROUP,)) -> list[str]:
    """What a process of a user is told."""

    def work() -> list[str]:
        try:
            return ["answer", ask_agent(question).octets.decode()]  # type: ignore[arg-type]
        except QmeshError as error:
            return [f"{type(error).__name__} {error.exit_code}", f"{error.message}; {error.hint}"]

    found: list[str] = run_forked(work, user=user, groups=groups)
    return found


class Fixed(ReaderAnswers):
    """Answers without work."""

    def __init__(self) -> None:
        self._shared = {
            each: SharedAnswer(functools.partial(str.encode, each), least_s=1.0) for each in QUESTIONS
        }


@contextlib.contextmanager
def serving(answers: ReaderAnswers | None = None) -> Iterator[tuple[ReaderService, Troubles]]:
    """A service whose group is `readers`, and whose loop runs in a thread of its own."""
    troubles = Troubles(lambda _: None)
    service = ReaderService(answers or Fixed(), lambda: NAMED[-1], troubles)
    over = threading.Event()
    service_module._TICK_S = 0.05  # type: ignore[misc]
    service.update_place("readers")

    own = unix_socket.listen(Path("/run"), SOCKET)

    def accept() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError, ValueError):  # the place was closed meanwhile
                service._accept_callers(own)

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield service, troubles
    finally:
        over.set()
        thread.join()
        own.close()
        service._close_place()


@pytest.mark.lab
def test_root_is_answered_by_the_state_directory_whether_or_not_there_are_readers(own_machine, groups):
    put_groups(groups, READERS)
    with serving() as (service, _):
        for name in ("readers", None):
            service.update_place(name)
            assert ask_agent("view", directory=Path("/run")).octets == b"view"
        assert stat.S_IMODE((Path("/run") / SOCKET).stat().st_mode) == 0o600
    with pytest.raises(MachineRefused, match="agent does not run"):
        ask_agent("view", directory=Path("/run"))


def modes() -> list[tuple[int, int, str]]:
    found = (DIRECTORY.lstat(), (DIRECTORY / SOCKET).lstat())
    return [(each.st_uid, each.st_gid, stat.filemode(each.st_mode)) for each in found]


@pytest.mark.lab
def test_members_of_the_group_and_root_are_answered_and_no_others(own_machine, groups):
    put_groups(groups, READERS)
    with serving():
        assert modes() == [(0, GROUP, "drwxr-x---"), (0, GROUP, "srw-rw----")]
        assert ask("status") == ["answer", "status"]
        assert ask("view", user=0, groups=()) == ["answer", "view"]
        kind, said = ask("check", groups=(OTHER_GROUP,))
        assert (kind, said.partition(";")[0]) == (
            "NeedsRoot 3",
            "`qmesh check` is for root and the members of group readers",
        )
        assert f"usermod -aG readers {USER}" in said
        # Whatever the modes are by somebody's mistake, it is asked who calls.
        DIRECTORY.chmod(0o777)
        (DIRECTORY / SOCKET).chmod(0o777)
        kind, said = ask("check", groups=(OTHER_GROUP,))
        assert (kind, said.partition(";")[0]) == (
            "MachineRefused 3",
            "this user is not in the group of readers",
        )
        assert ask("apply")[0] == "BadInput 2"
    kind, said = ask("status")
    assert (kind, "does not run" in said) == ("MachineRefused 3", True)
    remove_place()
    kind, said = ask("status")
    assert (kind, "qmesh set --readers GROUP" in said) == ("NeedsRoot 3", True)


@pytest.mark.lab
def test_what_another_program_changes_is_made_again(own_machine, groups):
    put_groups(groups, READERS)
    with serving() as (service, _):
        for change in (
            lambda: DIRECTORY.chmod(0o755),
            lambda: (DIRECTORY / SOCKET).chmod(0o666),
            lambda: os.chown(DIRECTORY, 0, OTHER_GROUP),
            (DIRECTORY / SOCKET).unlink,
            lambda: subprocess.run(["rm", "-r", DIRECTORY], check=True),
        ):
            change()
            service.update_place("readers")
            assert modes() == [(0, GROUP, "drwxr-x---"), (0, GROUP, "srw-rw----")]
        assert ask("log") == ["answer", "log"]
        service.update_place(None)
        assert not DIRECTORY.exists()


@pytest.mark.lab
def test_from_the_command_that_ends_it_on_no_reader_is_answered(own_machine, groups):
    """Before the agent has looked, and one who has asked by then too."""
    put_groups(groups, READERS)
    answers, begun, go_on = Fixed(), threading.Event(), threading.Event()

    def find() -> bytes:
        begun.set()
        assert go_on.wait(patience(30))
        return b"status"

    answers._shared["status"] = SharedAnswer(find, least_s=60.0)
    with serving(answers):
        assert ask("log") == ["answer", "log"]
        said = list[list[str]]()
        asking = threading.Thread(target=lambda: said.append(ask("status")))
        asking.start()
        assert begun.wait(patience(30))
        NAMED.append(None)
        go_on.set()
        asking.join()
        assert [said[0][0], ask("log")[0], ask("log", user=0)] == [
            "MachineRefused 3",
            "MachineRefused 3",
            ["answer", "log"],
        ]


@pytest.mark.lab
def test_who_waits_to_be_taken_when_that_ends_is_not_answered(own_machine, groups):
    put_groups(groups, READERS)
    service = ReaderService(Fixed(), lambda: NAMED[-1], Troubles(lambda _: None))
    service.update_place("readers")
    with knock(b"log\n") as calling:
        NAMED.append(None)
        service.update_place(None)
        with contextlib.suppress(ConnectionResetError):
            assert calling.recv(100) == b""


@pytest.mark.lab
def test_a_socket_that_a_killed_agent_left_is_replaced(own_machine, groups):
    put_groups(groups, READERS)
    left = ReaderPlace(OTHER_GROUP)
    left.listening.close()
    with serving():
        assert ask("log") == ["answer", "log"]


@pytest.mark.lab
@pytest.mark.parametrize("obstacle", ["link", "file", "owner"])
def test_where_something_else_has_its_name_nothing_of_it_is_touched(own_machine, groups, obstacle, tmp_path):
    put_groups(groups, READERS)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    if obstacle == "link":
        DIRECTORY.symlink_to(elsewhere)
    elif obstacle == "file":
        DIRECTORY.write_text("")
    else:
        DIRECTORY.mkdir(mode=0o700)
        os.chown(DIRECTORY, USER, USER)
    before = DIRECTORY.lstat()
    with serving() as (service, troubles):
        (trouble,) = troubles.list_troubles()
        assert trouble.part == READERS_PLACE
        assert "is a link, is not a directory, or belongs to another user" in trouble.reason
        after = DIRECTORY.lstat()
        assert (after.st_mode, after.st_uid, list(elsewhere.iterdir())) == (before.st_mode, before.st_uid, [])
        remove_place()
        assert DIRECTORY.is_symlink() or DIRECTORY.exists()
        subprocess.run(["rm", "-r", DIRECTORY], check=True)
        service.update_place("readers")
        assert troubles.list_troubles() == ()
        assert ask("log") == ["answer", "log"]


@pytest.mark.lab
def test_a_group_that_goes_or_changes_takes_its_members_with_it(own_machine, groups):
    put_groups(groups, READERS)
    with serving() as (service, troubles):
        put_groups(groups, f"readers:x:{OTHER_GROUP}:\n")
        service._group_due = 0.0
        service.update_place("readers")
        assert {group for _, group, _ in modes()} == {OTHER_GROUP}
        assert ask("log")[0] == "NeedsRoot 3"
        assert ask("log", groups=(OTHER_GROUP,)) == ["answer", "log"]
        put_groups(groups, f"another:x:{OTHER_GROUP}:\n")
        service._group_due = 0.0
        service.update_place("readers")
        (trouble,) = troubles.list_troubles()
        assert (trouble.reason, "qmesh set --readers none" in trouble.hint) == (
            "this machine has no group readers",
            True,
        )
        assert ask("log", groups=(OTHER_GROUP,))[0] == "MachineRefused 3"
        put_groups(groups, READERS)
        service.update_place("readers")
        assert ask("log") == ["answer", "log"]
        assert troubles.list_troubles() == ()


@pytest.mark.lab
def test_only_a_group_that_is_there_can_be_set(own_machine, groups, tmp_path):
    state = State(tmp_path / "state")
    make_control_node(state)
    put_groups(groups, READERS, "nogroup:x:65534:\nroot:x:0:\n")
    found = set_readers(state, "readers")
    assert (found.is_another, found.readers, found.members) == (True, "readers", ("alice", "bob"))
    assert state.settings().readers == "readers"
    assert not set_readers(state, "readers").is_another
    for name, said in (
        ("gone", "has no group gone"),
        ("nogroup", "anyone"),
        ("root", "root's own"),
        ("3001", "not the name of a group"),
    ):
        with pytest.raises(BadInput, match=said):
            set_readers(state, name)
    assert state.settings().readers == "readers"
    ReaderPlace(GROUP).close()
    state.save_settings(msgspec.structs.replace(state.settings(), removed=True))
    with pytest.raises(RemovedFromMesh):
        set_readers(state, "readers")
    assert set_readers(state, "none").readers is None
    assert not DIRECTORY.exists()


@pytest.mark.lab
@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (b"", "does not run, or has just started"),
        (b'{"octets": 5}', "does not run, or has just started"),
        (b'{"octets": 5}\nabc', "does not run, or has just started"),
        (b'{"octets": 5}\nabcdef', "another version"),
        (b'{"bytes": 5}\nabcde', "another version"),
    ],
)
def test_an_agent_that_ends_while_it_answers_is_no_other_version(own_machine, said, kind):
    place = ReaderPlace(0)
    with contextlib.closing(place), contextlib.suppress(OSError):
        answering = threading.Thread(target=lambda: answer_with(place.listening, said))
        answering.start()
        with pytest.raises(MachineRefused, match=kind):
            ask_agent("status")
        answering.join()


@pytest.mark.lab
def test_a_program_of_another_user_in_the_agents_place_is_told_nothing(own_machine):
    with contextlib.closing(ReaderPlace(0)) as place:
        run_forked(place.listening.listen, user=USER)  # from now on it is that user's
        with pytest.raises(MachineRefused, match="is not root's"):
            ask_agent("status", wait_s=patience(5))
        calling, _ = place.listening.accept()
        with calling:
            assert calling.recv(100) == b""


def answer_with(listening: socket.socket, said: bytes) -> None:
    with listening.accept()[0] as calling:
        calling.recv(100)
        calling.sendall(said)


# Bounds


def test_one_who_drips_has_no_more_time_for_each_byte(monkeypatch):
    ours, theirs = socket.socketpair()
    clock = Clock()

    def pass_a_second() -> float:
        theirs.send(b"x")
        clock.now += 1.0
        return clock.now

    with ours, theirs:
        monkeypatch.setattr(time, "monotonic", pass_a_second)
        with pytest.raises(TimeoutError):
            server.receive_question(ours)
        monkeypatch.undo()


@pytest.mark.lab
def test_one_in_more_groups_than_are_read_counts_for_his_own_alone(own_machine):
    def look() -> tuple[int, list[int]]:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            caller = read_caller(ours)
        return caller.user, sorted(caller.groups)

    groups = tuple(range(GROUP, GROUP + 300))
    assert run_forked(look, user=USER, groups=groups) == [USER, [USER]]
    assert run_forked(look, user=USER, groups=groups[:200]) == [USER, [USER, *groups[:200]]]


def test_root_is_answered_with_what_is_so_now_and_readers_with_what_is_kept():
    answers, found = Fixed(), list[int]()

    def find() -> bytes:
        found.append(1)
        return b"%d" % len(found)

    answers._shared["log"] = SharedAnswer(find, least_s=3600.0)
    root = Caller(0, frozenset({0}))
    said = [answers.find_answer("log", caller).octets for caller in (READER, root, READER, root)]
    assert said == [b"1", b"2", b"2", b"3"]


def take_all_for(user: int) -> None:
    """Have the server take each caller for that user's; for the test itself."""
    server.read_caller = lambda connection: Caller(user, frozenset((GROUP,)))


def knock(words: bytes = b"") -> socket.socket:
    """One who is connected and has said that."""
    calling = socket.socket(socket.AF_UNIX)
    calling.settimeout(patience(20))
    try:
        calling.connect(str(DIRECTORY / SOCKET))
    except BlockingIOError:
        calling.close()
        raise
    if words:  # who is refused at once may be gone
        calling.sendall(words)
    return calling


@pytest.mark.lab
def test_a_user_has_two_places_and_who_drips_loses_his(own_machine, groups):
    put_groups(groups, READERS)
    with serving() as (service, _):
        with contextlib.ExitStack() as stack:
            server.QUESTION_S = 300.0  # type: ignore[misc]
            take_all_for(USER + 1)
            for _ in range(server.MOST_OF_A_USER):
                stack.enter_context(knock(b"sta"))
            wait_until(lambda: service._server._callers[USER + 1] == server.MOST_OF_A_USER)
            with knock() as third:
                assert b"too many programs" in third.recv(4096)
            server.read_caller = read_caller
            assert ask("status") == ["answer", "status"]  # another user has his own
        wait_until(lambda: service._server._callers.total() == 0)
        server.QUESTION_S = 0.2  # type: ignore[misc]
        with knock(b"sta") as first, knock() as second:
            assert (first.recv(1), second.recv(1)) == (b"", b"")
        wait_until(lambda: service._server._callers.total() == 0)
        server.QUESTION_S = 20.0  # type: ignore[misc]
        assert ask("status") == ["answer", "status"]


@pytest.mark.lab
def test_readers_have_eight_places_and_root_has_its_own(own_machine, groups):
    put_groups(groups, READERS)
    with serving() as (service, _), contextlib.ExitStack() as stack:
        server.QUESTION_S = 300.0  # type: ignore[misc]
        for number in range(server.MOST_CALLERS):
            take_all_for(USER + 1 + number)
            stack.enter_context(knock())
            wait_until(lambda: service._server._callers.total() == number + 1)  # noqa: B023
        server.read_caller = read_caller
        kind, said = ask("status")
        assert (kind, "too many programs" in said) == ("MachineRefused 3", True)
        assert ask("status", user=0) == ["answer", "status"]


@pytest.mark.lab
def test_who_finds_the_line_full_waits_in_it(own_machine, groups):
    put_groups(groups, READERS)
    place = ReaderPlace(GROUP)
    with contextlib.ExitStack() as stack:
        stack.callback(place.close)
        with contextlib.suppress(BlockingIOError):
            while True:
                stack.enter_context(knock())
        found = list[list[str]]()
        asking = threading.Thread(target=lambda: found.append(ask("status")))
        asking.start()
        fixed = Fixed()
        taking = server.ReaderServer(lambda _: True, fixed.find_answer)
        while not found:
            place.listening.settimeout(0.2)
            with contextlib.suppress(TimeoutError):
                taking.take_caller(place.listening.accept()[0])
        asking.join()
    assert found == [["answer", "status"]]


@pytest.mark.lab
def test_one_who_does_not_take_a_large_answer_is_not_waited_for(own_machine, groups):
    put_groups(groups, READERS)
    answers = Fixed()
    large = b"x" * (1 << 22)
    answers._shared["metrics"] = SharedAnswer(lambda: large, least_s=60.0)
    answers._shared["log"] = SharedAnswer(lambda: b"x" * (MOST_ANSWER + 1), least_s=60.0)
    server.TAKEN_S = 0.3  # type: ignore[misc]
    with serving(answers) as (service, _):
        with knock(b"metrics\n") as calling:
            taken = len(calling.recv(1))
            wait_until(lambda: service._server._callers.total() == 0)
            while part := calling.recv(1 << 20):
                taken += len(part)
            assert 0 < taken < len(large)
        server.TAKEN_S = 20.0  # type: ignore[misc]
        assert ask("metrics")[1] == large.decode()
        assert "too large" in ask("log")[1]


# Secrets


AWAY = Endpoint("198.51.100.77", 51820)


def collect_secrets(state: State, config: Path, invitation: bytes) -> dict[str, bytes]:
    """All that a machine holds and must not tell, by what it is, in each form in which it could be told."""
    with Registry(state.registry_file) as registry:
        preshared = registry.preshared_keys()
    found = {
        "private key": (state.keys.private_file.read_bytes().strip(),),
        "signing key": (state.keys.signing_file.read_bytes().strip(),),
        **{f"preshared key of {key}": (each.reveal().encode(),) for key, each in preshared.items()},
        "invitation": (invitation,),
        **{f"node identity {each}": (each.encode(),) for each in NODE_SECRETS},
        **dict.fromkeys(("password", "token"), (b"hunter2",)),
    }
    forms: dict[str, bytes] = {}
    for name, values in found.items():
        for value in values:
            forms |= {name: value, f"{name}, hex": value.hex().encode()}
            for encode in (base64.b64encode, base64.urlsafe_b64encode):
                forms[f"{name}, {encode.__name__}"] = encode(value).rstrip(b"=")
            with contextlib.suppress(ValueError):
                raw = base64.b64decode(value, validate=True)
                forms |= {f"{name}, raw": raw, f"{name}, raw in hex": raw.hex().encode()}
    assert b"hunter2" in (config / "config.yml").read_bytes()
    assert len(preshared) == 2
    return forms


@pytest.mark.lab
def test_no_secret_of_the_machine_is_in_an_answer(own_machine, tmp_path):
    """By the real commands, on a machine with much that is wrong: what is named then may be anything."""
    config = tmp_path / ".config"
    config.mkdir()
    (config / "config.yml").write_text(CONFIG)
    (config / "keys.yml").write_text(KEY_STORE)
    for each in config.iterdir():
        each.chmod(0o644)
    state = State(tmp_path / "state")
    make_control_node(state, config=config, endpoint=AWAY.host, node="2.1")
    with Registry(state.registry_file) as registry:
        redeem(registry, invite(registry, "machine-b", now=NOW), key(1), now=NOW)
        invitation = invite(registry, "machine-c", now=NOW).secret
    told = NotifyTarget("1", "json", SecretUrl("https://hunter2:hunter2@ntfy.example/hunter2?token=hunter2"))
    state.notify_settings.write(NotifySettings(targets=(told,)))
    state.keys.private_file.chmod(0o644)
    secrets = collect_secrets(state, config, invitation)

    here = load_local(state)
    metrics = MetricsCollector(state, lambda: AgentKnowledge(here, looked_at=1.0))
    answers = ReaderAnswers(state, metrics)
    said = {question: answers.find_answer(question, READER).octets for question in QUESTIONS}

    wanted: dict[ReaderQuestion, tuple[str, ...]] = {
        "status": ("machine-b", "10.77.0.2"),
        "check": ("config-lint", "config-mode", "key-mode"),
        "log": ("mesh-made", "joined"),
        "metrics": ("qmesh_worker_up", "key-mode"),
        "view": ("machine-b", "mesh-made", "key-mode"),
    }
    for question, words in wanted.items():
        for word in words:
            assert word.encode() in said[question], (question, said[question])
        assert {name for name, secret in secrets.items() if secret in said[question]} == set(), question
        assert question == "check" or AWAY.host.encode() not in said[question]
    assert here.machine.public_key.encode() not in said["status"] + said["log"] + said["view"]
    # And they are what the commands read again.
    assert msgspec.json.decode(said["status"], type=Status).control == here.inventory.control
    assert msgspec.json.decode(said["check"], type=Report).machine == here.settings.name


@pytest.mark.lab
def test_an_error_of_a_command_is_told_in_its_words(own_machine, tmp_path):
    answers = ReaderAnswers(
        State(tmp_path / "none"), MetricsCollector(State(tmp_path / "none"), lambda: None)
    )
    with pytest.raises(BadInput, match="in no mesh") as refused:
        answers.find_answer("log", READER)
    assert "qmesh join" in refused.value.hint
    for question in ("metrics", "view"):
        with pytest.raises(MachineRefused, match="has not looked at it yet"):
            answers.find_answer(question, READER)
