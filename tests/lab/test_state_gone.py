"""State that is gone under a running agent: it ends, the guard stays, and one `join` takes all of it over."""

from __future__ import annotations

import json
import re

import pytest

from tests.support.lab.cluster import (
    AGENT,
    CONFIG,
    HOLDER,
    STATE,
    copy_state,
    count,
    facts,
    find_only,
    invite,
    make_control,
    make_member,
    qmesh,
    refusal,
    start_agent,
    stop_agent,
    what_is_there,
)
from tests.support.lab.machines import TOOLS, Machine
from tests.support.waiting import wait_until

pytestmark = pytest.mark.lab

GONE = {
    "a new disk": f"mount -t tmpfs tmpfs {STATE} -o mode=700",
    "all of it deleted": f"find {STATE} -mindepth 1 -delete",
    "the directory too": f"umount -l {STATE}; mv {STATE} {STATE}.gone",
}
ROWS = [pytest.param(how, marks=pytest.mark.long if place else []) for place, how in enumerate(GONE)]


def tables(machine: Machine) -> str:
    return machine.run(["nft", "list", "ruleset", "inet"]).stdout


@pytest.mark.parametrize("how", ROWS)
def test_an_agent_whose_state_is_gone_ends_and_leaves_the_guard(lab, how):
    control = make_control(lab)
    stop_agent(control)
    agent = start_agent(control)
    before = tables(control)

    control.run(["sh", "-c", GONE[how]])

    assert agent.wait(30) == 3
    assert f"error: {STATE} is gone" in agent.error_output()
    assert "Traceback" not in agent.error_output()
    assert tables(control) == before
    assert not control.processes(AGENT)
    assert count(control, HOLDER) == 1


def test_a_file_that_is_lost_is_no_state_that_is_gone(lab):
    control = make_control(lab)
    agent = find_only(control, AGENT)
    control.run(["rm", f"{STATE}/agent.lock"])
    # Without its lock file another one does not begin: the machine's lock is elsewhere.
    said = refusal(control, "agent", code=3)
    assert "runs already" in said
    assert str(agent) in said
    assert find_only(control, AGENT) == agent


def test_a_machine_has_one_agent_whatever_the_state_directory(lab):
    control = make_control(lab)
    agent = find_only(control, AGENT)
    copy_state(control, "/root/other")
    said = refusal(control, "agent", "--state", "/root/other", code=3)
    assert f"runs already (process {agent}, of {STATE})" in said
    assert find_only(control, AGENT) == agent
    # No user can be there first: only root enters.
    assert control.run(["stat", "-c", "%U %a", "/run/qmesh"]).stdout == "root 700\n"
    stop_agent(control)
    (lock,) = control.run(["sh", "-c", "echo /run/qmesh/agent-*"]).stdout.split()
    nobody = ["setpriv", "--reuid=65534", "--clear-groups", "flock", "-n", lock, "true"]
    assert control.run(nobody, check=False).returncode != 0
    assert control.run(nobody[3:]).returncode == 0
    control.start(["qmesh", "agent", "--state", "/root/other"])
    wait_until(lambda: len(control.processes(AGENT)) == 1, 30)


@pytest.mark.parametrize("how", ROWS)
def test_join_says_in_one_message_what_is_left_over_and_takes_it_over_with_the_ports_closed(lab, how):
    control = make_control(lab)
    member = make_member(lab, control, 201, 2)
    attacker = lab.machine("attacker", "192.168.0.66")
    member.start(["python", TOOLS / "knock.py", "listen", "/root/reached", "40003", "40004", "9001"])
    agent, holder = find_only(member, AGENT), find_only(member, HOLDER)
    knocking = attacker.start(
        ["python", TOOLS / "knock.py", "ask", "/root/asked", "192.168.0.201", "--", "40003", "40004", "9001"]
    )
    wait_until(lambda: "tcp 9001" in record(member, "/root/reached"), 30)
    invitation = qmesh(control, "invite", "machine-b", "--replace").stdout
    member.write("/root/again", invitation, 0o600)

    member.run(["sh", "-c", GONE[how]])
    said = refusal(member, "join", "again", "--config", CONFIG, code=2)
    assert "leftovers of an earlier qmesh" in said
    for part in (
        f"holds its guard (process {holder})",
        "closes ports 40003-40004",
        "tunnel qmesh0 (UDP port 51820)",
        "hint: use --take-over",
    ):
        assert part in said, said
    assert qmesh(member, "join", "again", "--config", CONFIG, "--take-over", timeout=60).returncode == 0

    assert count(member, AGENT) == 1
    assert agent not in member.processes(AGENT)
    assert count(member, HOLDER) == 1
    assert holder not in member.processes(HOLDER)
    assert facts(member, "plan")["steps"] == []
    assert facts(member, "status")["machines"][1]["address"] == "10.77.0.2"
    before = record(member, "/root/reached")["tcp 9001"]["count"]
    wait_until(lambda: record(member, "/root/reached")["tcp 9001"]["count"] > before + 50, 30)
    knocking.stop()
    assert set(record(member, "/root/reached")) == {"tcp 9001", "udp 9001"}
    qmesh(member, "uninstall", "--delete-state")
    assert not member.processes(f"{AGENT}|{HOLDER}")
    assert what_is_there(member)["rules"] == ""


def record(machine: Machine, path: str) -> dict[str, dict[str, float]]:
    try:
        found: dict[str, dict[str, float]] = json.loads(machine.read(path))["found"]
    except OSError:
        return {}
    return found


def test_state_that_is_put_back_is_taken_up_again(lab):
    control = make_control(lab)
    copy_state(control, "/root/copy")
    before = tables(control)
    control.run(["sh", "-c", f"find {STATE} -mindepth 1 -delete"])
    wait_until(lambda: not control.processes(AGENT), 30)
    control.run(["sh", "-c", f"cp -a /root/copy/. {STATE}/"])
    qmesh(control, "apply")
    qmesh(control, "set", "control", "--workers", "4")  # the guard is another: the holder's table too
    assert count(control, AGENT) == 1
    assert count(control, HOLDER) == 1
    assert re.sub(r"\b4000[0-3],?\s*", "", tables(control)) != before
    assert facts(control, "plan")["steps"] == []


@pytest.mark.long  # test_a_machine_has_one_agent_whatever_the_state_directory
def test_another_state_directory_that_is_in_use_is_named(lab):
    control = make_control(lab)
    other = lab.machine("machine-c", "192.168.0.202")
    invite(control, other, "--workers", "1")
    qmesh(other, "join", "invitation", "--state", "/root/mine")
    text = qmesh(control, "invite", "machine-d").stdout
    other.write("/root/invitation-d", text, 0o600)
    said = refusal(other, "join", "invitation-d", "--take-over", code=2)
    assert "with another state directory, /root/mine" in said
    assert "--state /root/mine" in said
