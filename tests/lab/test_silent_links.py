"""Links that carry nothing are named on both sides, and a key that two machines use is, with the way out.

The agents here take seconds for silence where those of the product take minutes: all else is as it is.
"""

from __future__ import annotations

import json
import textwrap
from typing import Any

import pytest

from tests.support.lab.cluster import (
    CONFIG,
    STATE,
    copy_state,
    facts,
    invite,
    make_cluster,
    make_control,
    make_member,
    newcomer,
    peers_of,
    qmesh,
    stop_agent,
)
from tests.support.lab.machines import Lab, Machine, Running
from tests.support.waiting import idle, wait_until

pytestmark = pytest.mark.lab

SILENT_S = 10
AGENT = textwrap.dedent(f"""
    from pathlib import Path
    from qmesh.agent.daemon import main, observe
    from qmesh.mesh.links import activity
    activity.SILENT_S, activity.QUIET_S, observe.AUDIT_S, main.LOOK_S = {SILENT_S}.0, 8.0, 0.5, 1.0
    main.run_agent(Path("{STATE}"))
""")


def watch(machine: Machine) -> Running:
    """Have a machine another agent, which does not wait for minutes."""
    stop_agent(machine)
    return machine.start(["python", "-c", AGENT])


def named(machine: Machine, code: str) -> dict[str, Any]:
    """The findings of that code, by subject, in one check."""
    report = machine.run(["qmesh", "check", "--json"], check=False, timeout=60).stdout
    return {each["subject"]: each for each in json.loads(report)["findings"] if each["code"] == code}


def is_named(machine: Machine, code: str, *subjects: str) -> bool:
    return set(named(machine, code)) == set(subjects)


def unplug(*machines: Machine) -> None:
    """Take the network away, for long enough to be noticed."""
    for machine in machines:
        machine.run(["ip", "link", "set", "eth0", "down"])
    idle(SILENT_S + 2)


def plug(*machines: Machine) -> None:
    for machine in machines:
        machine.run(["ip", "link", "set", "eth0", "up"])


def has_no_restart(control: Machine, silent: str, *others: str) -> bool:
    """Whether the workers of a silent machine are no reason to restart anything, and those of others are."""
    away, *near = named(control, "worker-silent").values()
    names = {each["subject"].partition(" ")[0] for each in near}
    return away["subject"] == silent and away["cure"].startswith("restart no workers") and names == {*others}


def test_a_link_that_carries_nothing_is_named_on_both_sides_and_a_removal_meanwhile_is_told(lab: Lab) -> None:
    control = make_control(lab)
    member = make_member(lab, control, 201, 2)
    qmesh(control, "render-config", "--write", "--config", CONFIG)
    for machine in (control, member):
        watch(machine)
    wait_until(lambda: all(is_named(each, "agent-missing") for each in (control, member)), 30)
    assert is_named(control, "peer-silent")
    assert is_named(member, "peer-silent")

    unplug(member)
    wait_until(lambda: is_named(control, "peer-silent", "machine-b"), 60)
    finding = named(control, "peer-silent")["machine-b"]
    assert finding["severity"] == "error"
    assert "a ping is not answered by 192.168.0.201" in finding["seen"]
    assert has_no_restart(control, "machine-b", "control")
    wait_until(lambda: is_named(member, "peer-silent", "control"), 30)
    finding = named(member, "peer-silent")["control"]
    assert "this machine has no route to 192.168.0.200" in finding["seen"]
    assert "own network" in finding["cure"]
    assert is_named(member, "service-silent")  # which is no second cause

    # It is removed while it is away, is told so when it is back, and joins again with another key.
    key = facts(member, "status")["machines"][1]["public_key"]
    qmesh(control, "remove", "machine-b")
    plug(member)
    idle(10)
    wait_until(lambda: is_named(member, "membership-stale", "membership"), 90)
    assert is_named(control, "peer-silent")
    shown = control.run(["wg", "show", "qmesh0", "allowed-ips"]).stdout.split()
    assert shown[0] == key
    assert shown[1].startswith("239.")  # from which no kernel takes a packet
    invite(control, member, "--workers", "2")
    qmesh(member, "join", "invitation", "--config", CONFIG, timeout=90)
    assert facts(member, "status")["machines"][1]["public_key"] != key
    assert is_named(member, "membership-stale")


@pytest.mark.long  # when one is: tests/mesh/test_links.py
def test_a_key_that_two_machines_use_is_named_and_the_copy_is_told_that_it_has_none(lab: Lab) -> None:
    control = make_control(lab)
    member = make_member(lab, control, 201, 2)
    copy = newcomer(lab, 203)
    copy.run(["mkdir", "-p", STATE])
    for name in ("machine.json", "private.key", "preshared.key", "membership.json", "guard.nft"):
        copy.write(f"{STATE}/{name}", member.read(f"{STATE}/{name}"), 0o600)
    watch(control)
    copy.start(["qmesh", "agent"])
    idle(40)
    wait_until(lambda: is_named(control, "key-shared", "machine-b"), 90)
    finding = named(control, "key-shared")["machine-b"]
    assert "192.168.0.201:51820" in finding["seen"]
    assert "192.168.0.203:51820" in finding["seen"]

    old = facts(control, "status")["machines"][1]["public_key"]
    invite(control, member, "--replace")
    qmesh(member, "join", "invitation", "--config", CONFIG, timeout=90)
    new = facts(control, "status")["machines"][1]["public_key"]
    assert new != old
    assert member.run(["sh", "-c", f"wg pubkey < {STATE}/private.key"]).stdout.strip() == new
    assert peers_of(control) == [new]
    wait_until(lambda: is_named(copy, "key-retired", "machine-b"), 90)
    assert is_named(copy, "peer-silent")
    wait_until(lambda: is_named(control, "key-shared") and is_named(control, "peer-silent"), 60)


@pytest.mark.long
def test_a_machine_whose_state_went_back_behind_its_new_key_is_told_so(lab: Lab) -> None:
    control = make_control(lab)
    member = make_member(lab, control, 201, 2)
    watch(control)
    wait_until(lambda: "10.77.0.1" in control.run(["ss", "-Hltn"]).stdout, 30)
    copy_state(member, "/root/old")
    qmesh(member, "rotate-key")
    stop_agent(member)
    member.run(["sh", "-c", f"cp -a /root/old/private.key /root/old/membership.json {STATE}"])
    qmesh(member, "apply")
    wait_until(lambda: is_named(member, "key-retired", "machine-b"), 90)
    invite(control, member, "--replace")
    qmesh(member, "join", "invitation", "--config", CONFIG, timeout=90)
    assert is_named(member, "key-retired")


@pytest.mark.long
def test_a_link_that_never_carried_anything_and_many_for_one_cause_are_named(lab: Lab) -> None:
    control, member = make_cluster(lab)
    other = make_member(lab, control, 202, 2)
    qmesh(control, "render-config", "--write", "--config", CONFIG)
    agents = {machine.name: watch(machine) for machine in (control, member, other)}
    wait_until(lambda: all(is_named(each, "agent-missing") for each in (control, member, other)), 30)
    unplug(other)
    wait_until(lambda: is_named(control, "peer-silent", "machine-c"), 60)
    assert "1 of 1 other machines are reachable" in named(control, "peer-silent")["machine-c"]["seen"]
    assert is_named(member, "peer-silent")
    assert has_no_restart(control, "machine-c", "control", "machine-b")

    # As after a boot without a network: there never was a handshake.
    agents["machine-c"].stop(timeout=15)
    other.run(["ip", "link", "delete", "qmesh0"])
    agents["machine-c"] = other.start(["python", "-c", AGENT])
    wait_until(lambda: "qmesh0" in other.run(["ip", "-br", "link"]).stdout, 30)
    wait_until(lambda: is_named(other, "service-silent"), 30)
    idle(SILENT_S)
    wait_until(lambda: is_named(other, "peer-silent", "control"), 60)
    assert named(other, "peer-silent")["control"]["seen"].startswith("never a handshake, ")

    # All of them: this machine's own network, and one finding.
    unplug(control)
    wait_until(lambda: is_named(control, "peer-silent", "all 2 machines"), 60)
    finding = named(control, "peer-silent")["all 2 machines"]
    assert "no route" in finding["seen"]
    assert "own network" in finding["cure"]
    plug(control, other)
    idle(10)
    wait_until(lambda: all(is_named(each, "peer-silent") for each in (control, member, other)), 90)
    # One that is paused may be away.
    unplug(other)
    wait_until(lambda: is_named(control, "peer-silent", "machine-c"), 60)
    qmesh(control, "pause", "machine-c")
    wait_until(lambda: is_named(control, "peer-silent"), 10)
    # One whose UDP port is closed is there, as its ping says.
    member.run(["nft", "-f", "-"], input=NO_UDP)
    idle(SILENT_S + 2)
    wait_until(lambda: is_named(member, "peer-silent", "control"), 60)
    finding = named(member, "peer-silent")["control"]
    assert "a ping is answered by 192.168.0.200" in finding["seen"]
    key = facts(member, "status")["machines"][1]["public_key"]
    assert key in finding["cure"]
    assert "UDP port" in finding["cure"]


NO_UDP = """
table inet strict {
    chain in {
        type filter hook input priority -10;
        iifname eth0 udp sport 51820 drop
    }
    chain out {
        type filter hook output priority -10;
        oifname eth0 udp dport 51820 drop
    }
}
"""
