"""A guarded worker machine, an attacker on its LAN, and its rules flushed and replaced meanwhile."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from typing import Any

import msgspec

from tests.support.lab.cluster import make_control, make_member, stop_agent
from tests.support.lab.machines import TOOLS, Lab, Machine, Running

WORKER, NOBODYS = 40003, 20010
"""The port that is attacked, and one that the guard does not close: what comes there shows the attack."""
ATTACKER = "192.168.0.240"


class Storm(msgspec.Struct, frozen=True):
    """What was counted.

    came: by protocol, port and address; tried: by the attacker; dialled: by the control node.
    """

    came: Mapping[str, int]
    tried: Mapping[str, int]
    dialled: Mapping[str, int]
    shaken: Mapping[str, int]

    def of_others(self, port: int) -> int:
        """What reached a port without the right to."""
        return sum(
            count for who, count in self.came.items() if f" {port} " in who and " 10.77.0.1" not in who
        )


def storm(lab: Lab, times: int, *, kill_agent: bool = True) -> Storm:
    """A guarded cluster of two, an attacker on their LAN, and the rules shaken so many times."""
    control = make_control(lab)
    member = make_member(lab, control, 201, 4)
    attacker = lab.machine("machine-x", ATTACKER)
    server = siege(member, "serve", WORKER, NOBODYS)
    attack = siege(attacker, "attack", member.ipv4, WORKER, NOBODYS)
    dial = siege(control, "dial", "10.77.0.2", WORKER)
    shaking = member.start(["python", TOOLS / "siege.py", "shake", str(times)])
    if kill_agent:
        stop_agent(member, signal.SIGKILL)
    assert shaking.wait(600) == 0, shaking.error_output()
    counted = [told(each) for each in (attack, dial, server)]
    return Storm(tried=counted[0], dialled=counted[1], came=counted[2], shaken=json.loads(shaking.output()))


def siege(machine: Machine, *words: object) -> Running:
    running = machine.start(["python", TOOLS / "siege.py", *map(str, words)])
    running.wait_for("ready")
    return running


def told(running: Running) -> Any:
    """What one counted, now that it is told to end."""
    running.send_signal(signal.SIGTERM)
    assert running.wait(30) == 0, running.error_output()
    return json.loads(running.output().removeprefix("ready\n"))
