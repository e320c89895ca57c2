"""Many connections at once: who answers, who refuses, and who says nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import subprocess
import sys
import time

import pytest

from qmesh.host.network import tcp_probe
from qmesh.host.network.tcp_probe import measure_connect_times
from tests.support.waiting import within

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]


@pytest.fixture(autouse=True)
def up():
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


@contextlib.contextmanager
def listening(address: str, port: int):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, port), family=family) as server:
        yield server


def test_who_answers_is_timed_and_who_refuses_left_out():
    with listening("127.0.0.1", 40000), listening("::1", 40001):
        found = measure_connect_times([("127.0.0.1", 40000), ("::1", 40001), ("127.0.0.1", 40002)], wait_s=2)
    assert set(found) == {("127.0.0.1", 40000), ("::1", 40001)}
    assert all(0 < seconds < 2 for seconds in found.values())


def test_who_says_nothing_is_waited_for_once_and_together():
    rule = "add table inet t; add chain inet t c { type filter hook input priority 0; tcp dport 1-999 drop; }"
    subprocess.run(["nft", rule], check=True)
    began = time.monotonic()
    with within(5), listening("127.0.0.1", 40000):
        places = [("127.0.0.1", port) for port in (*range(1, 100), 40000)]
        assert list(measure_connect_times(places, wait_s=0.5)) == [("127.0.0.1", 40000)]
    assert time.monotonic() - began >= 0.5


def test_of_thousands_those_are_left_out_whose_turn_does_not_come_in_time(monkeypatch):
    monkeypatch.setattr(tcp_probe, "AT_ONCE", 7)
    rule = "add table inet t; add chain inet t c { type filter hook input priority 0; tcp dport 1-999 drop; }"
    subprocess.run(["nft", rule], check=True)
    places = [("127.0.0.1", port) for port in range(1, 101)]
    with within(5):
        found = tcp_probe.probe_places(places, wait_s=0.5, most_s=0.1)
    assert found.keys() == set(places)
    assert {each.error for each in found.values()} == {errno.ETIMEDOUT}
    assert [each.seconds for each in found.values()].count(0.0) == 93


def test_no_more_are_begun_at_a_time_than_a_tunnels_queue_takes(monkeypatch):
    rule = "add table inet t; add chain inet t c { type filter hook input priority 0; tcp dport 1-999 drop; }"
    subprocess.run(["nft", rule], check=True)
    times, start = list[float](), tcp_probe._start_connect

    def start_noted(place):
        times.append(time.monotonic())
        return start(place)

    monkeypatch.setattr(tcp_probe, "_start_connect", start_noted)
    tcp_probe.probe_places([("127.0.0.1", port) for port in range(1, 302)], wait_s=0.3)
    assert len(times) == 301
    assert min(later - earlier for earlier, later in zip(times, times[50:], strict=False)) >= 0.02


def test_why_a_place_does_not_answer_is_known():
    rules = """table inet t { chain c { type filter hook input priority 0;
        tcp dport 1 drop
        tcp dport 2 reject with tcp reset
        tcp dport 3 reject with icmpx admin-prohibited
    }
    }"""
    subprocess.run(["nft", rules], check=True)
    with listening("127.0.0.1", 4):
        found = tcp_probe.probe_places([("127.0.0.1", port) for port in range(1, 6)], wait_s=0.5)
    assert {port: found["127.0.0.1", port].error for port in range(1, 6)} == {
        1: errno.ETIMEDOUT,
        2: errno.ECONNREFUSED,
        3: errno.EHOSTUNREACH,
        4: 0,
        5: errno.ECONNREFUSED,
    }
    assert tcp_probe.probe_places([("192.0.2.1", 1)], wait_s=1)["192.0.2.1", 1].error == errno.ENETUNREACH


def test_more_than_are_dialled_at_once(monkeypatch):
    monkeypatch.setattr(tcp_probe, "AT_ONCE", 7)
    with contextlib.ExitStack() as stack:
        for port in range(40000, 40030):
            stack.enter_context(listening("127.0.0.1", port))
        places = [("127.0.0.1", port) for port in range(39990, 40040)]
        assert sorted(measure_connect_times(places, wait_s=2)) == [
            ("127.0.0.1", port) for port in range(40000, 40030)
        ]


def test_each_of_thousands_that_cannot_even_be_called_is_told():
    places = [("192.0.2.1", port) for port in range(1, 1001)]
    found = tcp_probe.probe_places(places, wait_s=1)
    assert found.keys() == set(places)
    assert {each.error for each in found.values()} == {errno.ENETUNREACH}


def test_no_network_is_no_answer():
    assert measure_connect_times([("192.0.2.1", 1), ("2001:db8::1", 1)], wait_s=1) == {}
    assert measure_connect_times([], wait_s=1) == {}


def test_where_this_process_has_no_room_for_a_socket_that_is_the_answer():
    last = os.dup(0)
    os.close(last)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (last + 1, hard))  # which the selector takes
    try:
        found = tcp_probe.probe_places([("127.0.0.1", 9), ("::1", 9)], wait_s=1.0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [each.error for each in found.values()] == [errno.EMFILE] * 2


def test_nothing_is_sent_and_no_descriptor_is_left():
    script = (
        "import os\nfrom qmesh.host.network.tcp_probe import measure_connect_times\n"
        "measure_connect_times([('127.0.0.1', port) for port in range(1, 50)], wait_s=1)\n"
        "print(len(os.listdir('/proc/self/fd')))"
    )
    before = subprocess.run(
        [sys.executable, "-c", "import os; print(len(os.listdir('/proc/self/fd')))"],
        capture_output=True,
        text=True,
        check=True,
    )
    after = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert after.stdout == before.stdout
    with listening("127.0.0.1", 40000) as server:
        measure_connect_times([("127.0.0.1", 40000)], wait_s=1)
        connection, _ = server.accept()
        with connection:
            assert connection.recv(10) == b""
