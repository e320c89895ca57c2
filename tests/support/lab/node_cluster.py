"""A cluster of node 2.1-rust on two lab machines, by the product's own commands, and how its processes are.

control, member = make_node_cluster(lab)   # core 1 on one, cores 2 and 3 on the other; nothing runs yet
start_cluster(control, member)             # control process and workers, each alive
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from tests.support import waiting
from tests.support.lab.cluster import facts, invite, newcomer, qmesh
from tests.support.lab.machines import Lab, Machine, Running
from tests.support.lab.rust_node import (
    CONFIG,
    PROGRAM,
    carry_identity,
    install_node,
    start_core,
    start_node,
)

SOON_S: Final = 10
"""Seconds in which what is wrong has to be said."""


def make_node_cluster(lab: Lab) -> tuple[Machine, Machine]:
    """A control node with core 1 and a member with cores 2 and 3, whose files are ready."""
    control = lab.machine("machine-a", "192.168.0.200", "fd00:1a::200")
    member = newcomer(lab)
    for machine in (control, member):
        install_node(machine, build="august")
    start_core(control, 0).stop()
    control.run(["chmod", "600", f"{CONFIG}/config.yml", f"{CONFIG}/keys.yml"])
    qmesh(control, "init", "--workers", "1", "--config", CONFIG, "--endpoint", "192.168.0.200")
    invite(control, member, "--workers", "2")
    carry_identity(control, member)
    qmesh(member, "join", "invitation", "--config", CONFIG)
    for machine in (control, member):
        qmesh(machine, "render-config", "--write", "--config", CONFIG)
    return control, member


def start_cluster(control: Machine, member: Machine) -> None:
    """Start all processes, once both files have all three cores, and wait until all are alive."""
    for machine in (control, member):
        wait_until(lambda: machine.read(f"{CONFIG}/config.yml").count("/tcp/32502") == 1, SOON_S)  # noqa: B023
    start_node(control, 0, 1)
    start_node(member, 2, 3)
    wait_until(lambda: alive(control) == [1, 2], 30)


def wait_until(condition: Callable[[], object], seconds: float) -> None:
    """Not as often as others do: each look is a command."""
    waiting.wait_until(condition, seconds, every_s=0.5)


def alive(machine: Machine) -> list[int | None]:
    """By machine, how many workers `status` says to be alive."""
    workers = [each["workers"] for each in facts(machine, "status")["machines"]]
    return [each and each["alive"] for each in workers]


def found(machine: Machine) -> dict[str, dict[str, Any]]:
    """By code, what `check` finds of the node's processes."""
    report = json.loads(machine.run(["qmesh", "check", "--json"], check=False).stdout)
    about = ("worker-", "control-")
    return {each["code"]: each for each in report["findings"] if each["code"].startswith(about)}


def comes(machine: Machine, *codes: str) -> None:
    """Wait until `check` finds just these of the node's processes."""
    wait_until(lambda: set(found(machine)) == set(codes), SOON_S)


def number_of(machine: Machine, core: int) -> int:
    """The process of a core that runs on a machine; 0 is the control process."""
    (process,) = (
        number
        for number, line in machine.processes(PROGRAM).items()
        if f"{line} ".endswith(f" --core {core} " if core else f" --config {CONFIG} ")
    )
    return process


def restart(machine: Machine, core: int) -> Running:
    """End a core's process, and start it again."""
    machine.run(["kill", str(number_of(machine, core))])
    wait_until(lambda: str(core) not in _cores_of(machine), 10)
    return start_core(machine, core)


def _cores_of(machine: Machine) -> set[str]:
    lines = machine.processes(PROGRAM).values()
    return {line.rpartition("--core ")[2] if "--core " in line else "0" for line in lines}
