"""Who keeps the guard, kept from it: for tests of what else sees to the guard."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

from qmesh.host.firewall import held_table
from qmesh.host.state.directory import State
from qmesh.host.system import processes
from tests.support.waiting import wait_until


@contextlib.contextmanager
def unkept(state: State) -> Iterator[None]:
    """Nobody keeps the first table in this block; the second one is held. After it nobody does either."""
    for process in processes.list_opening_processes(state.hold_lock_file):
        os.kill(process, signal.SIGSTOP)
    yield
    let_fall(state)


def let_fall(state: State) -> None:
    """Kill who holds and keeps the guard."""
    processes.kill_lock_owner(state.hold_lock_file)
    wait_until(lambda: not held_table.is_held())
