"""A scanner of every port of both kinds of machine finds no trace of qmesh."""

from __future__ import annotations

import json

import pytest

from tests.support.lab.cluster import make_control, make_member
from tests.support.lab.machines import TOOLS

pytestmark = pytest.mark.lab

SCAN = """
import errno, json, select, socket, sys
from tests.support.waiting import Deadline, patience

COMMON = (53, 67, 69, 123, 137, 161, 500, 1194, 1900, 4500, 5353, 9377, 33434, 40000, 40003, 51820, 51821)

def tcp(address, ports):
    "The ports that take a connection."
    opened, waiting = [], {}
    poll = select.epoll()
    for port in ports:
        each = socket.socket()
        each.setblocking(False)
        code = each.connect_ex((address, port))
        if code == errno.EINPROGRESS:
            poll.register(each, select.EPOLLOUT)
            waiting[each.fileno()] = each, port
        elif code == 0:
            opened.append(port)
    deadline = Deadline(0.4)
    while waiting and deadline.left():
        for number, _ in poll.poll(0.1):
            each, port = waiting.pop(number)
            if each.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                opened.append(port)
            each.close()
    for each, _ in waiting.values():
        each.close()
    return opened

def udp(address):
    "The ports that answer, whatever they are sent."
    answered = []
    for port in COMMON:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as each:
            each.connect((address, port))
            each.settimeout(patience(5) if port == 5353 else 0.05)  # somebody is to answer there
            for said in (b"", b"\\0" * 148, b"\\1\\0\\0\\0" + b"\\7" * 144, b"GET / HTTP/1.1\\r\\n\\r\\n"):
                try:
                    each.send(said)
                    answered.append((port, len(each.recv(9000))))
                except OSError:
                    pass
    return answered

found = {}
for address in sys.argv[1:]:
    ports = range(1, 65536)
    found[address] = [
        [port for first in range(0, 65535, 500) for port in tcp(address, ports[first : first + 500])],
        udp(address),
    ]
print(json.dumps(found))
"""


ECHO = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as echo:
    echo.bind(("0.0.0.0", 5353))
    print("ready", flush=True)
    while True:
        said, who = echo.recvfrom(9000)
        echo.sendto(b"I am here", who)
"""


def test_a_scan_of_all_ports_finds_nothing_but_what_was_opened_on_purpose(lab):
    control = make_control(lab)
    member = make_member(lab, control, 201, 4)
    for machine, cores in ((control, (40000, 40001)), (member, (40003, 40004))):
        for port in (*cores, 9001):  # careless workers; and a positive control: a port that nobody guards
            machine.start(["python", TOOLS / "service.py", str(port)]).wait_for("ready")
        machine.start(["python", "-c", ECHO]).wait_for("ready")
    attacker = lab.machine("attacker", "192.168.0.66")
    done = attacker.run(["python", "-c", SCAN, control.ipv4, member.ipv4], timeout=120)
    for machine in (control, member):
        by_tcp, by_udp = json.loads(done.stdout)[machine.ipv4]
        assert by_tcp == [9001]
        assert {port for port, _ in by_udp} == {5353}
