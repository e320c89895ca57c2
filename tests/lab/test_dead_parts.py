"""No part of the agent ends or hangs unnoticed: it is begun anew, and `check` says so (A1)."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from qmesh.agent.audit.agent_status import LATE_S
from qmesh.host.registry.schema import VERSION
from qmesh.mesh.guard.tables import HELD, TABLE
from tests.support.lab.broken_parts import (
    NAMES,
    WISHED,
    breakable_agent,
    findings,
    is_mended,
    is_well,
    spoil,
)
from tests.support.lab.cluster import (
    AGENT,
    HOLDER,
    SERVICE,
    STATE,
    facts,
    find_only,
    make_control,
    make_member,
    qmesh,
    stop_agent,
)
from tests.support.lab.machines import Lab, Machine
from tests.support.waiting import idle, wait_until

pytestmark = pytest.mark.lab

HOW = ("crash", "hang")


class Cluster(NamedTuple):
    control: Machine
    member: Machine


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Lab() as lab:
        control = make_control(lab)
        for words in WISHED:
            qmesh(control, *words)
        yield Cluster(control, make_member(lab, control, 201, 2))


def is_told(log: str, part: str, how: str) -> bool:
    """Whether the log has it once, with the place where it was."""
    said = f"{NAMES[part]}: it hung" if how == "hang" else f"{NAMES[part]}: Sabotage: sabotaged {part}"
    return log.count(said) == 1 and "in broken" in log


SEEN_BY_MEMBERS = [("service", "crash"), ("service", "hang"), ("look", "hang")]
PARTS = [
    *SEEN_BY_MEMBERS,
    *(
        pytest.param(part, how, marks=pytest.mark.long)
        for part, how in itertools.product(NAMES, HOW)
        if part != "asking" and (part, how) not in SEEN_BY_MEMBERS
    ),
]


@pytest.mark.parametrize(("part", "how"), PARTS)
def test_a1_a_part_of_the_control_nodes_agent_is_begun_anew_and_named(cluster, part, how):
    with breakable_agent(cluster.control) as agent:
        spoil(cluster.control, how, part)
        wait_until(lambda: is_mended(cluster.control, part), seconds=30)
        wait_until(lambda: is_well(cluster.member), seconds=10)  # it is answered
        assert is_told(agent.error_output(), part, how)


@pytest.mark.parametrize(
    ("part", "how"),
    [
        ("asking", "hang"),
        *(
            pytest.param(part, how, marks=pytest.mark.long)
            for part, how in [("asking", "crash"), *itertools.product(("look", "following"), HOW)]
        ),
    ],
)
def test_a1_a_part_of_a_members_agent_is_begun_anew_and_named(cluster, part, how):
    control, member = cluster
    with breakable_agent(member) as agent:
        workers = itertools.count(3)
        spoil(
            member,
            how,
            part,
            news=lambda: qmesh(control, "set", "machine-b", "--workers", str(next(workers))),
        )
        wait_until(lambda: is_mended(member, part), seconds=30)
        assert is_told(agent.error_output(), part, how)
        # It hears of what changes, as before.
        revision = facts(control, "set", "machine-b", "--workers", "2")["revision"]
        wait_until(lambda: held_revision(member) == revision, seconds=20)


def held_revision(member: Machine) -> int:
    """Of the membership that its agent has, without a command that would ask for a newer one."""
    signed = json.loads(member.read(f"{STATE}/membership.json"))
    revision: int = json.loads(base64.b64decode(signed["payload"]))["revision"]
    return revision


def test_a1_the_kernels_notices_are_taken_by_new_sockets(cluster):
    control = cluster.control
    with breakable_agent(control) as agent:
        spoil(control, "crash", "notices")
        wait_until(lambda: is_well(control), seconds=20)
        control.run(["nft", "delete", "table", "inet", TABLE])
        wait_until(lambda: has_table(control, TABLE), seconds=3)  # less than it looks away
        assert "notices of the kernel" in agent.error_output()


def has_table(machine: Machine, name: str) -> bool:
    return f"table inet {name}" in map(str.strip, machine.run(["nft", "list", "tables"]).stdout.splitlines())


def test_a1_a_look_that_fails_in_an_unforeseen_way_leaves_the_ports_closed(cluster):
    control = cluster.control
    with breakable_agent(control) as agent:
        control.write("/root/crash-look", "")
        control.run(["nft", "flush", "ruleset"])
        wait_until(lambda: has_table(control, TABLE), seconds=3)
        wait_until(lambda: is_mended(control, "look"), seconds=20)
        assert is_told(agent.error_output(), "look", "crash")


SQL = "import sqlite3, sys; sqlite3.connect(sys.argv[1], isolation_level=None).execute(sys.argv[2])"
ROWS = {
    "a version that never was": ("PRAGMA user_version = 0", f"PRAGMA user_version = {VERSION}"),
    "a node that there is not": ("UPDATE mesh SET node = '9.9'", "UPDATE mesh SET node = '1.4'"),
    "a preshared key that is none": (
        "UPDATE machines SET preshared_key = preshared_key || 'x' WHERE name = 'machine-b'",
        "UPDATE machines SET preshared_key = substr(preshared_key, 1, 44) WHERE name = 'machine-b'",
    ),
    "text that is no text": (
        "UPDATE machines SET endpoints = CAST(x'5bff' AS TEXT) WHERE name = 'machine-b'",
        "UPDATE machines SET endpoints = '[]' WHERE name = 'machine-b'",
    ),
}


# Every value that a column may have: tests/host/test_registry_damage.py.
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(name, marks=pytest.mark.long if place in {1, 2} else [])
        for place, name in enumerate(ROWS)
    ],
)
def test_g3_a_registry_that_cannot_be_ends_no_agent_and_opens_no_port(cluster, damage):
    control = cluster.control
    damaging, mending = ROWS[damage]
    agent = find_only(control, AGENT)
    run = ("python", "-c", SQL, f"{STATE}/mesh.db")
    control.run([*run, damaging])
    try:
        control.run(["nft", "flush", "ruleset"])
        wait_until(lambda: has_table(control, TABLE), seconds=10)
        wait_until(lambda: "is damaged" in str(findings_or_refusal(control)), seconds=20)
    finally:
        control.run([*run, mending])
    wait_until(lambda: is_well(control), seconds=30)
    assert find_only(control, AGENT) == agent


FILES = {
    "successor.json": b'{"public_key": 5, "preshared_key": 7}',
    "rotating.json": b'{"old": "x", "new": "x"}',
    "undo.json": b'{"before": ' + b"[" * 100_000,
    "machine.json": b"",
}


# Each file: tests/host/test_state.py.
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "machine.json" else pytest.mark.long) for name in FILES],
)
def test_g3_a_file_that_cannot_be_ends_no_agent_and_opens_no_port(cluster, name):
    member = cluster.member
    agent = find_only(member, AGENT)
    was = member.read(f"{STATE}/{name}") if name == "machine.json" else None
    damaged = (
        FILES[name].decode() if was is None else was.replace('"listen_port": 51820', '"listen_port": -5')
    )
    assert damaged != was
    member.write(f"{STATE}/{name}", damaged)
    try:
        member.run(["nft", "flush", "ruleset"])
        wait_until(lambda: has_table(member, TABLE), seconds=10)
        wait_until(lambda: f"{name} is damaged" in str(findings_or_refusal(member)), seconds=20)
    finally:
        if was is None:
            member.run(["rm", f"{STATE}/{name}"])
        else:
            member.write(f"{STATE}/{name}", was)
    wait_until(lambda: is_well(member), seconds=30)
    assert find_only(member, AGENT) == agent


def findings_or_refusal(machine: Machine) -> str:
    """What `check` finds, or why it can't look."""
    found = machine.run(["qmesh", "check", "--json"], check=False)
    return f"{found.stdout}{found.stderr}"


def test_a1_an_agent_that_is_stopped_as_a_whole_is_named_here_and_on_a_member(cluster):
    control, member = cluster
    agent = find_only(control, AGENT)
    control.freeze(AGENT)
    found = findings(control)["agent-silent"]
    assert found["severity"] == "error"
    assert found["cure"] == f"kill -KILL {agent}; qmesh apply"
    silent = findings(member)["service-silent"]
    assert silent["severity"] == "error"
    assert "10.77.0.1" in silent["seen"]
    control.run(["sh", "-c", found["cure"]])
    wait_until(lambda: is_well(control) and is_well(member), seconds=20)


def test_a1_a_holder_that_hangs_is_named_and_another_holds_the_guard(cluster):
    control = cluster.control
    hung = control.processes(HOLDER)
    control.freeze(HOLDER)
    wait_until(lambda: control.processes(HOLDER).keys() - hung.keys(), seconds=30)
    wait_until(lambda: set(findings(control)) == {"agent-restarted"}, seconds=20)
    assert findings(control)["agent-restarted"]["subject"] == "holder of the guard"
    control.run(["nft", "flush", "ruleset"])
    assert has_table(control, HELD)
    stop_agent(control)
    qmesh(control, "apply")


def test_a1_a_service_that_cannot_listen_is_named_and_tried_again_while_the_guard_is_kept(cluster):
    control, member = cluster
    stop_agent(control)
    taken = control.start(["python", "-c", TAKE_THE_PORT])
    taken.wait_for("taken")
    agent = control.start(["qmesh", "agent"])
    wait_until(lambda: "service-silent" in findings(control), seconds=20)
    found = findings(control)["service-silent"]
    assert "Address already in use" in found["seen"]
    assert "ss -ltnp" in found["cure"]
    control.run(["nft", "flush", "ruleset"])
    wait_until(lambda: has_table(control, TABLE), seconds=5)
    assert agent.error_output().count("Address already in use") == 1  # said once
    taken.stop()
    wait_until(lambda: "service-silent" not in findings(control), seconds=30)
    wait_until(lambda: is_well(member), seconds=20)
    agent.stop(timeout=15)
    qmesh(control, "apply")


TAKE_THE_PORT = f"""
import socket
listening = socket.create_server(("10.77.0.1", {SERVICE}))
print("taken", flush=True)
while True:
    listening.accept()
"""


ONLY_READING = (["status"], ["log"], ["plan"], ["invite", "--list"], ["metrics"], ["export", "hosts"])


def test_a1_a_command_that_was_stopped_halfway_opens_no_port_and_keeps_no_other_from_looking(cluster):
    control = cluster.control
    stopped = control.start(["flock", "--close", STATE, "sleep", "1000"])
    control.run(["nft", "flush", "ruleset"])
    wait_until(lambda: has_table(control, TABLE), seconds=10)
    assert "another command of qmesh is at work" in findings(control)["check-failed"]["seen"]
    assert [control.run(["qmesh", *words]).returncode for words in ONLY_READING] == [0] * len(ONLY_READING)
    stopped.stop()
    wait_until(lambda: is_well(control), seconds=20)


@pytest.mark.long
def test_a1_a_command_that_does_not_end_is_named_in_the_place_of_an_agent_that_waits_for_it(cluster):
    control, member = cluster
    seen: dict[str, Any] = {}
    with contextlib.ExitStack() as ending:
        for machine in cluster:
            ending.callback(machine.start(["flock", "--close", STATE, "sleep", "1000"]).stop)

        def is_named() -> bool:
            seen.update(findings(member))
            return "agent-failing" in seen

        wait_until(is_named, seconds=40)
        idle(LATE_S)
        seen.update(findings(member))
        assert set(seen) == {"agent-failing", "check-failed"}
        for found in seen.values():
            assert re.search(r"another command of qmesh is at work .* \(process \d+\)", found["seen"])
            assert found["cure"].startswith("wait until it ends")
        assert facts(member, "status")["machines"]
    wait_until(lambda: is_well(control) and is_well(member), seconds=30)
