"""The SSH session of a process: told by an ancestor, and connected."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from qmesh.host import disk_timeout
from qmesh.host.system import boot_clock, processes, ssh_session
from qmesh.mesh.ssh_lockout import Session
from tests.support.waiting import patience

FIND = (
    "import os; from qmesh.host.system.ssh_session import find_session; found = find_session(os.getpid());"
    "print(found and (found.client, found.client_port, found.server, found.server_port))"
)


@pytest.fixture(params=[("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::", "127.0.0.1")], ids=str)
def connection(request):
    """Both ends of a connection, the client's and the server's; in the last case IPv4 to an IPv6 socket."""
    listens, dialled = request.param
    family = socket.AF_INET6 if ":" in listens else socket.AF_INET
    with socket.create_server((listens, 0), family=family, dualstack_ipv6=listens == "::") as listening:
        client = socket.create_connection((dialled, listening.getsockname()[1]))
        server, _ = listening.accept()
    with client, server:
        yield client, server


def told(connection) -> str:
    """As sshd writes it."""
    (client, client_port), (server, server_port) = (each.getsockname()[:2] for each in connection)
    plain = (client.removeprefix("::ffff:"), client_port, server.removeprefix("::ffff:"), server_port)
    return " ".join(map(str, plain))


def found_by(*words: str, variable: str) -> str:
    """What a process finds whose ancestor was told so."""
    environment = {**os.environ, "SSH_CONNECTION": variable}
    done = subprocess.run(
        [*words, sys.executable, "-c", FIND], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


BY_A_SHELL_WHOSE_CHILD_IS_NOT_TOLD = (
    "sh",
    "-c",
    'env -u SSH_CONNECTION sh -c \'"$@"; true\' sh "$@"; true',
    "sh",
)


@pytest.mark.parametrize("words", [(), BY_A_SHELL_WHOSE_CHILD_IS_NOT_TOLD], ids=["directly", "as by sudo"])
def test_a_session_is_found_though_sudo_takes_the_variable_away(connection, words):
    client, client_port, server, server_port = told(connection).split()
    expected = (client, int(client_port), server, int(server_port))
    assert found_by(*words, variable=told(connection)) == str(expected)


def test_one_that_has_ended_is_none(connection):
    words = told(connection)
    for end in connection:
        end.close()
    assert found_by(variable=words) == "None"


@pytest.mark.parametrize(
    "variable", ["", "a b c d", "1 2 3", "127.0.0.1 x 127.0.0.1 22", "\N{SNOWMAN}", "9" * 9999]
)
def test_nonsense_is_none(variable):
    assert found_by(variable=variable) == "None"


def test_a_process_that_is_gone_has_no_parent_and_no_session():
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert processes.read_stat(process.pid) is None
    assert isinstance(ssh_session.find_session(process.pid), Session | None)


def test_a_process_is_known_by_when_it_was_started():
    mine = processes.read_stat(os.getpid())
    assert mine is not None
    assert mine.parent == os.getppid()
    assert mine == processes.read_stat(os.getpid())


def test_the_clock_is_that_of_the_boot_named(tmp_path):
    path = tmp_path / "boot_id"
    path.write_text("0dd\n")
    first, second = boot_clock.now(path), boot_clock.now(path)
    assert first.boot == "0dd"
    assert first.at_s <= second.at_s
    assert boot_clock.now().boot != "0dd"


def test_memory_of_a_user_that_never_answers_or_has_no_end_is_given_up(tmp_path, monkeypatch):
    """As `/proc/PID/environ` is, where he has mapped so at its place."""
    session = Session("192.0.2.1", 40000, "192.0.2.2", 22)
    monkeypatch.setattr(ssh_session, "_PROCESSES", tmp_path)
    monkeypatch.setattr(ssh_session, "_list_ancestors", lambda _: (1, 2, 3))
    monkeypatch.setattr(ssh_session, "_list_connections", lambda: [session])
    monkeypatch.setattr(disk_timeout, "WAIT_S", patience(3.0))
    for number in (1, 2, 3):
        (tmp_path / str(number)).mkdir()
    (tmp_path / "1/environ").symlink_to("/dev/zero")
    (tmp_path / "2/environ").write_text("A=b\0SSH_CONNECTION=192.0.2.1 40000 192.0.2.2 22\0")
    os.mkfifo(tmp_path / "3/environ")
    assert ssh_session.find_session(77) == session
    with (tmp_path / "3/environ").open("wb"):
        pass  # the thread ends
