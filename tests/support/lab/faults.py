"""Commands that are killed, or whose disk fails, at each point where they write or send: see faulty.py."""

from __future__ import annotations

import json
import signal
import socket
from typing import Any

import msgspec

from tests.support.lab.cluster import AGENT, HOLDER, STATE, TUNNEL
from tests.support.lab.machines import TOOLS, Machine
from tests.support.lab.programs.faulty import NAME_OF_AGENT
from tests.support.waiting import patience, wait_until

_SOCKET = "/run/faulty.sock"

_ANY_AGENT = rf"{AGENT}|^\[{NAME_OF_AGENT}\]"
_FORGET = f"""
rm -rf {STATE}/* {STATE}/.[!.]* /run/wireguard/*.sock
nft flush ruleset
echo >/proc/sys/net/ipv4/ip_local_reserved_ports
"""


class Ended(msgspec.Struct):
    """How a command ended. points: labels of those that it came to, in order.

    times: of each point and of the end, in seconds from the start on.
    """

    code: int | None
    out: str
    err: str
    points: list[str]
    times: list[float]
    pid: int

    @property
    def was_killed(self) -> bool:
        return self.code == -signal.SIGKILL

    def refused(self, *codes: int) -> bool:
        """Whether it ended with one of these codes and the two lines of an error, and was no bug."""
        lines = self.err.splitlines()
        two = [line.partition(": ")[0] for line in lines[-2:]] == ["error", "hint"]
        return self.code in codes and two and "Traceback" not in self.err and "qmesh itself" not in self.err


class Faulty:
    """A machine's commands, run by faulty.py."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        machine.start(["python", TOOLS / "faulty.py", _SOCKET]).wait_for("ready", timeout=30)

    def __call__(self, *words: str, **how: Any) -> Ended:
        """Run a command; `how` as faulty.py has it."""
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(patience(120))
            asking.connect(f"/proc/{self.machine.pid}/root{_SOCKET}")
            asking.sendall(json.dumps({"words": words, **how}).encode() + b"\n")
            asking.shutdown(socket.SHUT_WR)
            with asking.makefile() as answer:
                return msgspec.json.decode(answer.read(), type=Ended)

    def succeed(self, *words: str, **how: Any) -> Ended:
        """Run a command that must end well."""
        ended = self(*words, **how)
        assert ended.code == 0, f"{words}: {ended}"
        return ended

    def facts(self, *words: str) -> Any:
        """What a command answers to --json, also where it says no."""
        ended = self(*words, "--json")
        assert ended.code in {0, 1}, f"{words}: {ended}"
        return json.loads(ended.out)

    def start_agent(self, log: str, arm: str, *, kill: int = 0) -> int:
        """Have an agent run on; its process number on the machine. Otherwise as a command."""
        return self("agent", "--state", STATE, kill=kill, arm=arm, log=log).pid

    def end_agent(self) -> None:
        """Kill whatever agent there is, and wait until it is gone."""
        self.machine.kill(_ANY_AGENT)

    def reset(self) -> None:
        """Make the machine one that never heard of qmesh."""
        reset(self.machine)


def reset(machine: Machine) -> None:
    """Make a machine one that never heard of qmesh."""
    machine.kill(f"{_ANY_AGENT}|{HOLDER}")
    machine.run(["ip", "link", "delete", "qmesh0"], check=False)
    wait_until(lambda: not machine.processes(TUNNEL))
    machine.run(["sh", "-c", _FORGET])


_OF_FILES = frozenset({"create", "write", "fsync", "replace", "unlink", "mkdir", "rmdir", "chmod"})
_OFTEN = frozenset({"send", "sql"})


def sample(points: list[str], every: int | None) -> list[int]:
    """Numbers of points, from 1 on: every so many, 1 for all of them; and the first of each kind.

    Of what is done to files there is one kind each; anything else is one with its object. Where `every`
    is None, of messages and statements there is one kind each too, and nothing but the first of each.
    """
    alike = _OF_FILES if every else _OF_FILES | _OFTEN
    kinds = [label.partition(" ")[0] for label in points]
    kinds = [kind if kind in alike else label for kind, label in zip(kinds, points, strict=True)]
    first = {kinds.index(kind) + 1 for kind in kinds}
    return sorted(first | set(range(every, len(points) + 1, every)) if every else first)
