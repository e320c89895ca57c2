"""Root works in a directory whose owner waits for that: nothing that lies there is run, by no command."""

from __future__ import annotations

import json
import os

import pytest

from qmesh.mesh.own_command import build_command_line
from tests.support import trap
from tests.support.lab.cluster import AGENT, CONFIG, HOLDER, NODE_CONFIG, UNDOING, has_agent, stop_agent
from tests.support.lab.machines import Machine, Running
from tests.support.waiting import wait_until

pytestmark = pytest.mark.lab

THERE = "/tmp/user"
SYSTEM = "/usr/sbin:/usr/bin:/sbin:/bin"
TYPED = 'cd "$0" && exec "$@"'


def trapped(machine: Machine) -> None:
    machine.path(THERE).mkdir(parents=True)
    trap.set_up(machine.path(THERE))
    owner = 1000
    for path in (machine.path(THERE), *machine.path(THERE).rglob("*")):
        os.chown(path, owner, owner, follow_symlinks=False)


def typed(machine: Machine, *words: str, code: int = 0) -> str:
    """What a command says that root types there, with a home that is the user's."""
    done = machine.run(["/bin/sh", "-c", TYPED, THERE, *words], env=home(machine), check=False, timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def home(machine: Machine) -> dict[str, str]:
    """As `su` without `-` has it, with a PATH that begins here."""
    path = machine.run(["/bin/sh", "-c", "echo $PATH"]).stdout.strip()
    variables = trap.environment(THERE, f"{path}:{SYSTEM}")
    return {name: value for name, value in variables.items() if name != "PYTHONPATH"}


def began_again(machine: Machine) -> Running:
    stop_agent(machine)
    agent = machine.start(["/bin/sh", "-c", TYPED, THERE, qmesh(machine), "agent"], env=home(machine))
    wait_until(lambda: has_agent(machine), 30)
    return agent


def qmesh(machine: Machine) -> str:
    return machine.run(["/bin/sh", "-c", "command -v qmesh"]).stdout.strip()


def where(machine: Machine, pattern: str) -> set[str]:
    """The working directories of its processes that match, of which there is one at least."""
    found = machine.processes(pattern)
    assert found, pattern
    return {machine.run(["readlink", f"/proc/{number}/cwd"]).stdout.strip() for number in found}


def test_r1_nothing_of_a_users_directory_is_run_by_agent_holder_undo_or_ready(lab):
    machine = lab.machine("machine-a", "192.168.0.200", "fd00:1a::200")
    trapped(machine)
    machine.write(f"{CONFIG}/config.yml", NODE_CONFIG, 0o600)
    program, python = qmesh(machine), machine.run(["/bin/sh", "-c", "command -v python"]).stdout.strip()

    node = ("--node", "1.4", "--config", CONFIG)
    typed(machine, program, "init", "--workers", "3", "--endpoint", "192.168.0.200", *node)
    typed(machine, program, "render-config", "--write")
    agent = began_again(machine)
    typed(machine, program, "down")
    typed(machine, program, "apply", "--confirm", "300")
    for running in (AGENT, HOLDER, UNDOING):
        assert where(machine, running) == {"/"}
        isolated = " -I -S " if running == HOLDER else " -I -m qmesh "
        assert all(isolated in each for each in machine.processes(running).values())
    typed(machine, program, "confirm")
    ready = ("ready", "1", "--config", CONFIG, "--timeout", "30")
    assert "core 1 can start" in typed(machine, *build_command_line(python, *ready))
    assert json.loads(typed(machine, program, "check", "--json"))["findings"]  # of no worker that runs
    machine.kill(HOLDER)
    wait_until(lambda: bool(machine.processes(HOLDER)), 30)  # begun by the agent

    assert trap.caught(machine.path(THERE)) == []
    agent.stop(timeout=15)
    assert "Traceback" not in agent.error_output()


def test_the_trap_catches_a_python_that_is_not_isolated(lab):
    machine = lab.machine("machine-a", "192.168.0.200")
    trapped(machine)
    python = machine.run(["/bin/sh", "-c", "command -v python"]).stdout.strip()
    machine.run(["/bin/sh", "-c", TYPED, THERE, python, "-m", "qmesh", "--version"], check=False)

    assert trap.caught(machine.path(THERE)) != []
