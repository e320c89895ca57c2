"""Situations that machines get into: how one is made on a lab mesh, how it is named or fixed, what ends it.

The list of them is `situations.py`; `scripts/situations` tries them all, tests take some.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal, TypeAlias

from tests.support.lab.cluster import (
    SERVICE,
    STATE,
    dial,
    make_cluster,
    newcomer,
    start_workers,
    stop_agent,
)
from tests.support.lab.machines import Lab, Machine
from tests.support.waiting import comes_true, idle, wait_until

Where: TypeAlias = Literal["member", "control", "copy"]
"""copy: a third machine, in no mesh until a situation makes it the copy of another one."""
Finding: TypeAlias = dict[str, str]
Machines: TypeAlias = Mapping[Where, Machine]
Action: TypeAlias = str | Callable[[Machines], None]
"""A shell script, for the machine that a situation is about; or a function of all machines."""

SILENT_S: Final = 180
"""Seconds without a packet after which the product calls a link silent."""
SETTLED_S: Final = 20.0
"""Seconds in which agents on a busy machine have said again what they say all the time."""
COMMANDS: Final = frozenset(
    {
        "chattr",
        "chmod",
        "ip",
        "iptables",
        "kill",
        "mount",
        "nft",
        "python3",
        "qmesh",
        "sed",
        "sysctl",
        "systemctl",
        "wg",
        "tc",
        "umount",
    }
)
"""Programs with which a command of a printed cure begins."""
AGENT: Final = textwrap.dedent(f"""
    import sys, time
    from pathlib import Path
    from qmesh.agent.daemon import main, observe
    from qmesh.agent.daemon.membership import poll
    from qmesh.mesh.links import activity
    silent_s = float(sys.argv[-1])
    real, ahead_s = time.time, float(sys.argv[1]) if sys.argv[2:] else 0
    time.time = lambda: real() + ahead_s
    activity.SILENT_S, activity.QUIET_S = silent_s, min(silent_s * 0.8, 45.0)
    observe.AUDIT_S, main.LOOK_S = 0.5, 1.0
    poll.WAIT_S = min(poll.WAIT_S, int(silent_s / 5))
    main.run_agent(Path("{STATE}"))
""")
"""An agent for which a link is silent after so many seconds as it is told: all else is the product's.

Where it is told another number before, the clock that it sees is so many seconds ahead.
"""
SITUATION_AGENT: Final = "silent_s = float|qmesh agent"
"""How it is known, for `processes` and `kill`; or the product's own."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Situation:
    """What happens to a machine `on` which it happens.

    part: of the issue's ten. harm: what the mesh can't do then. code: of the finding that has to name it;
    empty where the agent has to fix it. says: what of the finding is its reason, where another one may be
    seen until that is known. asked: whose `check` names it. undo: for after the fix.
    by_hand: what a person does who reads the cure, where it is no command that can be typed as it is; then
    nothing is typed. takes_silence: whether it is only known once a link is silent. within_s: seconds in
    which it has to be noticed otherwise. is_harmless: whether nothing is wrong, so that nothing may be said.
    is_last: whether the machines are others afterwards, so that the next situation needs new ones.
    """

    part: int
    name: str
    harm: str
    spoil: Action
    code: str = ""
    says: str = ""
    on: Where = "member"
    asked: Where | None = None
    undo: Action = "true"
    by_hand: Action = ""
    takes_silence: bool = False
    within_s: int = 30
    is_harmless: bool = False
    is_last: bool = False


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a situation. exit_code: of `check`; how: by whom it was noticed; ends: of the cure."""

    situation: Situation
    how: Literal["named", "fixed", "silent", "harmless", "false alarm", "broken", "unending"]
    exit_code: int
    noticed_s: float
    ends: Literal["yes", "by hand", "no", ""]
    ended_s: float
    findings: tuple[Finding, ...]

    @property
    def is_right(self) -> bool:
        """Whether it was noticed, and ended by what was printed; of what is harmless, whether nothing was."""
        return self.how not in {"silent", "false alarm", "broken", "unending"} and self.ends != "no"


class SituationCluster:
    """A control node with 3 workers and a member with 4, all of which run, and agents."""

    def __init__(self, lab: Lab, *, silent_s: int = SILENT_S) -> None:
        self.silent_s = silent_s
        self.is_sound = True
        """Whether the next situation can be tried on these machines."""
        control, member = make_cluster(lab)
        self.machines: dict[Where, Machine] = {
            "control": control,
            "member": member,
            "copy": newcomer(lab, 203),
        }
        if silent_s != SILENT_S:
            for machine in (control, member):
                stop_agent(machine)
                machine.start(["python", "-c", AGENT, str(silent_s)])
        start_workers(control, "1..3")
        start_workers(member, "4..7")
        wait_until(self.is_whole, 60, every_s=0.5)
        self.whole = {where: _describe_state(machine) for where, machine in self.machines.items()}

    def is_whole(self) -> bool:
        """Whether everything works and `check` finds nothing on either machine."""
        return self.works() and not self._find_all()

    def _find_all(self) -> list[Finding]:
        return [each for where in ("control", "member") for each in look(self.machines[where])[1]]

    def works(self) -> bool:
        """Whether the control process reaches every worker, and the member the membership service."""
        return None not in dial(self.machines["control"]) and _is_served(self.machines["member"])

    def try_situation(self, situation: Situation) -> Outcome:
        """Make it, see how it is noticed, do as is printed, and see whether it is over."""
        machine = self.machines[situation.on]
        asked = self.machines[situation.asked or situation.on]
        self.whole[situation.on] = _describe_state(machine)
        began = time.monotonic()
        self._do(situation.spoil, machine)
        if situation.is_harmless:
            return self._see_harmless(situation)
        noticed_s, exit_code, findings = self._notice(situation, machine, asked, began)
        if noticed_s is None:
            self._restore(situation)
            return Outcome(situation, "silent", exit_code, 0.0, "", 0.0, tuple(findings))
        if not situation.code:
            is_back = self._restore(situation)
            return Outcome(situation, "fixed", exit_code, noticed_s, "" if is_back else "no", 0.0, ())
        began = time.monotonic()
        named = [each for each in findings if each["code"] == situation.code]
        if situation.by_hand:
            self._do(situation.by_hand, machine, check=False)
        else:
            self._type_cures(asked, named)
        is_over = comes_true(lambda: self._is_over(situation, asked), 30 + self.silent_s / 4, every_s=0.5)
        ended_s = time.monotonic() - began
        ends: Literal["yes", "by hand", "no"] = "no"
        if is_over:
            ends = "by hand" if situation.by_hand else "yes"
        self._restore(situation)
        return Outcome(situation, "named", exit_code, noticed_s, ends, ended_s, tuple(findings))

    def _do(self, action: Action, machine: Machine, *, check: bool = True) -> None:
        if isinstance(action, str):
            machine.run(["sh", "-c", action], check=check, timeout=60)
        else:
            action(self.machines)

    def _see_harmless(self, situation: Situation) -> Outcome:
        """See that nothing lasting is said of it, even once agents have looked and links would be silent."""
        idle(self.silent_s + 5)
        findings: list[Finding] = []

        def is_quiet() -> bool:
            findings[:] = self._find_all()
            return not findings

        comes_true(is_quiet, SETTLED_S, every_s=0.5)
        is_whole = self._restore(situation)
        how: Literal["harmless", "false alarm"] = "false alarm" if findings else "harmless"
        return Outcome(
            situation, how, int(bool(findings)), 0.0, "" if is_whole else "no", 0.0, tuple(findings)
        )

    def _notice(
        self, situation: Situation, machine: Machine, asked: Machine, began: float
    ) -> tuple[float | None, int, list[Finding]]:
        within_s = situation.within_s + (self.silent_s + 30 if situation.takes_silence else 0)
        seen: list[Any] = [0, []]

        def is_noticed() -> bool:
            if not situation.code:
                return _describe_state(machine) == self.whole[situation.on] and self.works()
            seen[:] = look(asked)
            return any(each["code"] == situation.code and situation.says in each["seen"] for each in seen[1])

        is_in_time = comes_true(is_noticed, within_s, every_s=0.1)
        if not is_in_time and not situation.code:
            seen[:] = look(asked)
        return time.monotonic() - began if is_in_time else None, seen[0], seen[1]

    def _type_cures(self, asked: Machine, findings: Iterable[Finding]) -> None:
        """Type what can be typed of the cures: on the machine that was asked, or that a cure names first."""
        machines = {machine.name: machine for machine in self.machines.values()}
        machines["control"] = self.machines["control"]
        for cure in dict.fromkeys(each["cure"] for each in findings):
            found = re.match(r"on (\S+): ", cure)
            machine = machines[found[1]] if found else asked
            for command in list_commands(cure):
                machine.run(["sh", "-c", command], check=False, timeout=90)

    def _is_over(self, situation: Situation, asked: Machine) -> bool:
        return situation.code not in {each["code"] for each in look(asked)[1]} and self.works()

    def _restore(self, situation: Situation) -> bool:
        """Undo the rest, and wait until all is as before."""
        if situation.is_last:
            self.is_sound = False
            return True
        self._do(situation.undo, self.machines[situation.on], check=False)
        is_whole = comes_true(self.is_whole, 60, every_s=0.5)
        self.is_sound = is_whole and situation.code != "agent-missing"  # another agent has another patience
        return is_whole


def look(machine: Machine) -> tuple[int, list[Finding]]:
    """`check`'s exit code and findings, but for what is no more than told, and for what is over.

    An agent of which a busy machine made a part hang says so for an hour.
    """
    done = machine.run(["qmesh", "check", "--json"], check=False, timeout=90)
    assert done.returncode in {0, 1}, done.stderr
    found = json.loads(done.stdout)["findings"]
    meant = [each for each in found if each["severity"] != "info" and each["code"] != "agent-restarted"]
    return done.returncode, meant


def list_commands(cure: str) -> tuple[str, ...]:
    """What can be typed of a cure: all of it, or what stands in backticks and has no name to be filled in."""
    if is_command(cure):
        return (cure,)
    quoted = (each for each in re.findall(r"`([^`]+)`", cure) if is_command(each))
    return tuple(each for each in quoted if not re.search(r"\b[A-Z]{4,}\b", each.replace("CONT", "")))


def is_command(text: str) -> bool:
    """Whether a text begins with a program that cures name."""
    try:
        return shlex.split(text)[0] in COMMANDS
    except (ValueError, IndexError):
        return False


def _is_served(machine: Machine) -> bool:
    call = f"import socket; socket.create_connection(('10.77.0.1', {SERVICE}), 2)"
    return machine.run(["python", "-c", call], check=False).returncode == 0


def _describe_state(machine: Machine) -> str:
    """What the agent keeps: tunnel, addresses, routes, guard, reserved ports."""
    script = (
        "wg showconf qmesh0; (ip -o link show qmesh0; ip -o address show qmesh0) | sed 's/^[0-9]*//';"
        " ip route show table all dev qmesh0 | grep -v cast | sort;"
        " nft -s list table inet qmesh | sed '/set askers/,/^\\t}$/d';"
        " nft list tables inet | grep qmesh | sort;"
        f" cat {STATE}/guard.nft /proc/sys/net/ipv4/ip_local_reserved_ports"
    )
    return machine.run(["sh", "-c", script], check=False).stdout
