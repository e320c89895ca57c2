"""The control role moves to another machine, planned: members follow, and so do the worker ports."""

from __future__ import annotations

import re
import signal

import pytest

from tests.support.lab.cluster import (
    AGENT,
    SERVICE,
    STATE,
    checked,
    facts,
    find_only,
    invite,
    make_control,
    make_member,
    problems,
    qmesh,
    reached,
    refusal,
    start_workers,
    stop_agent,
)
from tests.support.lab.machines import Lab, Machine
from tests.support.waiting import wait_until

pytestmark = pytest.mark.lab

PORTS_OF_C = [40007, 40008]


def make_three(lab: Lab) -> tuple[Machine, Machine, Machine]:
    """A, the control node; B, which can be called; and C, which cannot."""
    control = make_control(lab)
    members = make_member(lab, control, 201, 4), make_member(lab, control, 202, 2)
    qmesh(control, "set", "machine-b", "--endpoint", "192.168.0.201:51820")
    return control, *members


def test_the_control_role_moves_and_the_worker_ports_follow(lab):
    a, b, c = make_three(lab)
    start_workers(c, "8..9", "--careless")
    qmesh(a, "render-config", "--write")
    start_workers(a, "1..3", "--careless")
    assert reached(a, "10.77.0.3", PORTS_OF_C) == PORTS_OF_C
    invite(a, lab.machine("machine-d", "192.168.0.203"))

    done = facts(a, "handover", "machine-b")
    assert (done["from"], done["to"], done["address"]) == ("control", "machine-b", "10.77.0.2")
    assert (done["left_behind"], done["withdrawn"], done["answers"]) == ([], ["machine-d"], True)
    # The control process is called at the other machine now.
    opened = {each["machine"]: [port["ports"] for port in each["open"]] for each in done["open_ports"]}
    assert [8336] in opened["machine-b"]
    assert [8336] not in opened["control"]

    wait_until(lambda: reached(b, "10.77.0.3", PORTS_OF_C) == PORTS_OF_C, seconds=10)
    assert reached(a, "10.77.0.3", PORTS_OF_C) == []
    wait_until(lambda: reached(b, "10.77.0.1", [40000, 40001, 40002]) == [40000, 40001, 40002], seconds=10)
    for machine in (a, b, c):
        found = facts(machine, "status")
        assert (found["control"], found["revision"]) == ("machine-b", done["revision"])
        assert {each["code"] for each in checked(machine)["findings"]} <= {"worker-wide"}
    assert "not the control node" in refusal(a, "invite", "machine-e", code=2)
    assert "is the control node of its mesh" in refusal(b, "join", "invitation", code=2)
    assert "agent-failing" not in a.read(f"{STATE}/agent.log")
    # Nothing is left on A that makes a control node, and nothing on B but that.
    assert a.run(["sh", "-c", f"cd {STATE}; ls mesh.db signing.key"], check=False).stdout == ""
    held = b.run(["sh", "-c", f"cd {STATE}; ls"]).stdout.split()
    assert {"membership.json", "preshared.key", "estate.msgpack", "successor.json"}.isdisjoint(held)

    new = make_member(lab, b, 204, 1)
    assert facts(new, "status")["control"] == "machine-b"
    wait_until(lambda: facts(c, "status")["revision"] == done["revision"] + 1, seconds=10)
    assert [each["what"] for each in facts(b, "log")["events"]][-4:-1] == [
        "handover-begun",
        "handed-over",
        "invited",
    ]


def test_where_one_is_not_ready_nothing_changes_or_it_is_left_behind(lab):
    a, b, c = make_three(lab)
    revision = facts(a, "status")["revision"]
    start_workers(c, "8..9", "--careless")
    stop_agent(c)
    said = refusal(a, "handover", "machine-b", "--wait", "5", code=4)
    assert "the control role stays here: after 5 s still waiting for machine-c" in said
    wait_until(lambda: facts(b, "status")["revision"] == revision + 2, seconds=10)
    assert facts(a, "status")["control"] == facts(b, "status")["control"] == "control"
    assert reached(a, "10.77.0.3", PORTS_OF_C) == PORTS_OF_C
    wait_until(lambda: b.run(["wg", "show", "qmesh0", "peers"]).stdout.count("=") == 1, seconds=10)
    assert b.run(["sh", "-c", f"ls {STATE}/estate.msgpack"], check=False).returncode == 2

    moving = a.start(["qmesh", "handover", "machine-b"])
    wait_until(lambda: "waiting for machine-c" in moving.error_output(), seconds=20)
    moving.send_signal(signal.SIGINT)
    assert moving.wait(20) == 130
    assert "no handover is under way" in refusal(a, "handover", "--cancel", code=2)
    moving = a.start(["qmesh", "handover", "machine-b"])
    wait_until(lambda: "waiting for machine-c" in moving.error_output(), seconds=20)
    moving.send_signal(signal.SIGKILL)
    moving.wait(20)
    assert "is being handed over to machine-b" in refusal(a, "pause", "machine-c", code=2)
    assert "`qmesh handover machine-b` continues it" in qmesh(a, "status").stdout
    # Any user of B's machine has its tunnel address, and is not let through; nor is root without the key.
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    asked = b.run([*nobody, "python", "-c", ASK_FOR_THE_ESTATE], check=False)
    assert asked.stderr.splitlines()[-1] == "TimeoutError: timed out"
    assert b.run(["python", "-c", ASK_FOR_THE_ESTATE]).stdout.split() == ["403"]
    assert "control stays the control node" in qmesh(a, "handover", "--cancel").stdout
    qmesh(a, "pause", "machine-c")
    qmesh(a, "resume", "machine-c")

    done = qmesh(a, "handover", "machine-b", "--wait", "5", "--leave-behind")
    assert "machine-b is the control node" in done.stdout
    assert "machine-c was left behind: run `qmesh invite machine-c --replace` on machine-b" in done.stderr
    assert reached(b, "10.77.0.3", PORTS_OF_C) == reached(a, "10.77.0.3", PORTS_OF_C) == []
    invite(b, c, "--replace")
    qmesh(c, "join", "invitation")
    wait_until(lambda: reached(b, "10.77.0.3", PORTS_OF_C) == PORTS_OF_C, seconds=10)


@pytest.mark.long  # `rotate-key` by itself: test_replace_and_rotate_key.py
def test_a_control_node_changes_its_key_where_another_is_it_meanwhile(lab):
    a, b, c = make_three(lab)
    old = facts(c, "status")["machines"][0]["public_key"]
    qmesh(a, "handover", "machine-b")
    wait_until(lambda: a.run(["qmesh", "rotate-key"], check=False).returncode == 0, seconds=30)
    qmesh(b, "handover", "control")
    wait_until(lambda: facts(c, "status")["control"] == "control", seconds=10)
    new = facts(c, "status")["machines"][0]["public_key"]
    assert new != old
    # What it says is what was written down, and the tunnel follows.
    wait_until(lambda: c.run(["wg", "show", "qmesh0", "peers"]).stdout.split() == [new], seconds=10)
    start_workers(c, "8..9", "--careless")
    assert reached(a, "10.77.0.3", PORTS_OF_C) == PORTS_OF_C
    assert [problems(machine) - {"worker-wide"} for machine in (a, b, c)] == [set(), set(), set()]


@pytest.mark.long  # whom it believes: tests/agent/test_handover.py
def test_who_was_off_while_the_role_moved_on_twice_joins_in_its_place(lab):
    a, b, c = make_three(lab)
    qmesh(a, "set", "machine-c", "--endpoint", "192.168.0.202:51820")
    stop_agent(a)
    a.run(["sh", "-c", f"cd {STATE}; cp -a machine.json mesh.db* signing.key /root"])
    qmesh(a, "apply")
    qmesh(a, "handover", "machine-b")
    qmesh(b, "handover", "machine-c")
    wait_until(lambda: facts(a, "status")["control"] == "machine-c", seconds=10)
    # As if A had died in the moment in which it made B the control node.
    stop_agent(a)
    then = "machine.json mesh.db* signing.key"
    a.run(["sh", "-c", f"rm {STATE}/membership.json {STATE}/preshared.key; cd /root; cp -a {then} {STATE}"])
    a.run(["python", "-c", HAND_OVER_AND_DIE])
    qmesh(a, "apply")
    said = qmesh(a, "status").stdout
    assert "machine-b is the control node since revision" in said
    assert "run `qmesh invite control --replace` there" in said

    a.write("/root/invitation", qmesh(c, "invite", "control", "--replace").stdout, 0o600)
    qmesh(a, "join", "invitation")
    assert facts(a, "status")["control"] == "machine-c"
    wait_until(lambda: problems(a) <= {"worker-wide"}, seconds=20)
    assert a.run(["sh", "-c", f"cd {STATE}; ls mesh.db signing.key"], check=False).stdout == ""


HAND_OVER_AND_DIE = """
import time
from pathlib import Path
from qmesh.host.registry import Registry
from qmesh.mesh.protocol.handover import HandoverProgress
with Registry(Path("/var/lib/qmesh/mesh.db")) as registry:
    now = int(time.time())
    registry.begin_handover("machine-b", now=now)
    held = HandoverProgress(holds=registry.last_event_number(), silent=())
    registry.record_progress(held, sender="10.77.0.2", now=now)
    registry.complete_handover("machine-b", now=now)
"""
ASK_FOR_THE_ESTATE = f"""
import http.client
asking = http.client.HTTPConnection("10.77.0.1", {SERVICE}, timeout=5)
asking.request("POST", "/v1/succession", body=b'{{"holds":0,"silent":[]}}')
print(asking.getresponse().status)
"""
BEGIN = """
import time
from pathlib import Path
from qmesh.host.system import agent_notify
from qmesh.host.registry import Readiness, Registry
state = Path("/var/lib/qmesh")
with Registry(state / "mesh.db") as registry:
    registry.begin_handover("machine-b", now=int(time.time()))
    agent_notify.notify_agent(state, wait_s=5)
    while registry.check_readiness("machine-b", now=int(time.time())) != Readiness(holds=True, missing=()):
        time.sleep(0.1)
"""


def test_a_member_that_does_not_hear_of_it_asks_the_next_control_node_itself(lab):
    a, b, c = make_three(lab)
    start_workers(c, "8..9", "--careless")
    a.run(["python", "-c", BEGIN], timeout=60)
    # All are ready. From here on nothing comes from A to C, and then A is no more.
    c.run(["nft", "add table inet far; add chain inet far in { type filter hook prerouting priority -500; }"])
    assert reached(a, "10.77.0.3", PORTS_OF_C) == PORTS_OF_C  # the positive control
    # By neither family: C takes the other one when this one is silent.
    c.run(["nft", "add rule inet far in ip saddr 192.168.0.200 drop"])
    c.run(["nft", "add rule inet far in ip6 saddr fd00:1a::200 drop"])
    assert reached(a, "10.77.0.3", PORTS_OF_C) == []
    qmesh(a, "handover", "machine-b")
    a.run(["ip", "link", "delete", "eth0"])
    wait_until(lambda: reached(b, "10.77.0.3", PORTS_OF_C) == PORTS_OF_C, seconds=90)
    assert facts(c, "status")["control"] == "machine-b"


DRIPPING = """
import socket, sys, threading, time
def drip(connection):
    try:
        connection.sendall(b"HTTP/1.1 200 OK\\r\\ncontent-length: 100000\\r\\n\\r\\n")
        while True:
            connection.sendall(b"x")
            time.sleep(0.5)
    except OSError:
        pass
listening = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
while True:
    connection, _ = listening.accept()
    threading.Thread(target=drip, args=(connection,), daemon=True).start()
"""


def test_a_successor_that_answers_an_octet_now_and_then_does_not_keep_the_loop(lab):
    control, member, _ = make_three(lab)
    served = re.search(r"served at 10.77.0.1 port (\d+)", control.read(f"{STATE}/agent.log"))
    assert served is not None
    dripping = member.start(["python", "-c", DRIPPING, "10.77.0.2", served[1]])
    dripping.wait_for("ready")
    handing_over = control.start(["qmesh", "handover", "machine-b"])
    agent = find_only(control, AGENT)
    asking = ["ss", "-Htnp", "state", "established", "dst", f"10.77.0.2:{served[1]}"]
    wait_until(lambda: f"pid={agent}," in control.run(asking).stdout, 60)
    control.run(["ip", "link", "set", "qmesh0", "mtu", "1300"])
    wait_until(lambda: "mtu 1300" not in control.run(["ip", "link", "show", "qmesh0"]).stdout)

    dripping.kill()
    handing_over.kill_session()
    wait_until(lambda: facts(control, "status")["control"] == "machine-b", 60)
    wait_until(lambda: control.run(["ls", f"{STATE}/mesh.db"], check=False).returncode, 60)
