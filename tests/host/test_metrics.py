"""How metrics leave the agent: over HTTP, by its socket, and as a file in a directory of somebody else's."""

from __future__ import annotations

import http.client
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmesh.errors import BadInput, MachineRefused
from qmesh.host.metrics import agent_socket
from qmesh.host.metrics.http_server import MetricsServer
from qmesh.host.metrics.listen import refuse_taken_port
from qmesh.host.metrics.public_file import remove_public_file, replace_public_file
from qmesh.mesh.metrics.outlets import FILE
from qmesh.mesh.values import Endpoint

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


def test_a_port_that_another_program_has_is_refused_with_a_hint(served):
    with pytest.raises(MachineRefused, match="cannot be served") as refused:
        refuse_taken_port(served.place)
    assert "ss -ltnp" in refused.value.hint
    refuse_taken_port(Endpoint("127.0.0.1", free_port()))
    refuse_taken_port(Endpoint("198.51.100.1", 9586))  # the tunnel may be down


def test_the_agent_is_asked_by_its_socket(tmp_path):
    with pytest.raises(MachineRefused):
        agent_socket.request_metrics(tmp_path, wait_s=1.0)
    with agent_socket.listen(tmp_path) as listening:
        assert stat.S_IMODE((tmp_path / agent_socket.SOCKET).stat().st_mode) == 0o600

        def tell() -> None:
            for text in (TEXT, b""):
                agent_socket.send_metrics(listening.accept()[0], text)

        telling = threading.Thread(target=tell)
        telling.start()
        assert agent_socket.request_metrics(tmp_path, wait_s=60.0) == TEXT
        with pytest.raises(MachineRefused):
            agent_socket.request_metrics(tmp_path, wait_s=60.0)
        telling.join()


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
