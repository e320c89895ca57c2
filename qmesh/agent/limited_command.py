"""A command of qmesh's as a child of the agent, with limits: whatever it meets is no concern of the agent."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
from typing import Final, NamedTuple

from qmesh.host.state.directory import State
from qmesh.host.system import processes, programs
from qmesh.mesh.own_command import build_command_line

COMMAND_S: Final = 30.0
"""Seconds that it has, by the clock; of the processor's time it has fewer."""
PROCESSOR_S: Final = 20
MOST_MEMORY: Final = 2 << 30
"""Octets of address space."""
_NICE: Final = 10


class CommandOutput(NamedTuple):
    """The JSON that it said, on either stream, and with which code it ended.

    said: cut to what was asked for; all of it where nothing is JSON.
    """

    said: bytes
    code: int


def run_limited_command(state: State, *words: str, most_octets: int) -> CommandOutput:
    """Run it to its end, to which it always comes. most_octets: of what it says."""
    words = (*words, "--state", str(state.directory.absolute()))
    strict = [f"-W{each}" for each in sys.warnoptions]
    with subprocess.Popen(
        build_command_line(sys.executable, *words, options=strict),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=programs.DIRECTORY,
        start_new_session=True,
    ) as child:
        _limit_process(child.pid)
        timer = threading.Timer(COMMAND_S, _kill_group, (child.pid,))
        timer.start()
        try:
            assert child.stdout is not None
            said = child.stdout.read(most_octets)
        finally:
            timer.cancel()
            timer.join()
            # And what it has started. Until it is waited for, its number is nobody else's.
            processes.wait_for_exit(child.pid, 1.0)
            _kill_group(child.pid)
    return CommandOutput(find_answer_line(said), child.returncode)


def find_answer_line(said: bytes) -> bytes:
    """The line with the answer: what is logged meanwhile stands in lines of its own."""
    return next((line for line in reversed(said.splitlines()) if line.startswith(b"{")), said)


def _kill_group(number: int) -> None:
    with contextlib.suppress(OSError):
        os.killpg(number, signal.SIGKILL)


def _limit_process(number: int) -> None:
    with contextlib.suppress(OSError):  # it has ended already
        os.setpriority(os.PRIO_PROCESS, number, _NICE)
        resource.prlimit(number, resource.RLIMIT_CPU, (PROCESSOR_S, PROCESSOR_S))
        resource.prlimit(number, resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
