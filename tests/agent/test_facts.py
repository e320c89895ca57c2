"""What is gathered before it is decided, and in which order: on a model of a machine, and no DNS."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from qmesh.agent.converge import converge, plan_steps_without_dns
from qmesh.agent.local import Local
from qmesh.errors import KernelRefused
from qmesh.host.linux import Outline
from qmesh.host.network import dns, path_mtu
from qmesh.host.state.documents import Settings
from qmesh.mesh.machine import Machine
from qmesh.mesh.plan.simulate import simulate_step
from qmesh.mesh.plan.steps import SetPeer, Step
from qmesh.mesh.state import Guard, NodeState
from qmesh.mesh.values import Endpoint, Secret
from tests.support.factories import key, mesh

NAME = Endpoint("control.example.org", 51820)
ADDRESS = Endpoint("192.0.2.1", 51820)
CONTROL = Machine(name="a", public_key=key(1), address="10.77.0.1", workers=1)
OWN = Machine(name="b", public_key=key(2), address="10.77.0.2", workers=2)
HERE = Local(
    settings=Settings(
        mesh="0123456789abcdef",
        name="b",
        control=False,
        interface="qmesh0",
        listen_port=51820,
        verification_key=bytes(32),
        control_endpoints=(NAME,),
    ),
    inventory=mesh(CONTROL, OWN, service_port=51821, revision=1),
    preshared={key(1): Secret(key(9))},
)


class Model:
    """A machine as the plan's own model has it. said: what was asked and done, in order."""

    directory = Path("/nowhere")
    backend = SimpleNamespace(kind="wireguard")
    refusal = None

    def __init__(self, *, listened: frozenset[int] = frozenset(), refuses: str = "") -> None:
        self.state = NodeState(guard=None, tunnel=None)
        self.said: list[str] = []
        self.listened = listened
        self.refuses = refuses

    def observe(self) -> NodeState:
        return self.state

    def observe_outline(self) -> Outline:
        return Outline(msgspec.structs.replace(self.state, tunnel=None), None)

    def observe_with_counters(self, _outline: Outline | None = None) -> tuple[NodeState, dict[str, Any]]:
        return self.state, {}

    def list_listened_ports(self, _beyond: object) -> frozenset[int]:
        self.said.append("listeners")
        return self.listened

    def list_node_ports(self) -> frozenset[int]:
        return frozenset()

    def apply(self, *steps: Step) -> None:
        for step in steps:
            self.said.append(step.kind)
            if step.kind != self.refuses:
                self.state = simulate_step(self.state, step)


@pytest.fixture
def machine(monkeypatch) -> Model:
    model = Model(listened=frozenset({39999}))

    def resolve(endpoint: Endpoint, *, wait_s: float) -> tuple[Endpoint, ...]:
        assert wait_s <= 2.0
        model.said.append(f"name {endpoint.host}")
        return (ADDRESS,)

    def find_path_mtus(endpoints: Any, **_: Any) -> dict[Endpoint, int]:
        model.said.append("paths")
        return dict.fromkeys(endpoints, 1500)

    monkeypatch.setattr(dns, "resolve_cached", resolve)
    monkeypatch.setattr(path_mtu, "find_path_mtus", find_path_mtus)
    return model


def test_the_guard_waits_for_nothing_and_all_else_is_asked_for_once(machine):
    converge(HERE, machine)
    assert machine.said[:5] == [
        "listeners",
        "load-guard",
        "reserve-ports",
        "name control.example.org",
        "paths",
    ]
    assert {"listeners", "name control.example.org", "paths"}.isdisjoint(machine.said[5:])
    assert isinstance(machine.state.guard, Guard)
    assert machine.state.guard.ports == (39999, 40001, 40002)
    assert machine.state.tunnel.peers[0].endpoint == ADDRESS


def test_a_machine_that_is_as_desired_takes_no_steps_and_looks_up_no_name(machine):
    converge(HERE, machine)
    machine.said.clear()
    assert converge(HERE, machine) == ()
    assert machine.said == ["listeners", "paths"]


def test_a_name_that_is_answered_late_and_a_listener_that_ends_meanwhile_fail_no_converge(
    machine, monkeypatch
):
    answers = iter([(), (ADDRESS,), (ADDRESS,)])
    monkeypatch.setattr(dns, "resolve_cached", lambda _, wait_s: next(answers))
    ports = iter([frozenset({39999}), frozenset(), frozenset()])
    monkeypatch.setattr(machine, "list_listened_ports", lambda _: next(ports))
    converge(HERE, machine)
    assert machine.state.tunnel.peers[0].endpoint is None
    assert [step.kind for step in converge(HERE, machine)] == ["load-guard", "set-peer"]
    assert machine.state.tunnel.peers[0].endpoint == ADDRESS


def test_a_step_that_changes_nothing_is_said(machine):
    machine.refuses = "set-key"
    with pytest.raises(KernelRefused, match="but the machine is still not as desired: set-key qmesh0"):
        converge(HERE, machine)


def test_a_plan_without_dns_looks_up_no_name_and_leaves_endpoints_alone(machine):
    steps = plan_steps_without_dns(HERE, machine)
    assert "name control.example.org" not in machine.said
    assert [step.new.endpoint for step in steps if isinstance(step, SetPeer)] == [None]
