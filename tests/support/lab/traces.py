"""What a command of a lab machine asked the kernel for, and how long it waited: by strace(1)."""

from __future__ import annotations

import re
import time
from typing import Final, NamedTuple

from tests.support.lab.machines import Machine
from tests.support.waiting import wait_until

_FILE: Final = "/run/trace"
_CALLS: Final = (
    "%process,clock_nanosleep,nanosleep,poll,ppoll,select,pselect6,epoll_wait,epoll_pwait,epoll_pwait2,futex,"
    "fsync,fdatasync,sendto,flock"
)
_LINE: Final = re.compile(r"(\d+) +(\d+\.\d+) (.*)")
_HALF, _REST = " <unfinished ...>", re.compile(r"<\.\.\. \w+ resumed>")
_BEGINNING: Final = re.compile(r"(?:clone3?|v?fork)\(.* = (\d+)$")
_LOOK: Final = re.compile(
    r"(clock_)?nanosleep\("
    r"|(p?poll|p?select6?|epoll_p?wait2?)\((?!.*tv_sec=0, tv_nsec=0\}).* = 0( \(Timeout\))?$"
    r"|wait(4|id)\(.*WNOHANG.* = 0$"
    r"|futex\(.* ETIMEDOUT"
    r"|flock\(.*LOCK_NB.* EAGAIN"
)
# A time-out of nothing waits for nobody: so libnftables asks, once, whether the kernel has refused a batch.
_UNTIL: Final = re.compile(r"futex\(0x\w+, FUTEX_WAIT_BITSET_PRIVATE, .*\{tv_sec=(\d+), tv_nsec=(\d+)\}")
_SWITCH_S: Final = 0.005
"""How long a thread of Python lets another one work before it wants its turn: no look of qmesh's own."""


class Call(NamedTuple):
    """A call that has returned. at: when it was made, in seconds of CLOCK_MONOTONIC, as its time-outs are;
    program: the words of the one that made it.
    """

    at: float
    program: str
    text: str

    @property
    def is_look(self) -> bool:
        """Whether a process slept, waited until it was time, or asked whether something is over yet."""
        if _LOOK.match(self.text) is None:
            return False
        until = _UNTIL.match(self.text)
        return until is None or int(until[1]) + int(until[2]) / 1e9 - self.at > _SWITCH_S


def trace(machine: Machine, *words: str) -> list[Call]:
    """What a command, which has to end well, and all that it started have called until it ended."""
    strace = ("strace", "-f", "--seccomp-bpf", "-qq", "-ttt", "-s", "200", "-e", f"trace={_CALLS}")
    tracing = machine.start([*strace, "-o", _FILE, *words])
    ended = re.compile(r" exit_group\((\d+)")

    def code() -> str:
        # What it started may run on, and strace with it.
        lines = machine.read(_FILE).splitlines() if machine.path(_FILE).exists() else []
        own = lines[0].partition(" ")[0] if lines else "none"
        return next(
            (found[1] for each in lines if each.startswith(f"{own} ") and (found := ended.search(each))), ""
        )

    wait_until(lambda: code() != "", 60)
    assert code() == "0", tracing.error_output()
    return parse_trace(machine.read(_FILE), time.time() - time.monotonic())


def parse_trace(text: str, booted: float = 0) -> list[Call]:
    """What strace wrote, in the order in which the calls returned.

    booted: when CLOCK_MONOTONIC began, in seconds of the clock by which strace wrote.
    """
    lines = [
        (int(found[1]), float(found[2]) - booted, found[3])
        for found in map(_LINE.match, text.splitlines())
        if found
    ]
    halves: dict[int, tuple[float, str]] = {}
    whole = []
    for thread, at, said in lines:
        if said.endswith(_HALF):
            halves[thread] = at, said.removesuffix(_HALF)
        elif _REST.match(said):
            began, half = halves.pop(thread, (at, ""))
            whole.append((thread, began, half + _REST.sub("", said, count=1)))
        else:
            whole.append((thread, at, said))
    parents = {int(found[1]): thread for thread, _, said in whole if (found := _BEGINNING.match(said))}
    programs: dict[int, str] = {}
    calls = []
    for thread, at, said in whole:
        if said.startswith("execve(") and said.endswith(" = 0"):
            programs[thread] = " ".join(re.findall(r'"([^"]*)"', said.partition("[")[2].partition("]")[0]))
        maker: int | None = thread
        while maker is not None and maker not in programs:
            maker = parents.get(maker)
        calls.append(Call(at, "" if maker is None else programs[maker], said))
    return calls
