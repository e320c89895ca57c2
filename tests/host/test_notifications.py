"""Receivers that are slow, dead or lying, and programs that do not end: each has its time."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmesh.errors import BadInput, MachineRefused
from qmesh.host.notifications import delivery, http_sender, notify_socket
from qmesh.host.notifications.delivery import find_program_file, judge_answer, run_program, send_by_http
from qmesh.host.notifications.delivery_result import DeliveryResult
from qmesh.host.system.limited_child import ChildLimits, run_limited_child
from qmesh.host.unprivileged import NOBODY
from qmesh.mesh.notifications.change import ToldChange
from qmesh.mesh.notifications.formats import Request, build_request
from qmesh.mesh.notifications.outbox import Batch
from qmesh.mesh.notifications.targets import NotifyTarget, SecretUrl
from qmesh.mesh.notifications.text import Sender
from qmesh.mesh.notifications.url import parse_web_url
from tests.support.receivers import OK, Authority, Behaviour, receiving
from tests.support.waiting import patience, wait_until, within

SECRET = "s3cr3t-T0ken"
BATCH = Batch((ToldChange(at=1_700_000_000, kind="test", phase="happened", number=1, machine="fra-1"),))


def request_to(url: str) -> Request:
    return build_request(NotifyTarget("1", "json", SecretUrl(url)), Sender("fra-1", "m"), BATCH)


def send(port: int, scheme: str = "http") -> DeliveryResult:
    """By a process of its own, as the agent sends."""
    url = f"{scheme}://127.0.0.1:{port}/{SECRET}?k={SECRET}"
    return send_by_http(request_to(url), parse_web_url(url))


def test_a_message_arrives_and_what_came_back_is_told():
    with receiving() as receiver:
        result = send(receiver.port)
    assert (result.is_delivered, result.text, result.said) == (True, "delivered: 200 OK", "ok")
    head, _, body = receiver.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(f"POST /{SECRET}?k={SECRET} HTTP/1.1\r\n".encode())
    assert json.loads(body)["changes"][0]["kind"] == "test"


def answer(status: str, *headers: str, body: str = "") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", body]
    return "\r\n".join(lines).encode()


def hang(caller: socket.socket) -> None:
    caller.recv(1)


def flood(caller: socket.socket) -> None:
    caller.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10737418240\r\n\r\n")
    while True:
        caller.sendall(bytes(1 << 20))


def drip(caller: socket.socket) -> None:
    waiting = threading.Event()
    while not waiting.wait(0.02):
        caller.sendall(b"x")


def say_and_hang(caller: socket.socket) -> None:
    caller.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
    caller.recv(1)


@pytest.mark.parametrize(
    ("behave", "text"),
    [
        (answer("404 Not Found", body=f"no hook {SECRET}"), "it answers 404 Not Found"),
        (answer("503 \x1b[2J"), "it answers 503 \\x1b[2J"),
        (
            answer("302 Found", f"Location: https://evil.example/{SECRET}"),
            "302 Found: it redirects to evil.example, which is not followed",
        ),
        (answer("301 Moved", "Location: /[" + SECRET), "301 Moved: it redirects to elsewhere"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "its answer is not HTTP (BadStatusLine)"),
        (b"", "its answer is not HTTP (RemoteDisconnected)"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", "its answer is not HTTP (HTTPException)"),
    ],
)
def test_what_takes_nothing_is_told_why_without_the_secret(behave, text):
    with receiving(behave) as receiver:
        result = send(receiver.port)
    assert not result.is_delivered
    assert result.text.startswith(text)
    assert SECRET not in repr(result)


@pytest.mark.parametrize(
    "printed",
    [
        {"error": f"/{SECRET} is not there"},
        {"status": 404, "reason": f"no {SECRET}"},
        {"status": 200, "reason": f"{SECRET} it is"},
        {"status": 404, "body": f"k={SECRET}"},
        {"status": 302, "reason": SECRET, "body": SECRET},
    ],
)
def test_whatever_the_sending_process_prints_is_told_without_the_secret(printed):
    url = parse_web_url(f"https://ntfy.example/{SECRET}?k={SECRET}")
    result = judge_answer(json.dumps(printed).encode(), 0, url)
    assert "..." in f"{result.text}{result.said}"
    assert SECRET not in repr(result)


@pytest.mark.parametrize("behave", [flood, say_and_hang], ids=lambda each: each.__name__)
def test_of_an_answer_little_is_read_and_its_status_counts(behave, monkeypatch):
    monkeypatch.setattr(http_sender, "STEP_S", 0.2)
    with receiving(behave) as receiver:
        url = f"http://127.0.0.1:{receiver.port}/"
        said = http_sender.send_request(as_asked(request_to(url)))
    assert said["status"] == 200
    assert len(str(said.get("body", ""))) <= http_sender.MOST_ANSWER


@pytest.mark.parametrize("octet", [b"\0", b"\xff", "\U0001f600".encode()])
def test_whatever_is_in_an_answer_its_status_counts(octet):
    """As what is printed of it, it is several times as long."""
    reason = b"\xff" * 5000
    head = b"HTTP/1.1 200 %s\r\nContent-Length: 8000\r\n\r\n" % reason
    with receiving(head + (octet * 8000)[:8000]) as receiver:
        result = send(receiver.port)
    assert result.is_delivered, result
    assert result.text.isprintable()
    assert result.said.isprintable()


@pytest.mark.parametrize("behave", [hang, drip], ids=lambda each: each.__name__)
def test_who_never_answers_is_given_up(behave: Behaviour, monkeypatch):
    monkeypatch.setattr(delivery, "SEND_S", patience(0.4))
    with receiving(behave) as receiver:
        result = send(receiver.port)
    assert not result.is_delivered
    assert result.text.startswith("no answer within")


def test_where_nothing_listens_is_told():
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    assert send(port).text == "Connection refused"


def as_asked(request: Request) -> http_sender.Asked:
    return {
        "scheme": request.scheme,
        "host": request.host,
        "port": request.port,
        "target": request.target,
        "headers": dict(request.headers),
        "body": request.body,
    }


def send_by_tls(port: int, trust: ssl.SSLContext | None) -> dict[str, object]:
    request = request_to(f"https://127.0.0.1:{port}/{SECRET}")
    return http_sender.send_request(as_asked(request), trust=trust)


def test_certificates_are_looked_at(tmp_path):
    (tmp_path / "other").mkdir()
    ours, other = Authority(tmp_path), Authority(tmp_path / "other")
    expected = {
        "good": (ours.serve(), ours.trust(), None),
        "another CA's": (
            other.serve(),
            ours.trust(),
            "its certificate is not accepted: unable to get local issuer",
        ),
        "not the system's": (
            ours.serve(),
            None,
            "its certificate is not accepted: unable to get local issuer",
        ),
        "for another host": (
            ours.serve("127.0.0.2"),
            ours.trust(),
            "its certificate is not accepted: IP address",
        ),
        "of last week": (
            ours.serve(days=-1),
            ours.trust(),
            "its certificate is not accepted: certificate has exp",
        ),
    }
    for name, (serving, trusting, error) in expected.items():
        with receiving(context=serving) as receiver:
            said = send_by_tls(receiver.port, trusting)
        if error is None:
            assert said["status"] == 200, name
            assert len(receiver.requests) == 1
        else:
            assert str(said["error"]).startswith(error), name
            assert receiver.requests == [], "the secret was sent"


def test_who_speaks_no_tls_is_told_nothing():
    with receiving(greeting=b"SSH-2.0-OpenSSH_9.2\r\n") as receiver:
        said = send_by_tls(receiver.port, None)
        assert str(said["error"]).startswith("TLS failed: ")
    assert not any(SECRET.encode() in each for each in receiver.requests)


@contextlib.contextmanager
def silent_address(port: int) -> Iterator[str]:
    """An address at which nothing is answered at a port, as where a network has no way out."""
    with contextlib.ExitStack() as kept:
        silent = kept.enter_context(socket.create_server(("127.0.0.2", port), backlog=0))
        for _ in range(2):  # beyond those that it has room for, it answers nothing
            waiting = kept.enter_context(socket.socket())
            waiting.settimeout(0)
            waiting.connect_ex(silent.getsockname())
        yield "127.0.0.2"


def name_leads_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Any name that is looked up."""

    def look_up(_: str, port: int, *__: object, **___: object) -> list[object]:
        stream = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [
            (socket.AF_INET6 if ":" in each else socket.AF_INET, *stream, (each, port)) for each in addresses
        ]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_dead_addresses_of_a_name_use_up_no_time(monkeypatch, tmp_path, scheme):
    authority = Authority(tmp_path)
    context = authority.serve() if scheme == "https" else None
    with receiving(context=context) as receiver, silent_address(receiver.port) as silent:
        name_leads_to(monkeypatch, *[silent] * 6, "127.0.0.3", "127.0.0.1")
        asked = as_asked(request_to(f"{scheme}://127.0.0.1:{receiver.port}/"))
        with within(8.0):  # six that are waited for would take a minute
            said = http_sender.send_request(asked, trust=authority.trust())
    assert said["status"] == 200, said


def test_a_name_of_which_no_address_answers_says_why(monkeypatch):
    monkeypatch.setattr(http_sender, "STEP_S", 1.0)
    with receiving() as receiver, silent_address(receiver.port) as silent:
        asked = as_asked(request_to(f"http://127.0.0.1:{receiver.port}/"))
        for addresses, error in (
            ([silent, "127.0.0.3"], "no answer within 1 s"),
            (["127.0.0.3", "127.0.0.4"], "Connection refused"),
            ([], "No route to host"),
        ):
            name_leads_to(monkeypatch, *addresses)
            assert http_sender.send_request(asked) == {"error": error}
    assert receiver.requests == []


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
def test_the_systems_store_of_certificates_counts():
    """As `update-ca-certificates` would have it: here, where the library looks first."""
    store = Path(ssl.get_default_verify_paths().openssl_cafile)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", store.parent], check=True)
    authority = Authority(Path("/run"))
    with receiving(context=authority.serve()) as receiver:
        assert send(receiver.port, "https").text.startswith("its certificate is not accepted")
        store.write_bytes(authority.file.read_bytes())
        assert send(receiver.port, "https").is_delivered


def test_the_secret_is_in_no_argument_and_no_environment():
    found: list[str] = []

    def look(caller: socket.socket) -> None:
        for each in Path("/proc").glob("[0-9]*"):
            for name in ("cmdline", "environ"):
                try:
                    found.append((each / name).read_text("utf-8", "replace"))
                except OSError:
                    continue
        caller.sendall(OK)

    with receiving(look) as receiver:
        assert send(receiver.port).is_delivered
    assert any("qmesh.host.notifications.http_sender" in each for each in found)
    assert not any(SECRET in each for each in found)


@pytest.mark.skipif(os.geteuid() != 0, reason="this machine cannot: who is not root has no right to give up")
def test_r1_what_speaks_with_receivers_has_none_of_roots_rights():
    """An answer is read by OpenSSL and Python, of whoever sends it."""
    users: list[str] = []

    def look(caller: socket.socket) -> None:
        port = f":{caller.getpeername()[1]:04X} "
        lines = Path("/proc/net/tcp").read_text("ascii").splitlines()
        users.extend(line.split()[7] for line in lines if port in f"{line.split()[1]} ")
        caller.sendall(OK)

    with receiving(look) as receiver:
        assert send(receiver.port).is_delivered
    assert users == [str(NOBODY)]


# Programs

PLACE = Path("/run/hooks")


def make_program(body: str, *, mode: int = 0o755, interpreter: str = "/bin/sh") -> str:
    PLACE.mkdir(exist_ok=True)
    path = PLACE / "hook"
    path.write_text(f"#!{interpreter}\n{body}\n")
    path.chmod(mode)
    return str(path)


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
def test_a_program_gets_the_message_and_nothing_else(monkeypatch):
    monkeypatch.setenv("QMESH_SECRET", SECRET)
    path = make_program(
        "cat >/run/got; env >/run/env; echo $# $(pwd) >/run/words; ls /proc/self/fd >/run/fds"
    )
    result = run_program(path, '{"text": "x"}')
    assert (result.is_delivered, result.text) == (True, "delivered: it ended with code 0")
    assert Path("/run/got").read_text() == '{"text": "x"}'
    assert SECRET not in Path("/run/env").read_text()
    assert Path("/run/words").read_text() == "0 /\n"
    assert len(Path("/run/fds").read_text().split()) == 4  # three, and that of ls


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
def test_what_becomes_of_a_program_is_told():
    big = "x" * (1 << 20)
    for body, text, said in (
        ("echo first; echo no mail server >&2; exit 75", "it ended with code 75", "no mail server"),
        ("kill -SEGV $$", "it was ended by SIGSEGV", ""),
        ("exec head -c 50000000 /dev/zero", "delivered: it ended with code 0", None),
        ("exit 0", "delivered: it ended with code 0", ""),  # it reads nothing of a message that is large
    ):
        result = run_program(make_program(body), big)
        assert result.text == text
        assert said is None or result.said == said
    missing = run_program(make_program("true", interpreter="/no/such"), "")
    assert not missing.is_delivered


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
@pytest.mark.parametrize(("megabytes", "code"), [(100, 0), (300, 1)])
def test_a_program_and_what_it_starts_have_little_memory_and_go_first_where_the_machine_has_none(
    megabytes, code
):
    """And may reserve more than they use, as programs in Go do: a mapping that they may not write to."""
    took = f"import mmap; a = mmap.mmap(-1, 4 << 30, 34, 1); b = b'x' * ({megabytes} << 20)"
    program = make_program(
        f'cat /proc/self/oom_score_adj >/run/score; {sys.executable} -ISc "{took}"; exit $?'
    )
    result = run_program(program, "")
    assert (result.is_delivered, result.said) == (code == 0, "MemoryError" if code else "")
    assert Path("/run/score").read_text() == "1000\n"


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
def test_a_program_that_does_not_end_is_killed_with_all_that_it_started(monkeypatch):
    monkeypatch.setattr(delivery, "PROGRAM_S", patience(1.0))
    begun = Path("/run/begun")
    program = make_program(
        "sleep 1000 & setsid sleep 1000 &\n"
        f"(trap '' TERM HUP; touch {begun}; while :; do echo x; done) & sleep 1000"
    )
    assert run_program(program, "").text.startswith("it did not end within")
    assert begun.exists()
    wait_until(lambda: not {"sleep", "hook"} & set(list_programs()))


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
def test_what_a_program_leaves_behind_ends_with_it_and_is_not_waited_for():
    for body in ("sleep 1000 & exit 0", "yes & exit 0", "(setsid sleep 1000; sleep 1000) & exit 0"):
        assert run_program(make_program(body), "").is_delivered
    wait_until(lambda: not {"sleep", "yes"} & set(list_programs()))


def list_programs() -> list[str]:
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        try:
            is_dead = "\nState:\tZ" in (each / "status").read_text()
            found += [] if is_dead else [(each / "comm").read_text().strip()]
        except OSError:
            continue
    return found


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
def test_a_program_that_others_can_change_is_not_run():
    path = make_program("touch /run/was-run")
    assert find_program_file(path) == path
    (PLACE / "link").symlink_to(path)
    assert find_program_file(str(PLACE / "link")) == path

    def refused(match: str, named: str = path) -> None:
        with pytest.raises(BadInput, match=match) as error:
            find_program_file(named)
        assert error.value.hint
        assert not run_program(named, "").is_delivered

    for mode in (0o775, 0o757):
        Path(path).chmod(mode)
        refused("others than root can change")
    Path(path).chmod(0o755)
    os.chown(path, 1000, 0)
    refused("others than root can change")
    os.chown(path, 0, 0)
    for mode in (0o777, 0o1777):
        PLACE.chmod(mode)
        refused("others than root can change")
    PLACE.chmod(0o755)
    os.chown(PLACE, 1000, 1000)
    refused("others than root can change")
    os.chown(PLACE, 0, 0)
    Path(path).chmod(0o644)
    refused("is not a program")
    (PLACE / "directory").mkdir()
    refused("is not a program", str(PLACE / "directory"))
    refused("is not there", str(PLACE / "none"))
    (PLACE / "round").symlink_to(PLACE / "round")
    refused("is not a program", str(PLACE / "round"))
    users = Path("/run/alice")
    users.mkdir()
    (users / "to-hooks").symlink_to(PLACE)
    os.chown(users, 1000, 1000)
    refused("is a link to", str(users / "to-hooks" / "hook"))
    (users / "hook").symlink_to(path)
    refused("others than root can change", str(users / "hook"))
    reader = users / "python"
    reader.write_text("#!/bin/sh\ntouch /run/was-run\n")
    reader.chmod(0o755)  # root's own, in a user's directory
    Path(path).chmod(0o755)
    script = Path(path).read_text()
    for first, match in (
        (f"#!{reader}", "others than root can change"),
        (f"#! {reader} -I", "others than root can change"),
        ("#!python", "first line"),
        ("#!", "first line"),
        (f"#!{path}", "first line"),
        ("#!/usr/none", "is not there"),
    ):
        Path(path).write_text(f"{first}\n{script}")
        refused(match)
    Path(path).write_text(script)
    assert not Path("/run/was-run").exists()
    Path(path).chmod(0o755)
    assert run_program(path, "").is_delivered
    assert Path("/run/was-run").exists()


def test_a_child_has_so_much_of_the_processor_and_of_memory_and_is_as_nice():
    limits = ChildLimits(patience(20), processor_s=7, memory=1 << 30, niceness=19)
    words = ("/bin/sh", "-c", "read go; ulimit -t; ulimit -v; nice")
    assert run_limited_child(words, b"go\n", limits).output.split() == [b"7", b"%d" % (1 << 20), b"19"]


def test_a_child_whose_weight_cannot_be_set_has_its_limits(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "setpriority", refuse)
    limits = ChildLimits(patience(20), processor_s=7, data=1 << 30, niceness=19)
    words = ("/bin/sh", "-c", "read go; ulimit -t; ulimit -d")
    assert run_limited_child(words, b"go\n", limits).output.split() == [b"7", b"%d" % (1 << 20)]


def refuse(*_: object) -> None:
    raise PermissionError


def test_what_a_child_took_is_known_also_of_one_that_was_ended():
    begun = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    for ending, code in (("sleep 60", None), ("kill -9 $$", -9), ("exit 3", 3)):
        words = ("/bin/sh", "-c", f"i=0; while [ $i -lt 40000 ]; do i=$((i+1)); done; {ending}")
        ended = run_limited_child(words, b"", ChildLimits(1.0 if code is None else patience(20)))
        assert ended.code == code
        assert 0 < ended.processor_s < 10
        begun += ended.processor_s
    assert abs(sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - begun) < 0.01  # none is left behind


def test_what_a_child_prints_is_bounded_and_it_is_not_kept_waiting():
    limits = ChildLimits(patience(20), output=10_000)
    ended = run_limited_child(("/bin/sh", "-c", "head -c 1000000 /dev/zero; exit 3"), b"", limits)
    assert (ended.code, len(ended.output)) == (3, 10_000)


# A test of them


def test_a_test_waits_for_one_that_is_under_way(tmp_path):
    """As where somebody has typed it, waited for a program that hangs, and pressed Ctrl-C."""
    results = notify_socket.ReceiverResults(
        (notify_socket.ReceiverResult("x", DeliveryResult(True, "delivered")),)
    )

    def serve() -> None:
        for _ in range(2):
            listening.accept()[0].close()
        notify_socket.send_results(listening.accept()[0], results)

    with notify_socket.listen(tmp_path) as listening:
        serving = threading.Thread(target=serve, daemon=True)
        serving.start()
        assert notify_socket.request_test(tmp_path, wait_s=patience(30)) == results
        serving.join()


def test_a_test_that_is_never_sent_ends(tmp_path):
    def serve() -> None:
        with contextlib.suppress(OSError):  # the test is over
            while True:
                listening.accept()[0].close()

    with notify_socket.listen(tmp_path) as listening:
        serving = threading.Thread(target=serve, daemon=True)
        serving.start()
        with pytest.raises(MachineRefused, match="does not send"):
            notify_socket.request_test(tmp_path, wait_s=0.3)
        listening.shutdown(socket.SHUT_RDWR)  # to close it would leave that thread waiting for ever
        serving.join()
