"""`apply --confirm`: what nobody confirms is undone, whoever dies; and no login is cut unasked."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator

import pytest

from tests.support.lab.cluster import (
    AGENT,
    HOLDER,
    STATE,
    UNDOING,
    checked,
    facts,
    invite,
    make_control,
    make_member,
    qmesh,
    refusal,
    stop_agent,
    what_is_there,
)
from tests.support.lab.machines import Lab, Machine, Running
from tests.support.waiting import idle, patience, some_time, wait_until

pytestmark = pytest.mark.lab

LONG = pytest.mark.long
SHORT = {("taken_down_member", 0.8)}
PORTS = "40003"


def soon() -> int:
    """Seconds after which an undoing is due; so long that on a busy machine it can be confirmed too."""
    return max(10, round(patience(3)))


def unguarded_member(lab: Lab) -> Machine:
    """A member that has no guard and no tunnel yet."""
    control = make_control(lab)
    member = lab.machine("machine-b", "192.168.0.201", "fd00:1a::201")
    invite(control, member, "--workers", "4")
    qmesh(member, "join", "invitation", "--no-apply")
    return member


def taken_down_member(lab: Lab) -> Machine:
    """A member with a guard, and no tunnel."""
    member = make_member(lab, make_control(lab), 201, 4)
    qmesh(member, "down")
    return member


def as_it_is(machine: Machine) -> dict[str, str]:
    """What an undoing has to put back: rules, interfaces, reserved ports, files of the guard, settings."""
    seen = what_is_there(machine)
    files = machine.run(
        ["sh", "-c", f"cd {STATE}; for f in guard.nft held.nft; do cat $f || echo none; done"]
    )
    return {
        "rules": re.sub(r"# progname \S+", "", seen["rules"]),
        "links": seen["links"],
        "reserved": seen["reserved"],
        "files": files.stdout,
        "settings": machine.read(f"{STATE}/machine.json"),
    }


def is_undone(machine: Machine) -> bool:
    return machine.path(f"{STATE}/undo.json").exists() and '"undone":true' in machine.read(
        f"{STATE}/undo.json"
    )


def start_anew(machine: Machine) -> None:
    """A reboot, as far as qmesh sees: processes, tables and interfaces are gone, the boot is another."""
    machine.kill()
    machine.run(["ip", "link", "delete", "qmesh0"], check=False)
    machine.run(["nft", "flush", "ruleset"])
    machine.run(["sh", "-c", "echo > /proc/sys/net/ipv4/ip_local_reserved_ports; rm -rf /run/wireguard"])
    machine.write("/root/boot_id", "0dd0b007-0000-4000-8000-000000000000\n")
    machine.run(["mount", "--bind", "/root/boot_id", "/proc/sys/kernel/random/boot_id"])
    wait_until(lambda: "qmesh" not in what_is_there(machine)["rules"])


@pytest.mark.parametrize("begun", [unguarded_member, pytest.param(taken_down_member, marks=LONG)])
def test_what_is_confirmed_stays(lab, begun):
    member = begun(lab)
    seconds = soon()
    done = qmesh(member, "apply", "--confirm", str(seconds))
    assert "qmesh confirm" in done.stderr
    assert f"in {seconds} s" in done.stderr
    assert ("OPEN" in done.stderr) == (begun is unguarded_member)
    assert member.run(["stat", "-c%a", f"{STATE}/undo.json"]).stdout == "600\n"
    assert [each["code"] for each in checked(member)["findings"]][:1] == ["change-unconfirmed"]
    applied = as_it_is(member)
    assert "the change stays" in qmesh(member, "confirm").stdout
    wait_until(lambda: not member.processes(UNDOING))
    idle(seconds)
    assert as_it_is(member) == applied
    assert facts(member, "plan")["steps"] == []
    assert "nothing to confirm" in qmesh(member, "confirm").stdout


@pytest.mark.parametrize("begun", [unguarded_member, pytest.param(taken_down_member, marks=LONG)])
def test_what_is_not_confirmed_is_undone_and_left_so_by_the_agent(lab, begun):
    member = begun(lab)
    before = as_it_is(member)
    qmesh(member, "apply", "--confirm", str(soon()))
    assert as_it_is(member) != before
    wait_until(lambda: is_undone(member), seconds=20)
    assert as_it_is(member) == before
    assert "was rolled back" in member.read(f"{STATE}/agent.log")
    idle(6)  # the agent has looked at least once
    assert as_it_is(member) == before
    assert "change-undone" in [each["code"] for each in checked(member, code=1)["findings"]]
    assert "was rolled back" in qmesh(member, "plan", code=1).stderr
    assert "too late" in qmesh(member, "confirm", code=1).stdout
    qmesh(member, "apply")
    assert facts(member, "plan")["steps"] == []
    assert not is_undone(member)


def test_a_guard_that_was_put_back_is_kept_when_another_program_flushes_it(lab):
    member = taken_down_member(lab)
    qmesh(member, "apply", "--confirm", "600")
    qmesh(member, "undo", "--now")
    put_back = as_it_is(member)
    member.run(["nft", "flush", "ruleset"])
    # What was there stays, and what comes back comes after it.
    wait_until(
        lambda: sorted(str(as_it_is(member)).split("table ")) == sorted(str(put_back).split("table ")), 10
    )


@pytest.mark.long  # tests/mesh/test_rollback.py
def test_a_control_node_that_was_put_back_follows_its_mesh_and_keeps_the_guard_that_it_had(lab):
    control = make_control(lab)
    make_member(lab, control, 201, 4)
    stop_agent(control)
    assert control.kill(HOLDER)  # which would mend it
    control.run(["nft", "add", "rule", "inet", "qmesh", "arrived_at", "tcp", "dport", "9", "drop"])
    qmesh(control, "apply", "--confirm", "600")
    assert "dport 9" not in as_it_is(control)["rules"]
    qmesh(control, "undo", "--now")
    put_back = as_it_is(control)
    assert "dport 9" in put_back["rules"]

    qmesh(control, "remove", "machine-b")
    other = make_member(lab, control, 202, 2)
    had = facts(other, "status")["machines"]
    assert facts(other, "rotate-key")["confirmed"]
    idle(6)  # the agent has looked at least once
    assert as_it_is(control) == put_back
    peers = control.run(["wg", "show", "qmesh0", "allowed-ips"]).stdout.split()[1::2]
    assert peers == [each["address"] + "/32" for each in had if each["name"] == "machine-c"]


@pytest.mark.parametrize(
    "killed",
    [
        pytest.param(UNDOING, marks=LONG),
        pytest.param(AGENT, marks=LONG),
        f"{UNDOING}|{AGENT}",
    ],
    ids=["undo", "agent", "both, and a command comes"],
)
def test_whoever_is_killed_another_undoes_it(lab, killed):
    member = taken_down_member(lab)
    before = as_it_is(member)
    seconds = soon()
    qmesh(member, "apply", "--confirm", str(seconds))
    assert member.kill(killed)
    if "|" in killed:
        idle(seconds + 1)
        assert not is_undone(member)
        qmesh(member, "check", code=1)
    wait_until(lambda: is_undone(member), seconds=20)
    assert as_it_is(member) == before


TOLD = "/root/told"
UNTIL_TOLD = f"for _ in $(seq 1000); do test ! -e {TOLD} || break; sleep 0.05; done"
"""Fifty seconds at most: what is done meanwhile must not depend on how soon it is done."""


@contextlib.contextmanager
def slow_wireguard(machine: Machine, wait: str) -> Iterator[dict[str, str]]:
    """Where WireGuard is a process, one that waits first. wait: shell commands."""
    if (
        "wireguard"
        in machine.run(["sh", "-c", "ip link add w type wireguard && echo wireguard; true"]).stdout
    ):
        machine.run(["ip", "link", "delete", "w"])
        pytest.skip("this machine cannot: its kernel has WireGuard, so no program is asked")
    real = machine.run(["sh", "-c", "command -v wireguard-go"]).stdout.strip()
    machine.write("/root/bin/wireguard-go", f'#!/bin/sh\n{wait}\nexec {real} "$@"\n', 0o755)
    yield {"PATH": f"/root/bin:{machine.run(['sh', '-c', 'echo $PATH']).stdout.strip()}"}


def begin(machine: Machine, env: dict[str, str] | None = None) -> Running:
    return machine.start(["qmesh", "apply", "--confirm", str(soon())], env=env)


@pytest.mark.parametrize(
    ("begun", "delay"),
    [
        pytest.param(begun, delay, marks=[] if (begun.__name__, delay) in SHORT else LONG)
        for begun in (unguarded_member, taken_down_member)
        for delay in (0.0, 0.1, 0.25, 0.5, 0.8, 1.2, 2.0)
    ],
)
def test_a_change_that_is_killed_at_any_moment_is_undone(lab, begun, delay):
    """From when the undoing is armed: before that nothing is changed."""
    member = begun(lab)
    if begun is taken_down_member:
        stop_agent(member)
    before = as_it_is(member)
    with slow_wireguard(member, "sleep 0.6") as env:
        applying = begin(member, env)
        wait_until(member.path(f"{STATE}/undo.json").exists)
        some_time(delay, delay + 0.05)
        applying.kill()
        applying.wait()
    wait_until(
        lambda: is_undone(member) or not member.processes(UNDOING),
        seconds=20,
    )
    qmesh(member, "check", code=1)  # where it was killed before the process began, the next command undoes
    if not is_undone(member):
        idle(soon())
        checked(member, code=1)
    assert is_undone(member)
    assert as_it_is(member) == before


@pytest.mark.parametrize("outlasts", [False, pytest.param(True, marks=LONG)])
def test_a_change_that_hangs_with_the_lock_is_killed_and_undone(lab, outlasts):
    """outlasts: whether what it was starting would go on after the rollback."""
    member = taken_down_member(lab)
    stop_agent(member)
    before = as_it_is(member)
    with slow_wireguard(member, UNTIL_TOLD) as env:
        applying = begin(member, env)
        wait_until(lambda: member.processes(UNDOING) and member.processes("bin/wireguard-go"), every_s=0.05)
        applying.send_signal(19)
        if not outlasts:
            member.write(TOLD, "")
    wait_until(lambda: is_undone(member), seconds=40)
    assert applying.wait(5) == -9
    member.write(TOLD, "")
    idle(3)
    assert as_it_is(member) == before


def test_ctrl_c_in_the_middle_says_that_it_is_undone(lab):
    member = taken_down_member(lab)
    stop_agent(member)
    with slow_wireguard(member, UNTIL_TOLD) as env:
        applying = begin(member, env)
        wait_until(lambda: member.processes(UNDOING) and member.processes("bin/wireguard-go"), every_s=0.05)
        applying.send_signal(2)
        assert applying.wait(10) == 130, applying.error_output()
    assert "is rolled back within" in applying.error_output()
    assert "qmesh undo --now" in applying.error_output()


@pytest.mark.parametrize(
    ("first", "begun"),
    [
        pytest.param("undo", unguarded_member, marks=LONG),
        ("agent", taken_down_member),
        pytest.param("undo", taken_down_member, marks=LONG),
        pytest.param("agent", unguarded_member, marks=LONG),
    ],
)
def test_g3_after_a_reboot_the_previous_state_returns(lab, begun, first):
    """Under systemd the undoing comes before whatever loads the guard; without it, the agent does it."""
    member = begun(lab)
    before = as_it_is(member)
    qmesh(member, "apply", "--confirm", "600")
    start_anew(member)
    if first == "undo":
        qmesh(member, "undo")
        assert as_it_is(member)["files"] == before["files"]
        loaded = what_is_there(member)["rules"]
        assert ("table inet qmesh" in loaded) == (begun is taken_down_member)
    member.start(["qmesh", "agent"])
    wait_until(lambda: as_it_is(member) == before, seconds=20)
    idle(6)
    assert as_it_is(member) == before


def test_inside_the_time_other_changes_are_refused_and_the_first_state_is_kept(lab):
    member = taken_down_member(lab)
    before = as_it_is(member)
    begun = time.clock_gettime(time.CLOCK_BOOTTIME)
    qmesh(member, "apply", "--confirm", "600")
    ended = time.clock_gettime(time.CLOCK_BOOTTIME)
    # Who sets the wall clock changes nothing: the deadline is on another.
    deadline = float(re.findall(r'"deadline_s":([0-9.]+)', member.read(f"{STATE}/undo.json"))[0])
    assert begun + 600 <= deadline <= ended + 600
    for words in (("apply",), ("down",), ("down", "--open"), ("join", "invitation")):
        assert "qmesh confirm" in refusal(member, *words, code=2)
    assert facts(member, "apply", "--confirm", str(soon()))["steps"] == []
    wait_until(lambda: is_undone(member), seconds=20)
    assert as_it_is(member) == before


@pytest.mark.long  # whoever is second waits: test_commands.py
def test_two_at_once_are_one_change(lab):
    member = taken_down_member(lab)
    before = as_it_is(member)
    both = [begin(member), begin(member)]
    assert [each.wait(60) for each in both] == [0, 0]
    wait_until(lambda: len(member.processes(UNDOING)) == 1)
    qmesh(member, "undo", "--now")
    assert as_it_is(member) == before


def test_bad_times_are_refused(lab):
    member = lab.machine("machine-a", "192.168.0.200")
    for seconds in ("0", "9", "3601", "-1", "x", "1e2", ""):
        refusal(member, "apply", "--confirm", seconds, code=2)


# Logins

_DAEMON = """
import os, socket, subprocess, sys
listening = socket.create_server(("0.0.0.0", int(sys.argv[1])))
print("ready", flush=True)
connection, client = listening.accept()
here = connection.getsockname()
told = f"{client[0]} {client[1]} {here[0]} {here[1]}"
os.environ["SSH_CONNECTION"] = told
words = ["sh", "-c", "env -u SSH_CONNECTION qmesh " + sys.argv[2] + "; echo code $?"]
done = subprocess.run(words, capture_output=True, text=True)
print(done.stdout + done.stderr, flush=True)
"""


def by_login(member: Machine, control: Machine, port: int, words: str, *, to: str = "192.168.0.201") -> str:
    """What a command says that is run from a login, by a shell whose child lost the variable, as by sudo."""
    daemon = member.start(["python", "-c", _DAEMON, str(port), words])
    daemon.wait_for("ready")
    client = control.start(
        ["python", "-c", f"import socket; s = socket.create_connection(('{to}', {port})); s.recv(1)"]
    )
    daemon.wait_for("code ", timeout=40)
    client.stop()
    daemon.wait(5)
    return daemon.output()


def test_a_change_that_would_cut_the_login_it_comes_from_is_refused_and_confirm_goes_on(lab):
    control = make_control(lab)
    member = lab.machine("machine-b", "192.168.0.201", "fd00:1a::201")
    invite(control, member, "--workers", "4")
    qmesh(member, "join", "invitation", "--no-apply")
    before = as_it_is(member)
    said = by_login(member, control, 40004, "apply")
    assert "code 2" in said
    assert "error: this would cut your own SSH session: the guard closes port 40004" in said
    assert "qmesh apply --confirm 60" in said
    assert as_it_is(member) == before
    assert "cuts your own SSH session" in by_login(member, control, 40005, "plan")
    said = by_login(member, control, 40006, f"apply --confirm {soon()}")
    assert "cuts your own SSH session" in said
    assert "code 0" in said
    wait_until(lambda: is_undone(member), seconds=20)
    assert as_it_is(member) == before
    assert "code 0" in by_login(member, control, 2222, "apply")


@pytest.mark.long  # tests/mesh/test_ssh_lockout.py
def test_a_login_through_the_tunnel_is_told_that_down_cuts_it(lab):
    control = make_control(lab)
    member = make_member(lab, control, 201, 4)
    # A worker port is what the control node reaches there.
    said = by_login(member, control, 40003, "down", to="10.77.0.2")
    assert "cuts your own SSH session: qmesh0, which this session uses, is deleted" in said
