"""Members are asked for their findings with the answers to their questions: who is, and whose word counts."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from qmesh.agent.audit.collection import Collector
from qmesh.agent.audit.reporter import read_answer
from qmesh.errors import EnrolmentRefused
from qmesh.host.api import collection
from qmesh.host.api.collection import CollectedReport, NoCollection, collect_reports
from qmesh.host.api.messages import ASKED_FINDINGS, CAN_REPORT, FINDINGS
from qmesh.host.api.server import Collection, Service
from qmesh.host.registry import Registry
from qmesh.host.state.directory import State
from qmesh.host.system.agent_notify import FINDINGS_SOCKET
from qmesh.mesh.audit.findings import Finding
from qmesh.mesh.audit.members import Silence
from qmesh.mesh.protocol.findings_report import FindingsReport, decrypt_report, encrypt_report
from qmesh.mesh.values import Secret
from tests.support.api import HERE, PORT, Agent, told_by
from tests.support.factories import key
from tests.support.registries import MESH, NOW, invite, redeem
from tests.support.waiting import wait_until

FINDING = Finding("clock", "warning", "a", "b", "c", "d")
REPORT = FindingsReport(revision=3, findings=(FINDING,))
B = "10.77.0.2"


def seal(request: str, shared: Secret, report: FindingsReport = REPORT) -> bytes:
    return encrypt_report(report, request, shared, nonce=bytes(12))


def test_a_member_is_asked_and_its_word_counts_once(tmp_path: Path) -> None:
    state = State(tmp_path / "state")
    state.create_directory()
    Registry.create(state.registry_file, MESH, now=NOW)
    with Registry(state.registry_file) as registry:
        redeem(registry, invite(registry, "machine-b"), key(1))
        invite(registry, "machine-c")
        shared = registry.preshared_keys()[key(1)]
    collector, said = Collector(state, own="control"), list[tuple[str, FindingsReport]]()
    assert collector.find_request(sender=B, can_report=True) is None
    with pytest.raises(EnrolmentRefused, match="not asked"):
        collector.accept_report(seal("0" * 32, shared), sender=B)

    assert collector.begin(lambda name, report: said.append((name, report)))
    assert not collector.begin(lambda *_: None)
    assert collector.list_silent() == {"machine-b": "away"}  # who is only invited has no agent
    assert collector.find_request(sender=B, can_report=False) is None
    assert collector.list_silent() == {"machine-b": "older"}
    request = collector.find_request(sender=B, can_report=True)
    assert request is not None
    assert collector.list_silent() == {"machine-b": "silent"}
    assert collector.find_request(sender=B, can_report=True) is None  # else it would ask without a pause
    for stranger in ("10.77.0.1", "10.77.0.3", "192.0.2.1"):
        assert collector.find_request(sender=stranger, can_report=True) is None
        with pytest.raises(EnrolmentRefused, match="not asked"):
            collector.accept_report(seal(request, shared), sender=stranger)
    for body in (b"", seal("0" * 32, shared), seal(request, Secret(key(9)))):
        with pytest.raises(EnrolmentRefused):
            collector.accept_report(body, sender=B)
    assert said == []
    collector.accept_report(seal(request, shared), sender=B)
    with pytest.raises(EnrolmentRefused, match="not asked"):
        collector.accept_report(seal(request, shared), sender=B)
    assert said == [("machine-b", REPORT)]
    assert collector.list_silent() == {}

    collector.end()
    assert collector.begin(lambda *_: None)
    assert collector.find_request(sender=B, can_report=True) not in {None, request}


@pytest.mark.parametrize(
    ("said", "code", "seen"),
    [
        (b'{"machine":"b","revision":7,"findings":[]}', 0, None),
        (b'{"error":"no state","hint":"join","exit_code":3}', 3, "no state"),
        (b"Traceback", 1, "its check ended with code 1, and without an answer"),
        (
            b"",
            -9,
            "its check was ended: it took longer than 30 s, or that machine's memory is short",
        ),
        (b'{"revision":-1,"findings":[]}', 0, "its check ended with code 0, and without an answer"),
    ],
)
def test_whatever_a_check_prints_there_is_a_report(said: bytes, code: int, seen: str | None) -> None:
    report = read_answer(said, code=code)
    assert [each.seen for each in report.findings] == ([] if seen is None else [seen])
    assert report.revision == (7 if seen is None else 0)


class Asking:
    """A collector that knows members by their addresses, as the registry's does."""

    def __init__(self, members: dict[str, str]) -> None:
        self._members = members
        self._open: dict[str, str] = {}
        self._deliver: Callable[[str, FindingsReport], None] = lambda *_: None
        self.asked: list[tuple[str, bool]] = []
        self.silence: Silence = "older"

    def begin(self, deliver: Callable[[str, FindingsReport], None]) -> bool:
        if self._open:
            return False
        self._open, self._deliver = dict(self._members), deliver
        return True

    def end(self) -> None:
        self._open = {}

    def list_silent(self) -> dict[str, Silence]:
        return dict.fromkeys(self._open.values(), self.silence)

    def find_request(self, *, sender: str, can_report: bool) -> str | None:
        if sender in self._open and (sender, can_report) not in self.asked:
            self.asked.append((sender, can_report))
            return "f" * 32 if can_report else None
        return None

    def accept_report(self, body: bytes, *, sender: str) -> None:
        report = decrypt_report(body, "f" * 32, Secret(key(1)))
        self._deliver(self._open.pop(sender), report)


@contextlib.contextmanager
def serving(directory: Path, collector: Asking) -> Iterator[None]:
    def answer_nothing(_: int) -> None:
        return None

    asked = collection.listen(directory)
    service = Service(
        Agent(membership=answer_nothing),
        address=HERE,
        port=PORT,
        interface="lo",
        told=told_by(),
        collection=Collection(asked, collector),
    )
    service.start()
    try:
        yield
    finally:
        service.stop()


def ask(
    source: str, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, str | None]:
    """Status of an answer, and which request for findings came with it."""
    with contextlib.closing(HTTPConnection(HERE, PORT, 30, source_address=(source, 0))) as asking:
        asking.request(method, path, body, headers or {})
        answer = asking.getresponse()
        answer.read()
        return answer.status, answer.getheader(ASKED_FINDINGS)


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
def test_reports_pass_by_the_service_of_members_that_wait_and_of_no_others(tmp_path: Path) -> None:
    new, old, stranger = "127.0.0.2", "127.0.0.3", "127.0.0.9"
    poll = "/v1/membership?newer_than=1&wait=20"
    can_report = {CAN_REPORT: "findings"}
    collector = Asking({new: "machine-b", old: "machine-c"})
    said: dict[str, tuple[int, str | None]] = {}

    def wait_for_news(source: str, headers: dict[str, str]) -> None:
        said[source] = ask(source, "GET", poll, headers=headers)
        if said[source][1]:
            said["report"] = ask(source, "POST", FINDINGS, seal("f" * 32, Secret(key(1))))

    with serving(tmp_path, collector):
        waiting = [
            threading.Thread(target=wait_for_news, args=(new, can_report), daemon=True),
            threading.Thread(target=wait_for_news, args=(old, {}), daemon=True),
        ]
        for each in waiting:
            each.start()
        assert ask(stranger, "POST", FINDINGS, b"x")[0] in {403, 500}
        assert ask(new, "GET", FINDINGS)[0] == 405
        reports = {each.machine: each for each in collect_reports(tmp_path)}
        waiting[0].join(20)
        assert said[new] == (204, "f" * 32)
        assert said["report"] == (204, None)
        assert old not in said  # it goes on waiting, as it did
        assert ask(stranger, "GET", poll.replace("20", "0"), headers=can_report)[1] is None
    assert reports == {
        "machine-b": CollectedReport(machine="machine-b", report=REPORT),
        "machine-c": CollectedReport(machine="machine-c", silence="older"),
    }


class LastMoment(Asking):
    """Its only member reports just before it is looked who is silent."""

    def list_silent(self) -> dict[str, Silence]:
        for name in self._open.values():
            self._deliver(name, REPORT)
        self._open = {}
        return {}


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
def test_a_report_that_comes_at_the_last_moment_is_told(tmp_path: Path) -> None:
    with serving(tmp_path, LastMoment({"127.0.0.2": "machine-b"})):
        assert list(collect_reports(tmp_path)) == [CollectedReport(machine="machine-b", report=REPORT)]


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
def test_one_collection_at_a_time_and_none_without_an_agent(tmp_path: Path) -> None:
    with pytest.raises(NoCollection, match="does not serve"):
        list(collect_reports(tmp_path))
    collector = Asking({"127.0.0.2": "machine-b"})
    collector.silence = "silent"
    with serving(tmp_path, collector):
        assert (tmp_path / FINDINGS_SOCKET).stat().st_mode & 0o777 == 0o600
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(tmp_path / FINDINGS_SOCKET))
            wait_until(lambda: collector.list_silent() != {})
            with pytest.raises(NoCollection, match="under way"):
                list(collect_reports(tmp_path))
        wait_until(lambda: collector.list_silent() == {})  # whoever asked has gone
    with pytest.raises(NoCollection, match="does not serve"):
        list(collect_reports(tmp_path))
