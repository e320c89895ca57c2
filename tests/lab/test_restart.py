"""`qmesh restart`: what runs is of the installed version afterwards, and no more than that has changed."""

from __future__ import annotations

import re
import sys

import pytest

from qmesh.mesh.systemd.units import add_mark
from tests.support.lab.cluster import (
    AGENT,
    CONFIG,
    HOLDER,
    STATE,
    TUNNEL,
    facts,
    find_only,
    make_control,
    make_member,
    newcomer,
    problems,
    qmesh,
    refusal,
    rules_of,
    stop_agent,
)
from tests.support.lab.machines import Lab, Machine, Running
from tests.support.lab.services import start_services
from tests.support.waiting import wait_until

pytestmark = pytest.mark.lab

UNITS = "/etc/systemd/system"


def processes(machine: Machine) -> dict[str, int]:
    return {name: find_only(machine, name) for name in (AGENT, HOLDER, TUNNEL)}


@pytest.fixture
def with_services(lab: Lab) -> Machine:
    """A control node with the stand-in for systemd."""
    machine = lab.machine("machine-a", "192.168.0.200", "fd00:1a::200")
    start_services(machine)
    qmesh(machine, "init", "--workers", "3", "--node", "1.4", "--endpoint", "192.168.0.200")
    return machine


def test_g3_the_holder_and_the_agent_are_others_and_the_rules_the_same(lab):
    machine = make_control(lab)
    before, rules = processes(machine), rules_of(machine)
    said = facts(machine, "restart")
    assert (said["holder"], said["agent"], said["written"], said["kept"]) == (True, True, [], [])
    after = processes(machine)
    assert {name for name in after if after[name] != before[name]} == {AGENT, HOLDER}
    assert rules_of(machine) == rules
    assert problems(machine) == set()


def test_an_agent_imports_nothing_late_whatever_it_does(lab):
    """What an upgrade has put in the place of its files would be of another version than the agent is."""
    control = make_control(lab)
    agents = {control: start_counting(control)}
    member = make_member(lab, control, 201, 4)
    agents[member] = start_counting(member)
    begun = {machine: list_imported(agent) for machine, agent in agents.items()}
    assert all("qmesh.agent.daemon.main" in names for names in begun.values())
    for machine in (control, member):
        qmesh(machine, "render-config", "--write", "--config", CONFIG)
        qmesh(machine, "set", "--metrics", "127.0.0.1:9400")
        qmesh(machine, "set", "--notify", "http://127.0.0.1:9")
        qmesh(machine, "set", "--notify-test", code=None)
        machine.run(["nft", "flush", "ruleset"])
        qmesh(machine, "check", code=None)
        qmesh(machine, "status")
        qmesh(machine, "metrics")
    qmesh(control, "check", "--all", code=None)
    qmesh(control, "set", "machine-b", "--workers", "5")
    qmesh(member, "rotate-key")
    qmesh(control, "handover", "machine-b")
    wait_until(lambda: facts(member, "status")["control"] == "machine-b", 30)
    qmesh(member, "remove", "control", code=None)
    for machine, agent in agents.items():
        assert machine.processes(AGENT)
        late = set(list_imported(agent)) - set(begun[machine])
        assert {name for name in late if name.partition(".")[0] not in sys.stdlib_module_names} == set()


def start_counting(machine: Machine) -> Running:
    """The agent in place of the one that runs, such that it says what it imports, and when."""
    stop_agent(machine)
    words = ["python", "-X", "importtime", "-I", "-m", "qmesh", "agent", "--state", STATE]
    agent = machine.start(words)
    wait_until(lambda: "agent-started" in agent.error_output(), 30)
    return agent


def list_imported(agent: Running) -> list[str]:
    return re.findall(r"^import time: [ 0-9|]*\| +(\S+)$", agent.error_output(), re.MULTILINE)


def test_without_systemd_an_agent_that_does_not_run_is_not_started(lab):
    machine = make_control(lab)
    stop_agent(machine)
    said = qmesh(machine, "restart")
    assert "no agent runs on this machine: `qmesh apply` starts one" in said.stderr
    assert "restarted the process that holds the guard, as version" in said.stdout
    assert not machine.processes(AGENT)


def test_in_no_mesh_there_is_nothing_to_do_but_to_name_another_state(lab):
    machine = newcomer(lab)
    assert qmesh(machine, "restart").stdout == "nothing to do: this machine is in no mesh\n"
    qmesh(
        machine,
        "init",
        "--workers",
        "3",
        "--node",
        "1.4",
        "--endpoint",
        "192.168.0.201",
        "--state",
        "/root/it",
    )
    said = refusal(machine, "restart", code=2)
    assert "hint: run `qmesh restart --state /root/it`" in said
    assert "restarted" in qmesh(machine, "restart", "--state", "/root/it").stdout


def test_units_of_before_are_written_again_and_edited_ones_and_drop_ins_stay(with_services):
    machine = with_services
    before = processes(machine)
    # As an earlier version made it: with a mark that fits.
    text = machine.read(f"{UNITS}/qmesh.service").partition("\n")[2]
    machine.write(f"{UNITS}/qmesh.service", add_mark(text.replace("Restart=always", "Restart=on-failure")))
    machine.write(f"{UNITS}/qmesh.service.d/mine.conf", "[Service]\nNice=1\n")
    mine = machine.read(f"{UNITS}/qmesh-guard.service") + "# mine\n"
    machine.write(f"{UNITS}/qmesh-guard.service", mine)
    done = qmesh(machine, "restart", code=1)
    assert "kept qmesh-guard.service, which was edited" in done.stderr
    assert done.stdout.startswith("wrote qmesh.service\n")
    assert "Restart=always" in machine.read(f"{UNITS}/qmesh.service")
    assert machine.read(f"{UNITS}/qmesh-guard.service") == mine
    assert machine.path(f"{UNITS}/qmesh.service.d/mine.conf").exists()
    after = processes(machine)
    assert {name for name in after if after[name] != before[name]} == {AGENT, HOLDER}
    assert "wrote" not in qmesh(machine, "restart", code=1).stdout


@pytest.mark.long  # tests/agent/test_restart.py
def test_an_agent_that_was_stopped_for_good_stays_stopped(with_services):
    machine = with_services
    machine.run(["systemctl", "disable", "--now", "qmesh.service"])
    assert "no agent runs" in qmesh(machine, "restart").stderr
    assert not machine.processes(AGENT)
    machine.run(["systemctl", "enable", "qmesh.service"])
    qmesh(machine, "restart")
    assert machine.processes(AGENT)
