"""The page's server: what it answers, to whom, and how much of it anybody can take."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import pytest

from qmesh.errors import BadInput, MachineRefused
from qmesh.host.page import http_server, news
from qmesh.host.page.http_server import (
    HEADERS,
    MOST_CONNECTIONS,
    MOST_FOLLOWERS,
    PageServer,
)
from qmesh.host.page.listen import HOST, open_page_port, open_page_socket
from qmesh.host.page.page_files import read_page_files
from qmesh.host.page.question_process import become_nobody
from qmesh.host.unprivileged import NOBODY
from qmesh.mesh.view.cluster_view import ClusterView
from tests.support.forked import run_forked
from tests.support.page_server import TOKEN, ServedPage
from tests.support.page_views import FAULTS, NOW, build_view
from tests.support.waiting import patience, wait_until

FILES = read_page_files()


class Served(ServedPage):
    """And what a client without a browser sends."""

    def ask(
        self, path: str = f"/{TOKEN}/", method: str = "GET", **headers: str
    ) -> tuple[int, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=patience(30))
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, headers=named)
            answer = connection.getresponse()
            return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}
        except ConnectionError:
            return 0, b"", {}
        finally:
            connection.close()

    def send(self, text: bytes) -> socket.socket:
        connection = socket.create_connection((HOST, self.port), patience(30))
        connection.sendall(text)
        return connection


@pytest.fixture(scope="module")
def running() -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http_server, "POLL_S", 0.05)
        patch.setattr(news, "LEAST_S", 0.05)
        served = Served()
        yield served
        served.stop()


@pytest.fixture
def served(running: Served) -> Iterator[Served]:
    running.view, running.error = build_view(), None
    yield running
    wait_until(lambda: running.server._followers == 0)


class Follower:
    """A browser's end of the events."""

    def __init__(self, served: Served) -> None:
        self.connection = http.client.HTTPConnection(HOST, served.port, timeout=patience(30))
        self.connection.request("GET", f"/{TOKEN}/events")
        self.answer = self.connection.getresponse()
        self.media = self.answer.headers["content-type"]

    def wait_for(self, name: str) -> Any:
        """What the next event of that name says."""
        while True:
            line = self.answer.readline().decode("ascii")
            assert line, "the stream has ended"
            if line == f"event: {name}\n":
                return json.loads(self.answer.readline().decode("ascii").removeprefix("data: "))

    def close(self) -> None:
        self.answer.close()
        self.connection.close()


@contextlib.contextmanager
def following(served: Served) -> Iterator[Follower]:
    follower = Follower(served)
    try:
        yield follower
    finally:
        follower.close()


def test_the_page_and_all_that_it_loads_are_served_with_their_kinds(served):
    page = served.ask()[1].decode()
    loaded = re.findall(r'(?:src|href)="([^"#]+)"', page)
    assert set(loaded) == {"page.css", "page.js", "icon.svg"}
    kinds = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    for name in loaded:
        status, body, headers = served.ask(f"/{TOKEN}/{name}")
        assert (status, body) == (200, FILES[name].octets)
        assert headers["content-type"].startswith(kinds[name.rpartition(".")[2]])


@pytest.mark.parametrize("path", ["/", "/t0ken/x", "/t0ken", "/t0ken/page.css", "/t0ken/%2e%2e/x"])
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_every_answer_has_the_headers_that_shut_the_page_in(served, path, method):
    headers = served.ask(path, method)[2]
    assert {name: headers[name] for name, _ in HEADERS} == dict(HEADERS)
    assert "set-cookie" not in headers
    assert "access-control-allow-origin" not in headers


def test_the_policy_allows_nothing_that_is_inline_or_of_elsewhere():
    policy = dict(HEADERS)["content-security-policy"]
    assert policy.startswith("default-src 'none';")
    allowed = {each.partition(" ")[0]: each.partition(" ")[2] for each in policy.split("; ")}
    for name in ("base-uri", "form-action", "frame-ancestors", "trusted-types"):
        assert allowed[name] == "'none'"
    assert allowed["require-trusted-types-for"] == "'script'"
    assert not re.search(r"unsafe|data:|https?:|\*", policy)
    assert {name: value for name, value in HEADERS if name != "content-security-policy"} == {
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "cache-control": "no-store",
    }


def test_no_other_machine_reaches_the_port(running):
    assert running.listening.getsockname()[0] == "127.0.0.1"


def test_head_has_the_headers_of_get_and_no_body(served):
    status, body, headers = served.ask(method="HEAD")
    assert (status, body) == (200, b"")
    assert headers["content-length"] == str(len(FILES[""].octets))
    status, body, headers = served.ask(f"/{TOKEN}/events", "HEAD")
    assert (status, body, headers["content-type"]) == (200, b"", "text/event-stream")


def test_what_is_no_reading_of_the_page_is_refused(served):
    assert served.ask(method="POST")[0] == 405
    assert served.ask(method="DELETE", path=f"/{TOKEN}/events")[2]["allow"] == "GET, HEAD"
    assert served.ask("/")[0] == served.ask("/events")[0] == served.ask("/t0kem/events")[0] == 404
    assert served.ask(Host="evil.example")[0] == 421
    assert served.ask(Host=f"evil.example:{served.port}")[0] == 421
    assert served.ask(Host="localhost:8080")[0] == 200
    assert served.ask(f"/{TOKEN}/events", Origin="https://evil.example")[0] == 403
    assert served.ask(f"/{TOKEN}/events", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="cors")[0] == 403


@pytest.mark.parametrize(
    ("question", "status"),
    [
        (b"GET /t0ken/ HTTP/1.0\r\n\r\n", b"421"),
        (b"GET /t0ken/ HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /t0ken/ HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", b"400"),
        (b"GET http://evil.example/t0ken/ HTTP/1.1\r\nHost: localhost\r\n\r\n", b"404"),
        (b"GET /t0ken/ HTTP/1.1\r\nHost: localhost\r\nX: a\nb\r\n\r\n", b"400"),
        (b"GET /t0ken/../../../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n", b"404"),
        (b"GET /t0ken//etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n", b"404"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
    ],
)
def test_what_is_no_request_of_a_browser_is_told_nothing(served, question, status):
    with served.send(question) as asking:
        answer = b"".join(iter(partial(asking.recv, 1 << 16), b""))
    assert answer.split(b" ", 2)[1] == status
    assert b"fra-1" not in answer
    assert b"root:" not in answer


def test_who_follows_is_told_the_picture_what_was_before_and_each_change(served):
    with following(served) as follower:
        assert follower.media == "text/event-stream"
        shown = follower.wait_for("view")
        assert [machine["name"] for machine in shown["machines"]] == ["fra-1", "hel-2", "ams-3"]
        assert shown["machines"][1]["states"] == "aaaa"
        assert "hel-2 joined, invited by anna" in {each["text"] for each in follower.wait_for("changes")}
        assert follower.wait_for("history")[-1][1]["first"] == 4
        served.view = build_view(silent=(5,), findings=FAULTS, at=NOW + 5)
        while follower.wait_for("view")["machines"][1]["states"] != "asaa":
            pass
        assert "hel-2: core 5 silent" in {each["text"] for each in follower.wait_for("changes")}
    with following(served) as later:
        assert "hel-2: core 5 silent" in {each["text"] for each in later.wait_for("changes")}


def test_an_agent_that_says_nothing_is_said_and_what_was_known_stays(served):
    with following(served) as follower:
        follower.wait_for("view")
        served.error = MachineRefused("the agent does not answer", hint="qmesh apply")
        said = follower.wait_for("trouble")
        assert said == {"message": "the agent does not answer", "hint": "qmesh apply"}
        served.error = None
        assert follower.wait_for("view")["name"] == "fra-1"


def test_a_bug_in_asking_is_said_too_and_it_asks_again(served, monkeypatch):
    def fail() -> ClusterView:
        raise ZeroDivisionError

    with following(served) as follower:
        follower.wait_for("view")
        monkeypatch.setattr(served.server, "_ask", fail)
        assert "ZeroDivisionError" in follower.wait_for("trouble")["message"]
        monkeypatch.undo()
        assert follower.wait_for("view")["name"] == "fra-1"


def test_names_and_texts_of_others_are_one_line_of_ascii_whatever_is_in_them():
    """A line feed would begin an event of its own."""
    event = news.encode_event("view", ["</script>\n\ndata: x\r\u2028\u202e", "\udc80"])
    assert event.count(b"\n") == 3
    assert event.isascii()
    assert json.loads(event.splitlines()[1].removeprefix(b"data: ")) == [
        "</script>\n\ndata: x\r\u2028\u202e",
        "?",
    ]


def test_what_is_kept_of_changes_is_bounded_and_a_large_picture_is_sent_seldom(monkeypatch):
    """A window that comes later gets the newest; and in a second none gets more of a large mesh."""
    paused = list[float]()

    async def pause(seconds: float) -> None:
        paused.append(seconds)

    async def follow() -> tuple[bytes, int]:
        told = news.PageNews()
        for number in range(news.MOST_CHANGES + 8):
            silent = (5,) if number % 2 else ()
            await told.note_view(build_view(silent=silent, at=NOW + number))
        monkeypatch.setattr(asyncio, "sleep", pause)
        async with contextlib.aclosing(told.follow()) as pieces:
            assert (await anext(pieces)).startswith(b"retry: ")
            first = await anext(pieces)
            await anext(pieces)  # the history
            await told.note_view(build_view(at=NOW + 1000))
            await anext(pieces)
        return first, len(first)

    monkeypatch.setattr(news, "BYTES_A_S", 100)
    first, octets = asyncio.run(follow())
    (changes,) = re.findall(rb"event: changes\ndata: (.*)\n", first)
    kept = json.loads(changes)
    assert len(kept) == news.MOST_CHANGES
    assert kept[-1]["at"] == NOW + news.MOST_CHANGES + 7
    assert paused == [octets / 100]


def test_windows_are_bounded_and_one_that_closes_leaves_room(served):
    question = f"GET /{TOKEN}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:
        for _ in range(3 * MOST_FOLLOWERS):
            stack.enter_context(served.send(question))
        wait_until(lambda: served.server._followers == MOST_FOLLOWERS)
        assert served.ask(f"/{TOKEN}/events")[0] == 503
        assert served.ask()[0] == 200
    wait_until(lambda: served.server._followers == 0)
    with following(served) as follower:
        assert follower.wait_for("view")


def test_who_has_no_token_displaces_no_window_however_many_connections_are_opened(served):
    with following(served) as follower, contextlib.ExitStack() as stack:
        follower.wait_for("view")
        # All that have asked, and stay; then those that do not end their question.
        for end in (b"\r\n", b""):
            for _ in range(2 * MOST_CONNECTIONS):
                asking = stack.enter_context(served.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + end))
                assert not end or asking.recv(9) == b"HTTP/1.1 "
            assert served.ask("/")[0] == 404
        served.view = build_view(at=NOW + 77)
        while follower.wait_for("view")["at"] != NOW + 77:
            pass


def test_a_port_that_another_program_has_is_refused_with_a_hint(served):
    with pytest.raises(MachineRefused, match="cannot be served") as refused:
        open_page_port(served.port)
    assert "--port" in refused.value.hint


def test_a_socket_is_its_users_alone_and_is_gone_in_the_end(tmp_path):
    path = tmp_path / "page.sock"
    listening, remove = open_page_socket(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    server = PageServer(listening, FILES, "", build_view)
    serving = threading.Thread(target=server.run)
    serving.start()
    with listening, socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(patience(30))
        asking.connect(str(path))
        asking.sendall(b"GET / HTTP/1.1\r\nHost: localhost:8080\r\n\r\n")
        assert b"".join(iter(partial(asking.recv, 1 << 16), b"")).startswith(b"HTTP/1.1 200 ")
        server.stop()
        serving.join(patience(30))
    remove()
    assert list(tmp_path.iterdir()) == []


def test_for_one_that_reads_slowly_nothing_piles_up(tmp_path, monkeypatch):
    """It is given the newest picture once it has taken the one before."""
    monkeypatch.setattr(news, "LEAST_S", 0.0)
    monkeypatch.setattr(news, "BYTES_A_S", 1 << 40)
    view = build_view([5000])
    listening, remove = open_page_socket(tmp_path / "page.sock")
    server = PageServer(listening, FILES, "", lambda: view)
    serving = threading.Thread(target=server.run)
    serving.start()
    with listening, socket.socket(socket.AF_UNIX) as slow:
        slow.settimeout(patience(30))
        slow.connect(str(tmp_path / "page.sock"))
        slow.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_until(lambda: server._followers == 1)
        for number in range(1, 31):
            newer = server.news.note_view(msgspec.structs.replace(view, at=NOW + number))
            asyncio.run_coroutine_threadsafe(newer, server.loop).result(patience(30))
        taken = b""
        while f'"at":{NOW + 30:.1f}'.encode() not in taken:
            taken += slow.recv(1 << 16)
        assert 1 <= taken.count(b"event: view\n") <= 15
        server.stop()
        serving.join(patience(30))
    remove()


def test_events_that_could_not_be_read_for_a_moment_are_no_news_afterwards():
    view = build_view()

    async def follow() -> list[int]:
        told, counts = news.PageNews(), []
        for each in (view, msgspec.structs.replace(view, events=None), view):
            await told.note_view(each)
            counts.append(told._change_count)
        return counts

    first, *later = asyncio.run(follow())
    assert first > 0
    assert later == [first, first]


def test_nothing_that_is_there_is_replaced_by_a_socket_or_removed_with_it(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("elsewhere")
    for name in ("file", "link"):
        with pytest.raises(BadInput, match="exists already") as refused:
            open_page_socket(tmp_path / name)
        assert "rm " not in refused.value.hint
    listening, remove = open_page_socket(tmp_path / "page.sock")
    listening.close()
    with pytest.raises(BadInput, match="exists already") as refused:
        open_page_socket(tmp_path / "page.sock")
    assert f"`rm {tmp_path / 'page.sock'}`" in refused.value.hint
    (tmp_path / "page.sock").unlink()
    (tmp_path / "page.sock").write_text("another's")
    remove()
    assert {each.name for each in tmp_path.iterdir()} == {"file", "link", "page.sock"}
    (tmp_path / "page.sock").unlink()
    listening, remove = open_page_socket(tmp_path / "page.sock")
    (tmp_path / "page.sock").unlink()
    with listening, socket.socket(socket.AF_UNIX) as another:
        another.bind(str(tmp_path / "page.sock"))
        remove()
    assert (tmp_path / "page.sock").exists()
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("path", ["missing/page.sock", "x" * 200, "file/page.sock"])
def test_a_socket_that_cannot_be_is_said(tmp_path, path):
    (tmp_path / "file").touch()
    with pytest.raises(BadInput):
        open_page_socket(tmp_path / path)


def test_a_socket_in_a_deep_directory_is_no_trouble(tmp_path):
    deep = tmp_path.joinpath(*["d" * 40] * 4)
    deep.mkdir(parents=True)
    listening, remove = open_page_socket(deep / "page.sock")
    listening.close()
    remove()
    assert list(deep.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="this machine cannot: only root has rights to drop")
def test_what_serves_has_none_of_roots_rights_and_its_child_asks_and_tidies_up(tmp_path):
    secret = tmp_path / "private.key"
    secret.write_text("secret")
    secret.chmod(0o600)
    tidied = tmp_path / "tidied"

    def ask() -> bytes:
        octets: bytes = secret.read_bytes()
        return octets

    def work() -> dict[str, Any]:
        said: dict[str, Any] = {}
        os.setgroups([0, 3001])
        with become_nobody(ask, tidied.touch) as question:
            said["answers"] = [question().decode() for _ in range(3)]
            said["status"] = Path("/proc/self/status").read_text()
            try:
                secret.read_bytes()
            except PermissionError:
                said["refused"] = True
            try:
                os.setuid(0)
            except PermissionError:
                said["stays"] = True
            with contextlib.suppress(OSError):
                os.kill(1, 0)
                said["may signal"] = True
        return said

    said = run_forked(work)
    assert said["answers"] == ["secret"] * 3
    assert said["refused"]
    assert said["stays"]
    assert "may signal" not in said
    fields = dict(line.split(":\t", 1) for line in said["status"].splitlines() if ":\t" in line)
    assert set(fields["Uid"].split()) == set(fields["Gid"].split()) == {str(NOBODY)}
    assert fields["Groups"].split() == []
    assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == 0
    assert fields["NoNewPrivs"] == "1"
    assert tidied.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="this machine cannot: only root has rights to drop")
def test_an_error_of_the_agent_reaches_the_page_with_its_hint_and_a_dead_child_is_said():
    def ask() -> bytes:
        raise MachineRefused("no agent\u2028here", hint="qmesh apply")

    def end() -> NoReturn:
        os._exit(1)

    def work(asked: Callable[[], bytes]) -> list[str]:
        with become_nobody(asked, lambda: None) as question:
            try:
                question()
            except MachineRefused as error:
                return [error.message, error.hint]
        return []

    assert run_forked(partial(work, ask)) == ["no agent\u2028here", "qmesh apply"]
    assert "has ended" in run_forked(partial(work, end))[0]
