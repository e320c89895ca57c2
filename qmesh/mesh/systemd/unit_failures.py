"""What systemd and the journal say of a worker's unit that does not answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from qmesh.mesh.printable import escape_line

MOST_CHARACTERS: Final = 200
"""Of a line of the node's log, which may be of any length."""
MOST_NAMED: Final = 3
"""Units that a finding describes: mostly all of a machine fail alike."""

_EXITED, _KILLED, _DUMPED = 1, 2, 3
"""How a process ended. Source: waitid(2), CLD_EXITED and what follows it."""

_SIGNALS: Final = {
    2: "SIGINT",
    4: "SIGILL",
    6: "SIGABRT",
    7: "SIGBUS",
    8: "SIGFPE",
    9: "SIGKILL",
    11: "SIGSEGV",
    15: "SIGTERM",
    31: "SIGSYS",
}
"""Those by which a node's process may end. Source: signal(7), Linux on x86 and ARM."""


class UnitFailure(msgspec.Struct, frozen=True, kw_only=True):
    """The unit of a worker of this machine that does not answer.

    state, result: of the unit, in systemd's words.
    code, status: how its main process ended, as waitid(2) has it; 0 where it did not.
    restarts: how often systemd has restarted it. last_line: of its log; empty where there is none.
    """

    core: int
    state: str
    result: str
    code: int
    status: int
    restarts: int
    last_line: str = ""


def describe_unit_failures(failures: Iterable[UnitFailure], cores: Sequence[int]) -> str:
    """What is known of the units of these cores, on one line; empty where nothing is."""
    concerned = [each for each in failures if each.core in cores]
    told = [f"core {each.core} {_describe_failure(each)}" for each in concerned[:MOST_NAMED]]
    return "; ".join(told)


def _describe_failure(failure: UnitFailure) -> str:
    times = f"{failure.restarts} restart{'s' * (failure.restarts != 1)}"
    line = f", last line: {_cut_line(failure.last_line)}" if failure.last_line else ""
    return f"{_describe_end(failure)}, {times}{line}"


def _describe_end(failure: UnitFailure) -> str:
    if failure.code == _EXITED:
        return f"ended with exit status {failure.status}"
    if failure.code in {_KILLED, _DUMPED}:
        return f"was ended by {_name_signal(failure.status)}"
    return f"is {failure.state} ({failure.result})"


def _name_signal(number: int) -> str:
    return _SIGNALS.get(number, f"signal {number}")


def _cut_line(line: str) -> str:
    """What a program wrote, which moves no cursor and begins no line of its own."""
    escaped = escape_line(line)
    return escaped if len(escaped) <= MOST_CHARACTERS else escaped[:MOST_CHARACTERS] + "..."
