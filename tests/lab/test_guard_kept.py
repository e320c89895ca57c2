"""G3 whatever the agent waits for: the guard is kept beside its loop, and beside the agent."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.support.lab.cluster import AGENT, HOLDER, STATE, is_back, make_control, make_member, stop_agent
from tests.support.lab.machines import Lab, Machine, Running
from tests.support.waiting import wait_until

pytestmark = pytest.mark.lab

LOCK = f"import fcntl, os; fcntl.flock(os.open('{STATE}', os.O_RDONLY), fcntl.LOCK_EX)"
REGISTRY = f"import sqlite3; it = sqlite3.connect('{STATE}/mesh.db'); it.execute('BEGIN IMMEDIATE')"


@pytest.fixture(scope="module")
def control() -> Iterator[Machine]:
    with Lab() as lab:
        yield make_control(lab)


def holding(machine: Machine, code: str) -> Running:
    """A program of somebody else's that keeps what it has taken."""
    running = machine.start(
        ["python", "-c", f"{code}; print('has it', flush=True); __import__('signal').pause()"]
    )
    running.wait_for("has it")
    return running


@pytest.mark.parametrize("code", [LOCK, REGISTRY], ids=["lock", "registry"])
@pytest.mark.parametrize("by", ["holder", "agent"])
def test_g3_a_flushed_guard_is_back_while_another_program_has(control, code, by):
    if by == "agent":
        assert control.kill(HOLDER)
    other = holding(control, code)
    assert is_back(control)
    other.kill()
    other.wait()
    wait_until(lambda: control.processes(HOLDER), 30)


def test_g3_a_flushed_guard_is_back_while_the_agent_hangs_or_is_gone(lab):
    control = make_control(lab)
    member = make_member(lab, control, 201, 4)
    control.freeze(AGENT)
    stop_agent(member, signal.SIGKILL)
    assert is_back(control)
    assert is_back(member)


def test_g3_who_holds_the_guard_is_begun_anew_while_another_program_has_the_lock(lab):
    control = make_control(lab)
    other = holding(control, LOCK)
    assert control.kill(HOLDER)
    wait_until(lambda: "qmesh-held" in control.run(["nft", "list", "tables"]).stdout, 30)
    other.kill()
