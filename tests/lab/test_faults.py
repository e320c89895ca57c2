"""Disks that fail, state that is damaged, clocks that are wrong: an error with a cure, and nothing opens."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qmesh.mesh.protocol.enrolment import parse_invitation
from tests.support.lab import disk
from tests.support.lab.cluster import AGENT, STATE, rules_of
from tests.support.lab.crash import Rig, trouble_of_membership
from tests.support.lab.faults import Faulty
from tests.support.lab.machines import Lab
from tests.support.waiting import wait_until

pytestmark = pytest.mark.lab


@pytest.fixture
def rig(lab) -> Rig:
    """A control node and one machine that is invited."""
    found = Rig(lab, 40003)
    found.found()
    found.invite()
    return found


@pytest.fixture(scope="module")
def cluster() -> Iterator[Rig]:
    """A control node and one member; the tests leave it as they found it."""
    with Lab() as lab:
        found = Rig(lab, 40003)
        found.found()
        found.invite()
        assert found.join().code == 0
        for faulty in (found.control, found.member):
            faulty.end_agent()
            faulty.machine.run(["cp", "-a", STATE, "/root/sound"])
        found.control.succeed("apply")  # it answers the member
        yield found


@pytest.mark.parametrize(
    ("command", "fault", "every"),
    [
        # An init on a disk that is full: test_commands.py.
        pytest.param(disk.init, "full", None, marks=pytest.mark.long),
        (disk.join, "failing", None),
        *(
            pytest.param(command, fault, 15, marks=pytest.mark.long)
            for command in (disk.init, disk.join)
            for fault in disk.FAULTS
        ),
    ],
)
def test_a_disk_that_fails_at_any_point_is_an_error_and_the_same_command_works_afterwards(
    lab, command, fault, every
):
    """With every change the first point of each kind."""
    result = command(lab, fault=fault, every=every)
    assert result.tried > 0
    assert result.wrong == []


CHANGES = (
    ("invite", "machine-c"),
    ("set", "machine-b", "--workers", "9"),
    ("pause", "machine-b"),
    ("remove", "machine-b"),
)


def status_of(control: Faulty) -> dict[str, Any]:
    """What `status` says but for what machines tell of themselves, which changes by the second."""
    told: dict[str, Any] = control.facts("status")
    for machine in told["machines"]:
        del machine["facts"], machine["facts_age"]
    return told


@pytest.mark.parametrize(
    ("spoil", "mend"),
    [
        (f"mount --bind {STATE} {STATE} && mount -o remount,bind,ro {STATE}", f"umount -l {STATE}"),
        (f"cat /dev/zero >{STATE}/filler 2>/dev/null; true", f"rm {STATE}/filler"),
    ],
    ids=["read-only", "full"],
)
def test_a_file_system_that_takes_nothing_refuses_every_change_and_loses_none(lab, spoil, mend):
    """The real thing, below SQLite as well; the agents live through it."""
    control = Faulty(lab.machine("machine-a", "192.168.0.200"))
    control.machine.run(["mount", "-o", "remount,size=1m", STATE])
    control.succeed("init", "--workers", "3", "--endpoint", "192.168.0.200")
    control.succeed("invite", "machine-b", "--workers", "2")
    before = status_of(control)
    control.machine.run(["sh", "-c", spoil])
    for words in (*CHANGES[:2], ("invite", "machine-b"), ("set", "control", "--workers", "9")):
        assert control(*words).refused(3), words
        found = control("status")
        assert found.code == 0 or found.refused(3)
    rules = rules_of(control.machine)
    control.machine.run(["nft", "flush", "ruleset"])  # the guard needs no disk to come back
    wait_until(lambda: rules_of(control.machine) == rules)
    control.machine.run(["sh", "-c", mend])
    assert status_of(control) == before
    for words in (("invite", "machine-c"), ("set", "control", "--workers", "9")):
        control.succeed(*words)
    assert control.machine.processes(AGENT)
    wait_until(lambda: control.facts("plan")["steps"] == [])


SPOILED = {
    "cut in half": 'head -c $(($(stat -c%s "$1") / 2)) "$1" >/root/half; cat /root/half >"$1"',
    "empty": ': >"$1"',
    "random": 'head -c 3000 /dev/urandom >"$1"',
    "a directory": 'rm "$1"; mkdir "$1"',
    "a link": 'cp -a "$1" /root/elsewhere; ln -sf /root/elsewhere "$1"',
    "for all to read": 'chmod 666 "$1"',
    "somebody else's": 'chown 65534:65534 "$1"',
    "gone": 'rm "$1"',
}
FILES = {
    "control": ("machine.json", "private.key", "mesh.db", "signing.key", "guard.nft", "held.nft"),
    "member": ("machine.json", "private.key", "membership.json", "preshared.key", "guard.nft", "held.nft"),
}
REST = (
    *("reserved-ports.json", "agent.log", "due.json", "joining.json", "undo.json"),
    *("retired.json", "retirement.json", "conflict.json"),
)
"""Files that are not always there: made for the test."""


@pytest.mark.parametrize(
    "role",
    # Of a member: TestE6 of test_join.py, and what its agent does then in test_dead_parts.py.
    ["control", pytest.param("member", marks=pytest.mark.long)],
)
def test_e6_damaged_state_is_said_in_two_lines_or_borne_and_opens_nothing(cluster, role):
    """Each file damaged in one way; the next test is of every way."""
    for name, spoil in zip(FILES[role], SPOILED, strict=False):
        assert_borne(cluster, role, name, spoil, ("status", "--json"), ("apply",))


@pytest.mark.long
@pytest.mark.parametrize("spoil", SPOILED)
@pytest.mark.parametrize("role", FILES)
def test_e6_state_damaged_in_any_way_is_said_in_two_lines_or_borne(cluster, role, spoil):
    for name in (*FILES[role], *REST):
        assert_borne(
            cluster, role, name, spoil, ("status", "--json"), ("plan",), ("check", "--json"), ("apply",)
        )


def assert_borne(cluster: Rig, role: str, name: str, spoil: str, *commands: tuple[str, ...]) -> None:
    """Damage a file, run commands on it, and put it back."""
    faulty = cluster.control if role == "control" else cluster.member
    change = ("invite", "machine-z") if role == "control" else ("join", "/root/invitation")
    script = f'test -e "$1" || echo "{{}}" >"$1"; {SPOILED[spoil]}'
    faulty.machine.run(["sh", "-c", script, "sh", f"{STATE}/{name}"])
    for words in (*commands, change):
        ended = faulty(*words)
        where = (name, spoil, words, ended)
        assert "qmesh itself" not in ended.err, where
        assert "Traceback" not in ended.err, where
        if ended.code not in {0, 1} and "--json" not in words:
            assert ended.refused(2, 3, 4), where
        if words[0] == "status" and ended.code == 0:
            found = msgspec.json.decode(ended.out)["machines"]
            assert [each["name"] for each in found] == ["control", "machine-b"], where
    rules = faulty.machine.run(["nft", "list", "table", "inet", "qmesh"]).stdout
    assert ("40000" if role == "control" else "40003") in rules, (name, spoil, rules)
    restore(faulty)


def restore(faulty: Faulty) -> None:
    faulty.end_agent()
    kept = "! -name '*.sock' ! -name '*.lock'"
    faulty.machine.run(
        [
            "sh",
            "-c",
            f"find {STATE} -mindepth 1 {kept} -delete; cp -a /root/sound/. {STATE}",
        ]
    )
    faulty.succeed("apply")


def agent_with_clock(machine: Faulty, ahead_s: float) -> None:
    """An agent whose time of day is another one, ready for members."""
    machine.end_agent()
    machine("agent", "--state", STATE, clock=ahead_s, log="/run/points", arm="/run/never")
    wait_until(lambda: "10.77.0.1" in machine.machine.run(["ss", "-Hltn"]).stdout)


@pytest.mark.parametrize(
    "ahead",
    [*(pytest.param(f"an hour {way}", marks=pytest.mark.long) for way in ("ahead", "behind")), "in 1970"],
)
def test_a_control_node_with_a_wrong_clock_admits_by_its_own(rig, ahead):
    ahead_s = {"an hour ahead": 3600.0, "an hour behind": -3600.0, "in 1970": 1000.0 - time.time()}[ahead]
    agent_with_clock(rig.control, ahead_s)
    rig.put(rig.control.succeed("invite", "machine-b", "--expires", "10m", clock=ahead_s).out)
    assert rig.join().code == 0
    assert trouble_of_membership(rig) == ""
    agent_with_clock(rig.control, 0)  # somebody set it right
    assert trouble_of_membership(rig) == ""
    assert rig.member.facts("plan")["steps"] == []


def test_e3_an_invitation_that_expired_stays_so_when_the_clock_jumps_back(rig):
    agent_with_clock(rig.control, 2 * 86400)
    wait_until(lambda: len(rig.control.facts("status")["machines"]) == 1)
    agent_with_clock(rig.control, -3600)
    ended = rig.join()
    assert ended.refused(4), ended
    assert [each["name"] for each in rig.control.facts("status")["machines"]] == ["control"]


def test_e2_an_altered_invitation_with_a_right_checksum_joins_nothing_and_burns_nothing(rig):
    """Who could alter it could have used it: it must not have the machine believe another mesh."""
    true = Path(f"/proc/{rig.machine_b.pid}/root/root/invitation").read_text()
    invitation = parse_invitation(true)
    for altered in ({"verification_key": bytes(31) + b"\1"}, {"name": "machine-x"}, {"mesh": "0" * 16}):
        rig.put(msgspec.structs.replace(invitation, **altered).text())
        ended = rig.join()
        assert ended.refused(2, 4), (altered, ended)
        left = rig.machine_b.run(["find", STATE, "-type", "f", "!", "-name", "*.log"]).stdout.split()
        assert {Path(name).name for name in left} <= {"private.key", "hold.lock", "agent.lock"}, altered
        assert "qmesh0" not in rig.machine_b.run(["ip", "-o", "link"]).stdout
    rig.put(true)
    assert rig.join().code == 0
    assert trouble_of_membership(rig) == ""
