"""The interpreter has nothing to say against what qmesh does: no warning, no object left open."""

from __future__ import annotations

import json
import re
import signal

import pytest

from tests.support.lab.cluster import AGENT, CONFIG, HOLDER, NODE_CONFIG, STATE, all_hold
from tests.support.lab.machines import Machine

pytestmark = pytest.mark.lab

# Development mode reports what is left open, at the end at the latest; agent and holder are given both.
STRICT = {"PYTHONWARNINGS": "error", "PYTHONDEVMODE": "1"}
SERVICES = f"{AGENT}|{HOLDER}"
COMPLAINT = re.compile(r"Warning|Traceback|Exception ignored|never awaited")


def strictly(machine: Machine, *words: str, code: int = 0, input: str | None = None) -> str:  # noqa: A002
    done = machine.run(["qmesh", *words], check=False, env=STRICT, input=input, timeout=60)
    assert (done.returncode, COMPLAINT.findall(done.stderr)) == (code, []), done.stderr
    return done.stdout


def end_all_of(machine: Machine) -> str:
    """End agent and holder, in that order: the other way the agent starts a holder anew. What they said."""
    for service in (AGENT, HOLDER):
        assert machine.kill(service, signal.SIGTERM)
    return machine.read(f"{STATE}/agent.log")


# A command that only looks is one more of the same.
@pytest.mark.parametrize("every_command", [False, pytest.param(True, marks=pytest.mark.long)])
def test_no_command_and_no_service_gives_a_warning(lab, every_command):
    control, member = (
        lab.machine(f"machine-{name}", f"192.168.0.{number}", f"fd00:1a::{number}")
        for name, number in (("a", 200), ("b", 201))
    )
    for machine in (control, member):
        machine.write(f"{CONFIG}/config.yml", NODE_CONFIG, 0o600)
    node = ("--node", "1.4", "--config", CONFIG)
    strictly(control, "init", "--workers", "3", "--endpoint", "192.168.0.200", *node)
    member.write("/root/invitation", strictly(control, "invite", "machine-b", "--workers", "2"), 0o600)
    strictly(member, "join", "invitation", "--config", CONFIG)
    for machine in (control, member):
        running = machine.processes(SERVICES).values()
        assert [{"-Xdev", "-Werror"} <= set(words.split()) for words in running] == [True, True]
    revision = json.loads(strictly(control, "set", "machine-b", "--workers", "3", "--json"))["revision"]
    all_hold([member], revision, within_s=60)
    strictly(control, "check", code=1)
    if every_command:
        for words in (("status",), ("plan",), ("log",), ("export", "hosts"), ("render-config", "--write")):
            strictly(control, *words)
        strictly(member, "rotate-key")
        strictly(control, "backup", "/root/backup")
    strictly(control, "remove", "machine-b")
    for machine in (control, member):
        said = end_all_of(machine)
        assert "as desired" in said
        assert COMPLAINT.findall(said) == [], said
