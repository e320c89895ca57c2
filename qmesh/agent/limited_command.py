"""A command of qmesh's as a child of the agent, with limits: whatever it meets is no concern of the agent."""

from __future__ import annotations

import os
import signal
import sys
from typing import Final, NamedTuple

from qmesh.host.state.directory import State
from qmesh.host.system.limited_child import ChildLimits, run_limited_child
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
    ended = run_limited_child(
        build_command_line(sys.executable, *words, options=strict),
        b"",
        ChildLimits(COMMAND_S, PROCESSOR_S, MOST_MEMORY, most_octets, _NICE),
        environment=os.environ,
    )
    return CommandOutput(
        find_answer_line(ended.output), -signal.SIGKILL if ended.code is None else ended.code
    )


def find_answer_line(said: bytes) -> bytes:
    """The line with the answer: what is logged meanwhile stands in lines of its own."""
    return next((line for line in reversed(said.splitlines()) if line.startswith(b"{")), said)
