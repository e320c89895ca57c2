"""`qmesh page` on machines: served by root and by a reader, live, and telling other users nothing."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.lab.cluster import (
    make_control,
    qmesh,
    refusal,
    start_agent,
    start_workers,
    stop_agent,
)
from tests.support.lab.machines import Lab, Machine, Running
from tests.support.lab.mesh import USER
from tests.support.waiting import wait_until

pytestmark = pytest.mark.lab

READERS = 3001
GET = """
import http.client, socket, sys
place, path = sys.argv[1:]
if place.startswith("/"):
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(20)
    connection.sock.connect(place)
else:
    connection = http.client.HTTPConnection(place, timeout=20)
connection.request("GET", path)
answer = connection.getresponse()
print(answer.status)
names = {"event: view\\n", "event: changes\\n"}
while answer.status == 200 and (line := answer.readline().decode()):
    if "text/html" in answer.headers["content-type"]:
        print(line, end="")
    elif line in names:
        names.remove(line)
        print(answer.readline().decode().removeprefix("data: "), end="")
        if not names:
            break
"""


def as_user(*groups: int) -> list[str]:
    others = f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups"
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", others]


def fetch(machine: Machine, place: str, path: str, *, by: list[str]) -> tuple[int, list[str]]:
    """A GET's status; and the page's lines, or of events the first view and the first changes."""
    status, *lines = machine.run([*by, "python", "-c", GET, place, path]).stdout.splitlines()
    return int(status), lines


@contextmanager
def served(
    machine: Machine, *words: str, by: list[str] | None = None
) -> Iterator[tuple[Running, dict[str, str]]]:
    """The page while a command serves it, and what that has printed."""
    page = machine.start([*(by or ()), "qmesh", "page", *words, "--json"])
    try:
        page.wait_for("}\n", timeout=20)
        yield page, json.loads(page.output())
    finally:
        page.send_signal(signal.SIGINT)
        assert page.wait(20) == 0, page.error_output()


@pytest.fixture(scope="module")
def control() -> Iterator[Machine]:
    with Lab() as lab:
        machine = make_control(lab)
        qmesh(machine, "render-config", "--write")
        workers = start_workers(machine, "1..2")
        yield machine
        workers.stop()


def test_root_serves_the_page_to_who_has_its_address_and_with_no_right_of_roots(control):
    with served(control) as (page, place):
        port, path = place["port"], place["url"].partition("/")[2].partition("/")[2].partition("/")[2]
        at, path = f"127.0.0.1:{port}", f"/{path}"
        status, lines = fetch(control, at, path, by=as_user())
        assert (status, lines[0]) == (200, "<!doctype html>")
        view, changes = (json.loads(line) for line in fetch(control, at, f"{path}events", by=as_user())[1])
        assert [machine["name"] for machine in view["machines"]] == ["control"]
        assert "the mesh was made" in changes[0]["text"]

        def states() -> str:
            shown: str = json.loads(fetch(control, at, f"{path}events", by=[])[1][0])["machines"][0]["states"]
            return shown

        wait_until(lambda: states() == "aas", 60)
        for wrong in ("/", "/events", f"{path[:-2]}/", "/page.js"):
            assert fetch(control, at, wrong, by=as_user()) == (404, [])
        rights = Path(f"/proc/{page.pid}/status").read_text()
        assert "Uid:\t65534\t65534\t65534\t65534\n" in rights
        assert "CapEff:\t0000000000000000\n" in rights
    assert fetch_fails(control, at)


def fetch_fails(machine: Machine, place: str) -> bool:
    return machine.run(["python", "-c", GET, place, "/"], check=False).returncode != 0


def test_a_reader_serves_it_at_a_socket_of_its_own_and_another_user_may_not(control):
    refused = control.run([*as_user(), "qmesh", "page"], check=False)
    assert (refused.returncode, "`qmesh page` needs root" in refused.stderr) == (3, True)
    control.write("/etc/group", f"{control.read('/etc/group')}readers:x:{READERS}:\n")
    qmesh(control, "set", "--readers", "readers")
    reader = as_user(READERS)
    wait_until(lambda: control.run([*reader, "qmesh", "status"], check=False).returncode == 0, 20)
    control.run(["install", "-d", "-o", f"{USER}", "/run/home"])
    with served(control, "--socket", "/run/home/page.sock", by=reader) as (_, place):
        assert place == {"machine": "control", "url": None, "port": None, "socket": "/run/home/page.sock"}
        assert fetch(control, "/run/home/page.sock", "/", by=reader)[0] == 200
        stranger = ["setpriv", f"--reuid={USER + 1}", f"--regid={USER + 1}", "--clear-groups"]
        refused = control.run([*stranger, "python", "-c", GET, "/run/home/page.sock", "/"], check=False)
        assert "PermissionError" in refused.stderr
    assert control.run(["ls", "/run/home"]).stdout == ""
    refused = control.run([*as_user(READERS + 1), "qmesh", "page"], check=False)
    assert "`qmesh page` is for root and the members of group readers" in refused.stderr


def test_what_cannot_be_served_is_said_before_anything_is(control):
    both = refusal(control, "page", "--port", "0", "--socket", "/run/x.sock", code=2)
    assert "do not go together" in both
    assert "a worker's" in refusal(control, "page", "--port", "40001", code=2)
    assert "exists already" in refusal(control, "page", "--socket", "/etc/passwd", code=2)
    stop_agent(control)
    assert "agent does not run" in refusal(control, "page", code=3)
    start_agent(control)
    nowhere = refusal(control, "page", "--state", "/run/nothing", code=2)
    assert "qmesh init" in nowhere or "join" in nowhere
