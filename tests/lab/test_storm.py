"""G3 while all rules are flushed and replaced without end, under attack."""

from __future__ import annotations

import signal

import pytest

from tests.support.lab.cluster import HOLDER, make_control, make_member, stop_agent
from tests.support.lab.storm import ATTACKER, NOBODYS, WORKER, siege, storm, told
from tests.support.waiting import idle

pytestmark = pytest.mark.lab


@pytest.mark.parametrize(
    ("times", "kill_agent"),
    [
        pytest.param(20, True, id="agent killed"),
        pytest.param(60, True, id="agent killed, for longer", marks=pytest.mark.long),
        pytest.param(60, False, id="agent alive", marks=pytest.mark.long),
    ],
)
def test_g3_nothing_gets_through_while_the_rules_are_flushed_and_replaced(lab, times, kill_agent):
    counted = storm(lab, times, kill_agent=kill_agent)

    assert counted.of_others(WORKER) == 0
    assert counted.tried[f"tcp {WORKER}"] > times
    assert counted.tried[f"udp {WORKER}"] > times
    # The same to a port of no worker arrives: it is an attack.
    assert counted.came[f"tcp {NOBODYS} {ATTACKER}"] > times
    assert counted.came[f"udp {NOBODYS} {ATTACKER}"] > times
    assert counted.dialled["answered"] > times
    assert counted.dialled.get("refused", 0) <= counted.dialled["answered"] / 1000
    assert counted.came[f"tcp {WORKER} 10.77.0.1"] >= counted.dialled["answered"]


def test_g3_where_nothing_is_held_a_flush_would_have_been_found(lab):
    control = make_control(lab)
    member = make_member(lab, control, 201, 4)
    attacker = lab.machine("machine-x", ATTACKER)
    server = siege(member, "serve", WORKER, NOBODYS)
    attack = siege(attacker, "attack", member.ipv4, WORKER, NOBODYS)
    stop_agent(member, signal.SIGKILL)
    assert member.kill(HOLDER)
    for _ in range(5):
        member.run(["nft", "flush", "ruleset"])
        idle(0.1)
    told(attack)

    assert any(f" {WORKER} {ATTACKER}" in who for who in told(server))
