"""Which process has which of the node's sockets, and when it was started: from the kernel alone."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmesh.host.network.sockets import node_sockets, tcp_connections
from qmesh.host.network.sockets.node_sockets import SocketObserver, SocketPorts
from qmesh.host.network.sockets.socket_lists import ESTABLISHED, LISTENING, select_tcp_sockets
from qmesh.host.system import processes
from qmesh.mesh.node_processes.observed import Connection
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]

STREAM, CLOSED, P2P = 8340, 32501, 8336
WANTED = SocketPorts(
    tcp=frozenset({STREAM, CLOSED}),
    udp=frozenset({P2P}),
    at=frozenset({STREAM}),
    to=frozenset({STREAM}),
)
PROGRAM = f"""
import socket, sys
server = socket.create_server(("127.0.0.1", {CLOSED}))
quic = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
quic.bind(("127.0.0.1", {P2P}))
call = socket.create_connection(("127.0.0.1", {STREAM}))
print("ready", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def worker() -> Iterator[subprocess.Popen[str]]:
    """A process that listens at a worker's port and at 8336, and is connected to 8340."""
    words = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as found:
        assert found.stdout is not None
        assert found.stdout.readline() == "ready\n"
        yield found
        found.kill()


def test_connections_that_are_over_are_passed_over():
    with socket.create_server(("127.0.0.1", STREAM)) as server:
        with socket.create_connection(("127.0.0.1", STREAM)) as call:
            called, (_, port) = server.accept()
            assert {each.port for each in select_tcp_sockets({LISTENING, ESTABLISHED})} == {STREAM, port}
            call.shutdown(socket.SHUT_WR)
        called.close()
        over = f":{port:04X} 0100007F:{STREAM:04X} 06 "
        wait_until(lambda: over in Path("/proc/net/tcp").read_text("ascii"))
        assert {each.port for each in select_tcp_sockets({LISTENING, ESTABLISHED})} == {STREAM}


def test_each_socket_has_its_process_and_that_its_start():
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    with socket.create_server(("127.0.0.1", STREAM)), worker() as found:
        seen = SocketObserver().observe_sockets(WANTED)
        after = time.clock_gettime(time.CLOCK_BOOTTIME)
        by = {(each.protocol, each.port): each.process for each in seen.listening}
        (outgoing,) = (each for each in seen.connections if each.remote_port == STREAM)
    assert set(by) == {("tcp", STREAM), ("tcp", CLOSED), ("udp", P2P)}
    for place in (("tcp", CLOSED), ("udp", P2P)):
        process = by[place]
        assert process is not None
        assert process.number == found.pid == outgoing.process
        assert process.program.startswith("python")
        assert before - 0.02 <= process.started_s <= after
    own = by["tcp", STREAM]
    assert own is not None
    assert own.number == os.getpid()
    assert {each.user for each in seen.listening} == {os.geteuid()}


def test_what_is_not_asked_for_is_left_out():
    with socket.create_server(("127.0.0.1", STREAM)), worker():
        nothing = SocketObserver().observe_sockets(SocketPorts(tcp=frozenset({9})))
        assert (nothing.listening, nothing.connections) == ((), ())
        (only,) = SocketObserver().observe_sockets(SocketPorts(tcp=frozenset({CLOSED}))).listening
    assert only.port == CLOSED


def test_a_process_is_looked_for_once_and_again_when_it_is_gone(monkeypatch):
    asked: list[set[str]] = []
    find = processes.find_socket_owners

    def count(inodes):
        asked.append(set(inodes))
        return find(inodes)

    monkeypatch.setattr(processes, "find_socket_owners", count)
    observer = SocketObserver()
    with socket.create_server(("127.0.0.1", STREAM)) as server:
        with worker() as first:
            seen = observer.observe_sockets(WANTED)
            assert observer.observe_sockets(WANTED) == seen
            assert [bool(inodes) for inodes in asked] == [True, False]
            number = first.pid
        server.accept()[0].close()
        with worker() as second:
            seen = observer.observe_sockets(WANTED)
            numbers = {each.process.number for each in seen.listening if each.process is not None}
            assert numbers == {second.pid, os.getpid()}
            assert number != second.pid


def test_a_socket_that_outlives_the_process_that_made_it_is_its_heirs():
    """A program that goes into the background: the one that listened first has ended."""
    server = socket.create_server(("127.0.0.1", CLOSED))
    number = os.fork()
    if number == 0:
        server.close()
        with socket.create_server(("127.0.0.1", STREAM)) as made:
            heir = subprocess.Popen(["sleep", "60"], pass_fds=[made.fileno()])
            Path("/run/heir").write_text(str(heir.pid))
            os._exit(0)
    observer = SocketObserver()
    os.waitpid(number, 0)
    seen = observer.observe_sockets(WANTED)
    heirs = {each.port: each.process.number for each in seen.listening if each.process}
    server.close()
    assert heirs[STREAM] == int(Path("/run/heir").read_text())


def test_a_program_cannot_write_its_name_over_other_lines():
    Path("/proc/self/comm").write_text("a\n\x1b[2Jb")
    with socket.create_server(("127.0.0.1", CLOSED)):
        (listening,) = SocketObserver().observe_sockets(SocketPorts(tcp=frozenset({CLOSED}))).listening
    assert listening.process is not None
    assert listening.process.program.isprintable()


def test_the_unit_is_read_of_the_control_group(monkeypatch):
    texts = iter(
        [
            "0::/system.slice/system-qmesh\\x2dworker.slice/qmesh-worker@4.service\n",
            "5:pids:/x.service\n1:name=systemd:/system.slice/node.service\n",
            "0::/user.slice/user-0.slice/session-1.scope\n",
            "5:pids:/x.service\n",
            "0::/\n",
        ]
    )
    monkeypatch.setattr(Path, "read_text", lambda *_: next(texts))
    assert [processes.read_unit(1) for _ in range(5)] == [
        "qmesh-worker@4.service",
        "node.service",
        "",
        "",
        "",
    ]


def test_there_is_no_unit_of_a_process_that_ended():
    assert processes.read_unit(2**22) == ""
    assert node_sockets.read_process(2**22) is None


def test_just_the_connections_that_are_named_are_cut():
    with socket.create_server(("127.0.0.1", STREAM)) as server:
        first, second = (socket.create_connection(("127.0.0.1", STREAM)) for _ in range(2))
        ends = [server.accept()[0] for _ in range(2)]
        address, port = first.getsockname()
        tcp_connections.close_connections([Connection(address, port, "127.0.0.1", STREAM, 0)])
        with pytest.raises(ConnectionError):
            first.recv(1)
        second.sendall(b"word")
        assert ends[1].recv(4) == b"word"
        tcp_connections.close_connections([])
        second.sendall(b"word")
        assert ends[1].recv(4) == b"word"
        for each in (first, second, *ends):
            each.close()


@pytest.mark.parametrize(
    ("line", "files", "found"),
    [
        ("0::/a/b", {"a/b/cgroup.events": "populated 1\nfrozen 1\n", "a/cgroup.freeze": "1\n"}, "a"),
        ("0::/a/b", {"unified/a/b/cgroup.events": "frozen 1\n"}, "unified/a/b"),
        ("0::/a/b", {"a/b/cgroup.events": "populated 1\nfrozen 0\n", "a/cgroup.freeze": "1\n"}, ""),
        (
            "6:freezer:/a",
            {"freezer/a/freezer.state": "FROZEN\n", "freezer/a/freezer.self_freezing": "1\n"},
            "freezer/a",
        ),
        ("6:freezer:/a", {"freezer/a/freezer.state": "THAWED\n"}, ""),
        ("3:cpuset:/a", {"a/cgroup.events": "frozen 1\n"}, ""),
    ],
)
def test_the_group_with_which_a_process_is_frozen(tmp_path, monkeypatch, line, files, found):
    """By the kernel's files, as of Linux 6.18 with both kinds of control groups."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    places = {
        controllers: (tuple(tmp_path / root.relative_to("/sys/fs/cgroup") for root in roots), *more)
        for controllers, (roots, *more) in processes._FROZEN.items()
    }
    monkeypatch.setattr(processes, "_FROZEN", places)
    assert processes.read_frozen_group(line) == (str(tmp_path / found) if found else "")
    assert processes.find_frozen_group(os.getpid()) == ""
    assert processes.find_frozen_group(0) == ""
