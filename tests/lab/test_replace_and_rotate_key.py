"""A machine's life after it has joined: a new key, a new disk, an invitation that is taken back."""

from __future__ import annotations

import re
import textwrap

import pytest

from tests.support.lab.cluster import (
    HOLDER,
    STATE,
    facts,
    invite,
    make_control,
    make_member,
    peers_of,
    problems,
    qmesh,
    reached,
    refusal,
    start_workers,
    stop_agent,
)
from tests.support.lab.machines import Machine
from tests.support.waiting import idle, wait_until

pytestmark = pytest.mark.lab

# A TCP connection through the tunnel that says a number ten times a second, and hears it again, until told.
ECHO = textwrap.dedent("""
    import socket
    listening = socket.create_server(("10.77.0.2", 40003))
    print("ready", flush=True)
    while True:
        connection, _ = listening.accept()
        while said := connection.recv(100):
            connection.sendall(said)
""")
TALK = textwrap.dedent("""
    import os, socket, time
    from tests.support.waiting import patience
    with socket.create_connection(("10.77.0.2", 40003), timeout=patience(20)) as connection:
        said = heard = b""
        while not os.path.exists("/root/enough"):
            said += b"%d," % said.count(b",")
            connection.sendall(said[len(heard):])
            while len(heard) < len(said):
                part = connection.recv(100)
                assert part
                heard += part
            if said.count(b",") == 5:
                print("talking", flush=True)
            time.sleep(0.1)
        print("all of it" if heard == said else heard)
""")


def public_key(control: Machine) -> str:
    key: str = facts(control, "status")["machines"][1]["public_key"]
    return key


def test_a_machine_changes_its_key_and_an_open_connection_goes_on(lab):
    control = make_control(lab)
    member = make_member(lab, control, 201, 2)
    echo = member.start(["python", "-c", ECHO])
    echo.wait_for("ready")
    talking = control.start(["python", "-c", TALK])
    talking.wait_for("talking")
    before = public_key(control)

    done = facts(member, "rotate-key")
    assert (done["machine"], done["from"], done["confirmed"]) == ("machine-b", before, True)
    assert public_key(control) == done["to"] == public_key(member) != before
    idle(1)  # it goes on, by the new key
    control.write("/root/enough", "")
    talking.wait_for("all of it", timeout=60)
    assert problems(member) == problems(control) == set()
    assert "key-rotated" in qmesh(control, "log").stdout
    assert peers_of(control) == [done["to"]]

    assert "cannot change" in refusal(control, "rotate-key", code=2)
    stop_agent(control)
    old = public_key(control)
    assert "the key stays as it is" in refusal(member, "rotate-key", code=4)
    assert problems(member) == {"service-silent"}
    qmesh(control, "apply")
    # What was made for the first try is used by the second.
    key = member.run(["sh", "-c", f"wg pubkey < {STATE}/next.key"]).stdout.strip()
    wait_until(lambda: member.run(["qmesh", "rotate-key"], check=False).returncode == 0, seconds=30)
    assert public_key(control) == key != old


def test_e4_a_change_of_key_that_is_cut_off_is_ended_by_the_agent_or_by_the_command(lab):
    control = make_control(lab)
    member = make_member(lab, control, 201, 2)
    start_workers(member, "4..5")
    # Offered, taken up on the disk, and the power went before the tunnel had it.
    stop_agent(member)
    old = public_key(control)
    member.run(
        [
            "python",
            "-c",
            textwrap.dedent("""
        from pathlib import Path
        import qmesh.agent.commands.rotate_key as rotating
        from qmesh.host.state.directory import State
        rotating.converge = lambda *_, **__: (_ for _ in ()).throw(SystemExit(9))
        rotating.rotate_key(State(Path("/var/lib/qmesh")))
    """),
        ],
        check=False,
    )
    assert public_key(control) == old
    member.run(["ip", "link", "delete", "qmesh0"])
    qmesh(member, "apply")
    wait_until(lambda: public_key(control) != old, seconds=20)
    wait_until(lambda: reached(control, "10.77.0.2", [40003, 40004]) == [40003, 40004], seconds=10)
    wait_until(lambda: problems(member) == set(), seconds=10)
    assert member.run(["test", "-e", f"{STATE}/next.key"], check=False).returncode == 1


def test_a_machine_with_a_new_disk_takes_its_own_place(lab):
    control = make_control(lab)
    member = make_member(lab, control, 201, 2)
    other = make_member(lab, control, 202, 3)
    before = facts(control, "status")["machines"]
    invite(control, member, "--replace")
    assert facts(control, "status")["machines"][1]["state"] == "active"
    start_workers(member, "4..5")
    assert reached(control, "10.77.0.2", [40003]) == [40003]  # until the invitation is used
    listed = facts(control, "invite", "--list")["invitations"]
    assert [(each["name"], each["replaces"]) for each in listed] == [("machine-b", True)]

    # The disk is lost.
    stop_agent(member)
    assert member.kill(HOLDER)
    member.run(["sh", "-c", f"ip link delete qmesh0; nft flush ruleset; find {STATE} -mindepth 1 -delete"])
    joined = facts(member, "join", "invitation")
    assert (joined["name"], joined["address"], joined["cores"]) == (
        "machine-b",
        "10.77.0.2",
        {"first": 4, "count": 2},
    )
    after = facts(control, "status")["machines"]
    assert [(m["name"], m["address"], m["cores"]) for m in after] == [
        (m["name"], m["address"], m["cores"]) for m in before
    ]
    assert after[1]["public_key"] != before[1]["public_key"]
    wait_until(lambda: reached(control, "10.77.0.2", [40003, 40004]) == [40003, 40004], seconds=10)
    assert facts(control, "invite", "--list")["invitations"] == []
    assert "replaced" in qmesh(control, "log").stdout
    assert reached(other, "192.168.0.201", [40003]) == []
    assert facts(member, "join", "invitation") == joined  # again: it is one already


def test_an_invitation_that_is_withdrawn_lets_nobody_in(lab):
    control = make_control(lab)
    machine = lab.machine("machine-b", "192.168.0.201", "fd00:1a::201")
    invite(control, machine)
    listed = qmesh(control, "invite", "--list").stdout
    assert re.fullmatch(r"machine-b: will be 10\.77\.0\.2, until 20\S+ \d\d:\d\d \S+\n", listed)
    qmesh(control, "invite", "--withdraw", "machine-b")
    assert qmesh(control, "invite", "--list").stdout == "no invitation can be used\n"
    assert "the last invitation for machine-b was withdrawn already" in refusal(
        control, "invite", "--withdraw", "machine-b", code=2
    )
    assert len(facts(control, "status")["machines"]) == 1
    assert control.run(["wg", "show", "qmesh0", "peers"]).stdout == ""
    for words in (("invite",), ("invite", "x", "--list"), ("invite", "control", "--replace")):
        refusal(control, *words, code=2)


def test_who_used_an_invitation_is_said_where_it_is_withdrawn_too_late_and_in_the_log(lab):
    control = make_control(lab)
    thief = lab.machine("machine-b", "192.168.0.201")
    text = control.run(["qmesh", "invite", "machine-b"], env={"SUDO_USER": "alice"}).stdout
    thief.write("/root/invitation", text, 0o600)
    qmesh(thief, "join", "invitation")
    key = facts(thief, "status")["machines"][1]["public_key"]

    said = refusal(control, "invite", "--withdraw", "machine-b", code=2)
    assert f"a machine with key {key} joined with it on 2" in said
    assert "from 192.168.0.201:51820" in said
    assert "it is 10.77.0.2, at 192.168.0.201:51820 now" in said
    assert "cut its connections, run `qmesh remove machine-b`" in said
    joined = facts(control, "log")["events"][-1]
    assert (joined["what"], joined["user"], joined["address"], joined["endpoint"], joined["public_key"]) == (
        *("joined", "alice", "10.77.0.2", "192.168.0.201:51820", key),
    )
    line = qmesh(control, "log").stdout.splitlines()[-1]
    assert f"(by join, invited by alice)  10.77.0.2  from 192.168.0.201:51820  {key}" in line

    control.run(["qmesh", "remove", "machine-b"], env={"SUDO_USER": "bob"})
    assert "(by remove, bob)" in qmesh(control, "log").stdout.splitlines()[-1]
    said = refusal(control, "invite", "--withdraw", "machine-b", code=2)
    assert f"a machine with key {key} joined with it" in said
    assert "it is no longer a member" in said
    said = refusal(control, "invite", "--withdraw", "machine-z", code=2)
    assert "there is no invitation for machine-z" in said
