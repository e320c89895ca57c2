"""How metrics leave the agent: over HTTP, by its socket, and as a file in a directory of somebody else's."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from qmesh.errors import BadInput, MachineRefused
from qmesh.host.api.connections import Connections
from qmesh.host.api.exchange import HttpRequest, Response
from qmesh.host.metrics.caller_owner import CallerOwners
from qmesh.host.metrics.http_server import LIMITS, MOST_A_SECOND, MOST_CONNECTIONS, MetricsServer, _refuse
from qmesh.host.metrics.listen import refuse_taken_port
from qmesh.host.metrics.public_file import is_directory, remove_public_file, replace_public_file
from qmesh.mesh.metrics.outlets import FILE
from qmesh.mesh.values import Endpoint
from tests.support.own_machine import small_disk
from tests.support.waiting import patience, wait_until

TEXT = b"qmesh_x 1\n" * 300_000


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


class Served:
    """A server on loopback, and what it was told by whom."""

    def __init__(self) -> None:
        self.place = Endpoint("127.0.0.1", free_port())
        self.text = TEXT
        self.is_allowed = True
        self.server = MetricsServer(
            self.place, interface=None, render=lambda: self.text, may_read=lambda _: self.is_allowed
        )
        self.server.start()

    def ask(self, path: str = "/metrics", method: str = "GET", **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.place.host, self.place.port, timeout=30)
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


@pytest.fixture(scope="module")
def running() -> Iterator[Served]:
    served = Served()
    yield served
    served.server.stop()
    assert not served.server.is_alive


@pytest.fixture
def served(running: Served) -> Served:
    running.text, running.is_allowed = TEXT, True
    return running


def test_no_page_of_another_site_has_a_browser_load_them(served):
    with socket.create_connection((served.place.host, served.place.port), 30) as asking:
        asking.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head = b"".join(iter(lambda: asking.recv(1 << 16), b"")).partition(b"\r\n\r\n")[0].lower()
    assert b"\r\nx-content-type-options: nosniff" in head
    assert b"\r\ncross-origin-resource-policy: same-origin" in head


def test_metrics_of_megabytes_are_served_whole(served):
    status, body = served.ask()
    assert (status, body) == (200, TEXT)


def test_what_is_no_question_for_metrics_is_refused(served):
    assert served.ask("/")[0] == 404
    assert served.ask("/metrics", "POST")[0] == 405
    assert served.ask(Host="evil.example")[0] == 421
    assert served.ask(Host=f"localhost:{served.place.port}")[0] == 200
    served.text = b""
    assert served.ask()[0] == 503
    served.is_allowed = False
    assert served.ask() == (403, b"")


def test_one_that_sends_no_end_keeps_no_other_from_an_answer(served):
    with socket.create_connection((served.place.host, served.place.port), 30) as slow:
        slow.sendall(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ")
        assert served.ask()[0] == 200
        slow.sendall(b"x" * 100_000)
        assert slow.recv(100).startswith(b"HTTP/1.1 431 ")


def begun(served: Served, source: str, text: bytes = b"GET /metrics HTTP/1.1\r\n") -> socket.socket:
    """A connection from an address of loopback, that has sent that much."""
    place = served.place.host, served.place.port
    connection = socket.create_connection(place, 30, source_address=(source, 0))
    connection.sendall(text)
    return connection


def count_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("sources", [["127.0.0.1"], [f"127.0.1.{each}" for each in range(1, 200)]])
def test_however_many_ask_slowly_prometheus_is_answered_and_few_descriptors_are_taken(served, sources):
    """A user of the machine has all of loopback's addresses, so that no count for each of them helps."""
    assert served.ask()[0] == 200  # it has those by now that it works with
    before = count_descriptors()
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(begun(served, sources[number % len(sources)])) for number in range(200)]
        assert served.ask()[0] == 200
        # Both ends are of this process.
        wait_until(lambda: count_descriptors() - before <= len(slow) + MOST_CONNECTIONS, 20)
    wait_until(lambda: count_descriptors() <= before, 20)


def test_no_more_connections_are_taken_in_a_second_than_leave_time_for_other_work():
    """A user of the machine who asks without end would else have the agent work for him alone."""

    async def take() -> tuple[int, int]:
        with contextlib.ExitStack() as stack, socket.create_server(("127.0.0.1", 0)) as listening:
            for _ in range(20):
                stack.enter_context(socket.create_connection(listening.getsockname()))
            connections = Connections(listening, answer, _refuse, LIMITS._replace(a_second=50))
            listening.settimeout(0)
            connections._accept_connections()
            connections._accept_connections()  # the kernel says at once that there are more
            at_once = len(connections._arriving)
            connections._spell_end = 0.0  # as if that time was over
            connections._accept_connections()
            taken = at_once, len(connections._arriving)
            await connections.shut_down(grace_s=0.0)
            return taken

    async def answer(_: HttpRequest) -> Response:
        raise AssertionError

    assert asyncio.run(take()) == (5, 10)
    assert LIMITS.a_second == MOST_A_SECOND


OTHER_USER: Final = """
import socket, sys
question = b"GET /metrics HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n"
kept = []
for number in range(100):
    kept.append(socket.create_connection(("127.0.0.1", int(sys.argv[1])), 30, (f"127.0.1.{number}", 0)))
    kept[-1].sendall(question[: len(question) if number % 2 else -2])
print("all", flush=True)
sys.stdin.read()
"""


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
def test_a_user_who_does_not_take_his_answers_displaces_no_connection_of_another_user():
    """However old that one is, and from however many addresses he comes."""
    served = Served()
    try:
        with begun(served, "127.0.0.1") as slow:
            words = ["/usr/bin/python3", "-ISc", OTHER_USER, str(served.place.port)]
            pipe = subprocess.PIPE
            with subprocess.Popen(words, user=65534, group=65534, stdin=pipe, stdout=pipe) as other:
                assert other.stdout is not None
                assert other.stdout.readline() == b"all\n"
                slow.sendall(b"Host: localhost\r\n\r\n")
                assert slow.recv(100).startswith(b"HTTP/1.1 200 ")
                other.kill()
    finally:
        served.server.stop()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_whose_a_connection_is_says_the_kernel_as_long_as_a_program_has_it(host):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with (
        contextlib.closing(CallerOwners()) as owners,
        socket.create_server((host, 0), family=family) as server,
    ):
        with socket.create_connection(server.getsockname()[:2]):
            called = server.accept()[0]
            assert owners.find_owner(called) == f"user {os.geteuid()}"
            assert owners.find_owner(called) == f"user {os.geteuid()}"
        with called:
            assert owners.find_owner(called) == "", "it would count as root's"


class Gone(socket.socket):
    """A connection whose other end the kernel does not have."""

    def __init__(self, peer: tuple[str, int]) -> None:
        super().__init__()
        self.peer = peer

    def getpeername(self) -> tuple[str, int]:
        return self.peer

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", 1


def test_nobody_here_has_a_connection_of_another_machine_or_one_whose_port_only_listens():
    """The kernel answers with what it was asked, or with the socket that listens there."""
    with contextlib.closing(CallerOwners()) as owners, socket.create_server(("127.0.0.1", 0)) as other:
        for peer, owner in (
            (("192.0.2.1", 5), "192.0.2.1"),
            (("127.0.0.1", 1), ""),
            (other.getsockname(), ""),
        ):
            with Gone(peer) as connection:
                assert owners.find_owner(connection) == owner


def test_of_who_has_most_those_give_way_first_that_have_not_asked():
    """And who has asked still has his."""
    owners = ["anna", "anna", "anna", "anna", "bert", "carl", "carl"]

    async def serve() -> tuple[list[str], list[str]]:
        async def answer(_: HttpRequest) -> Response:
            await asyncio.get_running_loop().create_future()
            raise AssertionError

        with contextlib.ExitStack() as stack, socket.create_server(("127.0.0.1", 0)) as listening:
            limits = LIMITS._replace(a_peer=5, in_all=5)
            connections = Connections(listening, answer, _refuse, limits, lambda _: owners.pop(0))
            connections.start_accepting()
            for asked in (1, 2, 3, 3, 3, 3, 2):
                called = stack.enter_context(socket.create_connection(listening.getsockname()))
                before = len(owners)
                if asked > len(connections._asked):
                    called.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
                async with asyncio.timeout(patience(30)):
                    while len(owners) == before or len(connections._asked) != asked:  # noqa: ASYNC110 - nothing is told
                        await asyncio.sleep(0)
            left = list(connections._asked.values()), list(connections._arriving.values())
            await connections.shut_down(grace_s=0.0)
            return left

    assert asyncio.run(serve()) == (["anna"] * 2, ["bert", "carl", "carl"])


def test_those_who_do_not_take_their_answers_keep_no_other_from_one(served):
    question = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(2 * MOST_CONNECTIONS):
            stack.enter_context(begun(served, "127.0.0.1", question))
        assert served.ask() == (200, TEXT)


@pytest.mark.parametrize(
    ("question", "status"),
    [
        (b"GET /metrics HTTP/1.0\r\n\r\n", b"421"),
        (b"GET /metrics HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", b"400"),
        (b"GET http://evil.example/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", b"404"),
        (b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: a\nb\r\n\r\n", b"400"),
        (b"GET /metrics?x=../.. HTTP/1.1\r\nHost: localhost@evil.example\r\n\r\n", b"421"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
    ],
)
def test_what_is_no_request_or_names_another_host_is_told_nothing(served, question, status):
    with begun(served, "127.0.0.1", question) as asking:
        answer = b"".join(iter(lambda: asking.recv(1 << 16), b""))
    assert answer.split(b" ", 2)[1] == status
    assert b"qmesh_x" not in answer


def test_a_second_request_hidden_in_the_first_is_not_answered(served):
    """Behind a proxy it would be another's answer. One connection has one answer, and is closed."""
    hidden = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
    head = b"POST /metrics HTTP/1.1\r\nHost: localhost\r\n"
    for how in (
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Content-Length: 0\r\nContent-Length: 50\r\n\r\n",
        b"Content-Length: 0\r\n\r\n",
    ):
        with begun(served, "127.0.0.1", head + how + hidden) as asking:
            answer = b"".join(iter(partial(asking.recv, 1 << 16), b""))
        assert answer.count(b"HTTP/1.1 ") == 1, how
        assert b"qmesh_x" not in answer, how


def test_a_port_that_another_program_has_is_refused_with_a_hint(served):
    with pytest.raises(MachineRefused, match="cannot be served") as refused:
        refuse_taken_port(served.place)
    assert "ss -ltnp" in refused.value.hint
    refuse_taken_port(Endpoint("127.0.0.1", free_port()))
    refuse_taken_port(Endpoint("198.51.100.1", 9586))  # the tunnel may be down


def test_the_file_is_whole_readable_and_the_only_one(tmp_path):
    (tmp_path / ".qmesh.prom.abcdefgh").write_bytes(b"of one that was killed")
    for text in (TEXT, b"qmesh_x 2\n"):
        replace_public_file(tmp_path, FILE, text)
        assert (tmp_path / FILE).read_bytes() == text
        assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o644
        assert [each.name for each in tmp_path.iterdir()] == [FILE]
    remove_public_file(tmp_path, FILE)
    remove_public_file(tmp_path, FILE)
    remove_public_file(tmp_path / "missing", FILE)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(MachineRefused, match="there is no directory"):
        replace_public_file(tmp_path / "missing", FILE, TEXT)


def test_a_link_in_the_place_of_the_file_is_replaced_and_not_followed(tmp_path):
    other = tmp_path / "other"
    other.write_bytes(b"mine")
    (tmp_path / FILE).symlink_to(other)
    replace_public_file(tmp_path, FILE, TEXT)
    assert not (tmp_path / FILE).is_symlink()
    assert other.read_bytes() == b"mine"


def test_whatever_is_in_the_place_of_the_file_the_agent_is_not_kept_waiting(tmp_path):
    os.mkfifo(tmp_path / FILE)
    replace_public_file(tmp_path, FILE, TEXT)
    assert (tmp_path / FILE).read_bytes() == TEXT
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).mkdir()
    (tmp_path / FILE / "mine").touch()
    with pytest.raises(MachineRefused, match=FILE):
        replace_public_file(tmp_path, FILE, TEXT)
    with pytest.raises(MachineRefused, match=FILE):
        remove_public_file(tmp_path, FILE)
    assert [each.name for each in tmp_path.iterdir()] == [FILE]


def test_what_is_said_of_the_directory_names_the_option_that_it_was_given_by(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("link")
    for path in (tmp_path / "file", tmp_path / "file/below", Path("relative"), tmp_path / "link"):
        with pytest.raises((BadInput, MachineRefused)) as refused:
            replace_public_file(path, FILE, TEXT)
        assert "--config" not in refused.value.hint
        assert not is_directory(path)
    assert is_directory(tmp_path)


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
def test_on_a_full_disk_the_file_stays_as_it_was_and_nothing_is_beside_it():
    with small_disk() as directory:
        replace_public_file(directory, FILE, b"qmesh_x 1\n")
        with pytest.raises(MachineRefused, match="No space left"):
            replace_public_file(directory, FILE, TEXT)
        assert (directory / FILE).read_bytes() == b"qmesh_x 1\n"
        assert [each.name for each in directory.iterdir()] == [FILE]


@pytest.mark.skipif(os.geteuid() != 0, reason="this machine cannot: only root has files of others")
def test_in_a_users_directory_it_is_written_with_that_users_rights(tmp_path):
    """Whatever that user puts there, root writes nowhere else for him."""
    home, foreign = Path("/tmp") / tmp_path.name / "home", tmp_path / "foreign"
    home.mkdir(parents=True)
    foreign.mkdir()
    try:
        os.chown(home, 65534, 65534)
        replace_public_file(home, FILE, TEXT)
        assert (home / FILE).stat().st_uid == 65534
        home.chmod(0o555)
        with pytest.raises(MachineRefused):
            replace_public_file(home, FILE, b"qmesh_x 2\n")
        home.chmod(0o755)
        (home / "inside").symlink_to(foreign)
        os.lchown(home / "inside", 65534, 65534)
        with pytest.raises(BadInput):
            replace_public_file(home / "inside", FILE, TEXT)
        assert list(foreign.iterdir()) == []
    finally:
        for each in home.iterdir():
            each.unlink()
        home.rmdir()
        home.parent.rmdir()
