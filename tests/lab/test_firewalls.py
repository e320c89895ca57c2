"""G4: other firewalls go on as they are, `check` names what of them is in the mesh's way, its cure cures."""

from __future__ import annotations

import json
import re

import pytest

from tests.support.lab.cluster import (
    CONFIG,
    facts,
    invite,
    make_cluster,
    make_control,
    make_member,
    qmesh,
    start_workers,
)
from tests.support.lab.cluster import dial as dial_all
from tests.support.lab.firewalls import FIREWALLS, Firewall, NftablesConf
from tests.support.lab.machines import TOOLS, Lab, Machine
from tests.support.lab.unusual_machines import BRIDGE, find_lasting_alarms, publish
from tests.support.waiting import wait_until

pytestmark = pytest.mark.lab


def obstacles(machine: Machine) -> list[dict[str, str]]:
    """What `check` says of other firewalls."""
    report = json.loads(machine.run(["qmesh", "check", "--json"], check=False).stdout)
    return [finding for finding in report["findings"] if finding["code"] == "foreign-drop"]


def cure(machine: Machine) -> list[str]:
    """Do what is told until nothing is in the way any more; what was done."""
    done: list[str] = []
    for _ in range(6):
        found = obstacles(machine)
        if not found:
            return done
        command = found[0]["cure"]
        assert command not in done, f"it did not cure: {found[0]}"
        machine.run(["sh", "-ec", command], timeout=60)
        done.append(command)
    raise AssertionError(f"still in the way: {obstacles(machine)}")


def theirs(machine: Machine) -> str:
    """Every rule that is not qmesh's, without handles and counters."""
    listed = machine.run(["nft", "-s", "list", "ruleset"]).stdout
    tables = re.split(r"(?m)^(?=table )", listed)
    saved = machine.run(["sh", "-c", "iptables-nft-save; ip6tables-nft-save"]).stdout
    saved = re.sub(r"(?m)^#.*\n|\[\d+:\d+\]", "", saved)
    return "".join(table for table in tables if not table.startswith("table inet qmesh")) + saved


def reached(control: Machine) -> list[bool]:
    """Which of the member's four workers the control node reaches."""
    return [by is not None for by in dial_all(control)][3:]


def is_closed(lab_attacker: Machine, victim: Machine) -> bool:
    script = f"import socket; socket.create_connection(('{victim.ipv4}', 40003), 1)"
    return lab_attacker.run(["python", "-c", script], check=False).returncode != 0


@pytest.fixture
def attacker(lab: Lab) -> Machine:
    return lab.machine("machine-x", "192.168.0.240")


# With every change each of the two programs is on one kind of machine: firewalld here, ufw below.
@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[] if kind.name == "firewalld" else pytest.mark.long) for kind in FIREWALLS],
    ids=lambda kind: kind.name,
)
def test_g4_on_a_worker_machine_what_is_in_the_way_is_named_and_cured(lab, attacker, kind: type[Firewall]):
    control = make_control(lab)
    member = make_member(lab, control, 201, 4)
    qmesh(control, "render-config", "--write")
    own = start_workers(control, "1..3")
    workers = start_workers(member, "4..7", "--careless")
    assert obstacles(member) == []
    assert reached(control) == [True] * 4
    firewall = kind(member)
    firewall.start()
    made = theirs(member)

    assert reached(control) == [False] * 4
    found = obstacles(member)
    assert found
    assert {finding["severity"] for finding in found} == {"error"}
    assert any("tunnel" in finding["wanted"] or "qmesh0" in finding["wanted"] for finding in found)
    qmesh(member, "apply")
    assert theirs(member) == made
    cure(member)
    assert reached(control) == [True] * 4
    for again in (firewall.reload, firewall.restart):
        if not isinstance(firewall, NftablesConf):  # where the cure says to write it into the file too
            again()
            assert obstacles(member) == []
            wait_until(lambda: reached(control) == [True] * 4)
        assert is_closed(attacker, member)
    for running in (own, workers):
        running.stop()


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.long if kind is not FIREWALLS[0] else []) for kind in FIREWALLS],
    ids=lambda kind: kind.name,
)
def test_g4_on_a_control_node_that_had_it_before(lab, kind: type[Firewall]):
    control = lab.machine("machine-a", "192.168.0.200", "fd00:1a::200")
    firewall = kind(control)
    firewall.start()
    made = theirs(control)
    qmesh(control, "init", "--workers", "3", "--node", "1.4", "--endpoint", "192.168.0.200")
    assert theirs(control) == made
    found = obstacles(control)
    assert any("UDP port 51820" in finding["wanted"] for finding in found), found
    member = lab.machine("machine-b", "192.168.0.201")
    invite(control, member, "--workers", "4")
    cure(control)
    qmesh(member, "join", "invitation")
    assert cure(control) == []
    assert facts(control, "status")["machines"][1]["state"] == "active"


def test_g4_an_address_that_fail2ban_took_is_named_with_how_to_give_it_back(lab):
    control = make_control(lab)
    member = make_member(lab, control, 201, 4)
    banned = """
table inet f2b-table {
    set addr-set-sshd {
        type ipv4_addr
        elements = { 192.0.2.77, 10.77.0.1, 192.168.0.200 }
    }
    chain f2b-chain {
        type filter hook input priority filter - 1; policy accept;
        ip saddr @addr-set-sshd drop
    }
}
"""
    member.run(["nft", "-f", "-"], input=banned)
    cures = {finding["cure"] for finding in obstacles(member)}
    assert cures == {"fail2ban-client unban 10.77.0.1", "fail2ban-client unban 192.168.0.200"}
    for address in ("10.77.0.1", "192.168.0.200"):
        member.run(["nft", "delete", "element", "inet", "f2b-table", "addr-set-sshd", f"{{ {address} }}"])
    assert obstacles(member) == []


@pytest.mark.long
def test_g4_workers_in_a_container_are_alive_and_what_keeps_them_from_calls_is_named(lab):
    """The rules are Docker's, without its proxy: nothing listens on the machine itself."""
    control, member = make_cluster(lab)
    own = start_workers(control, "1..3")
    member.run(["sh", "-ec", BRIDGE])
    publish(member, {port: port for port in range(40003, 40007)})
    worker = ["python", str(TOOLS / "worker.py"), "--config", CONFIG, "--core", "4..7", "--careless"]
    inside = member.start(["ip", "netns", "exec", "inside", *worker])
    inside.wait_for("ready")
    assert reached(control) == [True] * 4
    assert find_lasting_alarms(member) == []
    assert find_lasting_alarms(control, "--all") == []
    (here,) = (each for each in facts(member, "status")["machines"] if each["name"] == member.name)
    assert (here["workers"]["alive"], here["workers"]["silent"]) == (4, [])

    member.run(["sh", "-ec", "iptables -F FORWARD"])  # whose policy is drop
    wait_until(lambda: reached(control) == [False] * 4)
    (found,) = obstacles(member)
    assert (found["subject"], found["seen"]) == ("table ip filter chain FORWARD of iptables", "policy drop")
    member.run(["sh", "-ec", "iptables -I FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT"])
    assert cure(member) == ["iptables -I FORWARD -i qmesh0 -j ACCEPT"]
    assert reached(control) == [True] * 4

    inside.stop()
    ended = obstacles(member)
    assert {each["severity"] for each in ended} == {"error"}
    said = " ".join(each["seen"] for each in ended)
    assert all(f"172.17.0.2 port {port}, where nothing answers" in said for port in range(40003, 40007))
    assert {each["cure"].partition(" ")[0] for each in ended} == {"start"}
    again = start_workers(member, "4..7")
    assert len(cure(member)) == 4
    assert reached(control) == [True] * 4
    for running in (own, again):
        running.stop()


def test_g4_a_rule_that_is_not_understood_is_told_as_a_warning(lab):
    control = make_control(lab)
    rule = "meta cpu 0-1 udp dport 51820 drop"
    script = f"table inet odd {{ chain c {{ type filter hook input priority 0; {rule}; }}; }}"
    control.run(["nft", "-f", "-"], input=script)
    (found,) = obstacles(control)
    assert found["severity"] == "warning"
    assert found["seen"].startswith("not understood: ")
