"""The steps after a change, followed literally on a model of the machines: enough, and no core runs twice."""

from __future__ import annotations

import re
from itertools import product

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmesh.mesh.changes import pause_machine, remove_machine, resume_machine, set_worker_count
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.mesh_options import MeshOptions, set_mesh_options
from qmesh.mesh.nodeconfig import build_desired_settings
from qmesh.mesh.ports.port_ranges import parse_port_ranges
from qmesh.mesh.systemd.change_steps import (
    NodeStep,
    describe_step,
    list_change_steps,
    list_handover_steps,
)
from qmesh.mesh.systemd.instructions import NodeHost
from qmesh.mesh.values import CONTROL_FIRST, PROFILES, Profile
from tests.support.factories import cluster

UNITS = "/etc/systemd/system"
RENDERS = re.compile(r"(run `)?qmesh render-config --write( --config DIR)?`?")
SYSTEMD = re.compile(r"systemctl ((?:start|stop|restart)|(?:en|dis)able --now) qmesh-(\S+)")
PLAIN = {"enable --now": "start", "disable --now": "stop"}
WORDS = re.compile(r"(start|stop|restart) the (?:control process|workers? of cores? ([\d, -]+))")
BESIDES = re.compile(
    "systemctl daemon-reload|put the program of node [0-9.a-z-]+ in place"
    f"|qmesh units --write {UNITS}( --program PROGRAM)?"
)


def of(profile: Profile, *counts: int) -> Inventory:
    mesh = cluster(*counts)
    return mesh if profile == "2.0" else set_mesh_options(mesh, MeshOptions(node=profile))


def reads(mesh: Inventory, name: str, core: int) -> object:
    """What a process reads of its config: the control process, core 0, all; a worker its own entries."""
    settings = build_desired_settings(mesh, name)
    return [each.value[core - 1] if each.is_list and core else each.value for each in settings]


class Machines:
    """What runs where, with what it has read; what is typed there is done, and nothing else."""

    def __init__(self, before: Inventory, after: Inventory, *, with_systemd: bool) -> None:
        self.before, self.after, self.with_systemd = before, after, with_systemd
        self.files = dict.fromkeys(before.cores, before)
        self.running = {
            (name, core): reads(before, name, core)
            for name in before.cores
            for core in (*before.core_numbers(name), *([0] if name == before.control else []))
        }
        self.starts: list[int] = []
        self.enabled = dict.fromkeys(before.cores, True)

    def follow(self, *steps: NodeStep) -> None:
        for step in steps:
            is_other = step.machine != self.before.control
            host = NodeHost(has_units=self.with_systemd, directory=None, is_other=is_other)
            said = describe_step(step, host, units=UNITS)
            assert bool(said.without_systemd) == (self.with_systemd and is_other)
            do = re.sub(r" \([^()]*\)", "", said.do)
            for each in do.split(" && " if self.with_systemd else ", then "):
                self.do(said.machine, each)
            if said.without_systemd:  # which says the same in words
                apart = describe_step(step, NodeHost(has_units=False, is_other=True), units=UNITS)
                assert said.without_systemd == apart.do

    def do(self, name: str, what: str) -> None:
        if RENDERS.fullmatch(what):
            self.files[name] = self.after
        elif found := SYSTEMD.fullmatch(what):
            assert self.with_systemd
            verb = PLAIN.get(found[1], found[1])
            if found[2] == "control.service":
                self.control(name, verb)
                return
            self.enabled[name] = found[1] != "disable --now"
            self.workers(name, verb, self.wanted(name))
        elif found := WORDS.fullmatch(what):
            assert not self.with_systemd
            if found[2] is None:
                self.control(name, found[1])
                return
            cores = set(parse_port_ranges(found[2].replace(" ", "")))
            if found[1] != "start":
                assert cores <= {core for where, core in self.running if where == name}
            self.workers(name, found[1], cores)
        else:
            assert BESIDES.fullmatch(what), f"nobody could follow {what!r}"

    def wanted(self, name: str) -> set[int]:
        return set(self.files[name].core_numbers(name))

    def workers(self, name: str, verb: str, cores: set[int]) -> None:
        here = {core for where, core in self.running if where == name and core}
        gone = here if self.with_systemd else cores
        for core in gone if verb != "start" else ():
            del self.running[name, core]
        if verb == "stop":
            return
        if self.with_systemd and verb == "restart":
            assert here <= self.wanted(name), "systemd would restart workers whose core is another machine's"
        for core in cores:
            others = [where for where, other in self.running if other == core]
            assert not others, f"core {core} of {name} runs on {others} as well"
            self.running[name, core] = reads(self.files[name], name, core)
            self.starts.append(core)

    def control(self, name: str, verb: str) -> None:
        self.running.pop((name, 0), None)
        if verb != "stop":
            assert not any(core == 0 for _, core in self.running), "two control processes"
            self.running[name, 0] = reads(self.files[name], name, 0)
            self.starts.append(0)

    def have_followed(self) -> None:
        after = self.after
        wanted = {
            (name, core): reads(after, name, core)
            for name in after.cores
            for core in (*after.core_numbers(name), *([0] if name == after.control else []))
        }
        assert self.running == wanted
        for name in after.cores.keys() - {after.control}:
            assert self.enabled.get(name, True)
        if 0 in self.starts:
            first = after.node in CONTROL_FIRST
            assert self.starts.index(0) == (0 if first else len(self.starts) - 1)
        # Who has no cores any more starts none at boot either.
        for name in self.before.cores.keys() - after.cores.keys():
            assert self.files[name] is after or not (self.enabled[name] and self.with_systemd)


def follow(before: Inventory, after: Inventory, *, with_systemd: bool) -> Machines:
    machines = Machines(before, after, with_systemd=with_systemd)
    machines.follow(*list_change_steps(before, after))
    machines.have_followed()
    return machines


CHANGES = {
    "pause": lambda mesh: pause_machine(mesh, "b"),
    "pause the last": lambda mesh: pause_machine(mesh, "c"),
    "resume": lambda mesh: resume_machine(pause_machine(mesh, "b"), "b"),
    "remove": lambda mesh: remove_machine(mesh, "b"),
    "set more": lambda mesh: set_worker_count(mesh, "b", 6),
    "set fewer": lambda mesh: set_worker_count(mesh, "b", 1),
    "set more on the control node": lambda mesh: set_worker_count(mesh, "a", 5),
    "set ports": lambda mesh: set_mesh_options(mesh, MeshOptions(base_port=41000)),
    "set node": lambda mesh: set_mesh_options(
        mesh, MeshOptions(node="2.1-rust" if mesh.node == "2.0" else "2.0")
    ),
}


@pytest.mark.parametrize("with_systemd", [False, True])
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("change", CHANGES)
def test_the_printed_steps_are_enough_when_followed_literally(change, profile, with_systemd):
    before = of(profile, 3, 4, 10)
    after = CHANGES[change](before)
    if change == "resume":
        before = pause_machine(before, "b")
    follow(before, after, with_systemd=with_systemd)


@given(st.sampled_from(PROFILES), st.lists(st.integers(1, 5), min_size=2, max_size=6), st.data())
def test_law_steps_are_enough_for_every_change(profile, counts, data):
    mesh = of(profile, *counts)
    for _ in range(data.draw(st.integers(1, 4))):
        name = data.draw(st.sampled_from([machine.name for machine in mesh.machines]))
        before = mesh
        if name == mesh.control or data.draw(st.booleans()):
            mesh = set_worker_count(mesh, name, data.draw(st.integers(1, 6)))
        elif mesh.machine(name).state == "paused":
            mesh = resume_machine(mesh, name)
        else:
            mesh = data.draw(st.sampled_from([remove_machine, pause_machine]))(mesh, name)
        follow(before, mesh, with_systemd=data.draw(st.booleans()))


@pytest.mark.parametrize("with_systemd", [False, True])
@pytest.mark.parametrize("profile", PROFILES)
def test_after_a_handover_the_node_moves_and_its_workers_follow(profile, with_systemd):
    before = of(profile, 3, 4, 10)
    after = msgspec.structs.replace(before, control="b")
    machines = Machines(before, after, with_systemd=with_systemd)
    steps = list_handover_steps(before, after)
    machines.follow(*steps)
    machines.have_followed()
    assert steps[0].machine == "a"  # whose control process ends before anything else
    # From 2.1 on every worker calls the new control node.
    assert {step.machine for step in steps} == (set("abc") if profile in CONTROL_FIRST else set("ab"))


def texts(before: Inventory, after: Inventory, *, has_units: bool) -> list[tuple[str, str, str]]:
    told = []
    for step in list_change_steps(before, after):
        is_other = step.machine != after.control
        host = NodeHost(
            has_units=has_units, directory=None if is_other else "/root/.config", is_other=is_other
        )
        said = describe_step(step, host, units=UNITS)
        told.append((said.machine, said.do, said.without_systemd))
    return told


def test_who_is_paused_stops_before_its_cores_start_elsewhere_and_the_order_is_the_versions():
    off = " (if it is off: when it runs again)"
    stop = "systemctl stop qmesh-workers.target"
    restart = "systemctl restart qmesh-workers.target"
    render = "qmesh render-config --write"
    b = (
        *("b", f"{stop} && {render}{off}"),
        f"stop the workers of cores 4-7, then run `{render}`{off}",
    )
    c = (
        *("c", f"{stop} && {render} && {restart}"),
        f"stop the workers of cores 8-17, then run `{render}`, then start the workers of cores 4-13",
    )
    a = ("a", f"{render} && systemctl restart qmesh-control.service", "")
    rust, older = of("2.1-rust", 3, 4, 10), of("1.4", 3, 4, 10)
    assert texts(rust, pause_machine(rust, "b"), has_units=True) == [b, a, c]
    assert texts(older, pause_machine(older, "b"), has_units=True) == [b, c, a]
    assert texts(rust, pause_machine(rust, "b"), has_units=False) == [
        ("b", b[2], ""),
        ("a", f"run `{render}`, then restart the control process (--config /root/.config)", ""),
        ("c", c[2], ""),
    ]


def test_what_agents_never_do_says_why():
    mesh = of("2.0", 3, 4, 10)
    resting = pause_machine(mesh, "b")

    def by_hand(before: Inventory, after: Inventory) -> dict[str, str]:
        host = NodeHost(has_units=True)
        steps = [describe_step(step, host, units=UNITS) for step in list_change_steps(before, after)]
        return {step.machine: step.by_hand for step in steps}

    assert by_hand(mesh, resting) == {"b": "", "c": "", "a": ""}
    assert by_hand(mesh, remove_machine(mesh, "b")) == {"b": "no agent does this", "c": "", "a": ""}
    assert by_hand(resting, resume_machine(resting, "b")) == {
        "b": "no agent starts workers that were stopped by hand",
        "a": "",
    }
    newer = by_hand(mesh, set_mesh_options(mesh, MeshOptions(node="2.1-rust")))
    assert set(newer.values()) == {"no agent does this: it needs the program of node 2.1-rust"}
    moved = list_handover_steps(mesh, msgspec.structs.replace(mesh, control="b"))
    told = [describe_step(step, NodeHost(has_units=True), units=UNITS) for step in moved]
    assert [(each.machine, bool(each.by_hand)) for each in told] == [("a", True), ("b", True)]
    assert told[0].do.startswith("systemctl disable --now qmesh-control.service (then copy the node's")
    assert told[1].do.endswith(
        "systemctl restart qmesh-workers.target && systemctl enable --now qmesh-control.service"
        " (DIR: the directory that was copied)"
    )


@pytest.mark.parametrize(("has_units", "is_other"), [*product((False, True), repeat=2)])
def test_a_new_version_of_the_node_needs_its_program_and_its_units(has_units, is_other):
    mesh = of("2.0", 3, 4)
    steps = list_change_steps(mesh, set_mesh_options(mesh, MeshOptions(node="2.1")))
    host = NodeHost(has_units=has_units, is_other=is_other)
    for step in steps:
        said = describe_step(step, host, units=UNITS)
        command = f"qmesh units --write {UNITS} --program PROGRAM && systemctl daemon-reload"
        assert (command in said.do) == has_units
        plain = said.without_systemd if has_units else said.do
        assert ("put the program of node 2.1 in place" in plain) == (is_other or not has_units)
