"""Where packets of the mesh go on machines with agents: what is the tunnel's own is fixed, the rest is named.

`pytest -m long -s tests/lab/test_routes.py` prints each situation with its seconds.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time

import pytest

from tests.support.lab.cluster import STATE, checked, facts, make_control, make_member, qmesh
from tests.support.lab.machines import Lab, Machine
from tests.support.waiting import wait_until

pytestmark = pytest.mark.lab

TABLE_52 = "ip rule add lookup 52 priority 5270"


@dataclasses.dataclass(frozen=True)
class Situation:
    """What another program does to a machine's routes, by a shell script; `undo` is for after the fix."""

    name: str
    spoil: str
    undo: str = "true"
    on_control: bool = True


OWN = (
    Situation("the tunnel's route deleted, control node", "ip route delete 10.77.0.0/20 dev qmesh0"),
    Situation(
        "the same on a worker machine",
        "ip route delete 10.77.0.0/20 dev qmesh0",
        on_control=False,
    ),
    Situation(
        "its route replaced by a black hole",
        "ip route replace blackhole 10.77.0.0/20",
        "ip route flush type blackhole",
    ),
    Situation(
        "its route replaced by a LAN's",
        "ip route replace 10.77.0.0/20 dev eth0",
        "ip route delete 10.77.0.0/20 dev eth0",
    ),
    Situation("its route with another source", "ip route replace 10.77.0.0/20 dev qmesh0 src 192.168.0.200"),
    Situation(
        "all routes of the interface flushed",
        "ip route flush dev qmesh0; ip route flush table local dev qmesh0",
    ),
    Situation("a default route by the interface", "ip route replace default dev qmesh0", on_control=False),
)
OTHERS = (
    Situation(
        "a VPN's table 52, a wider network",
        f"ip route add 10.64.0.0/10 dev eth0 table 52; {TABLE_52}",
        "ip rule delete priority 5270; ip rule delete priority 5269",
    ),
    Situation(
        "a full VPN before the main table",
        "ip route add default dev eth0 table 7; ip rule add not fwmark 51820 lookup 7 priority 90",
        "ip rule delete priority 90; ip rule delete priority 89; ip route flush table 7",
    ),
    Situation(
        "the same on a worker machine",
        "ip route add default dev eth0 table 7; ip rule add not fwmark 51820 lookup 7 priority 90",
        "ip rule delete priority 90; ip rule delete priority 89; ip route flush table 7",
        on_control=False,
    ),
    Situation(
        "a rule for the tunnel's address as source",
        "ip route add blackhole default table 7; ip rule add from 10.77.0.2 lookup 7 priority 90",
        "ip rule delete priority 90; ip rule delete priority 89; ip route flush table 7",
        on_control=False,
    ),
    Situation(
        "a rule that prohibits",
        "ip rule add to 10.0.0.0/8 prohibit priority 90",
        "ip rule delete priority 90; ip rule delete priority 89",
    ),
    Situation("no rule for the main table", "ip rule delete priority 32766"),
    Situation(
        "suppress_prefixlength 24 for the main table",
        "ip rule delete priority 32766; ip rule add lookup main suppress_prefixlength 24 priority 32766",
        "ip rule flush; ip rule add lookup main priority 32766",
    ),
    Situation("a member's address as a host route", "ip route add 10.77.0.2 dev eth0"),
    Situation("a nearer network by a router", "ip route add 10.77.0.0/29 via 192.168.0.201"),
    Situation("a black hole for a member", "ip route add blackhole 10.77.0.2"),
    Situation("an unreachable network", "ip route add unreachable 10.77.0.0/28", on_control=False),
    Situation("a member's address on another interface", "ip address add 10.77.0.2/32 dev eth0"),
    Situation("a LAN of a part of the network", "ip address add 10.77.0.5/28 dev eth0", on_control=False),
)


def tell(line: str) -> None:
    """Seen with `-s`."""
    sys.stdout.write(f"{line}\n")


def sends(machine: Machine, address: str) -> bool:
    """Whether the kernel sends into the tunnel, from the tunnel's own address."""
    own = {"10.77.0.1": "10.77.0.2", "10.77.0.2": "10.77.0.1"}[address]
    said = (
        machine.run(["ip", "route", "get", address, *words], check=False).stdout
        for words in ((), ("from", own))
    )
    no_more = "default" not in machine.run(["ip", "route", "show", "dev", "qmesh0"], check=False).stdout
    return no_more and all("dev qmesh0" in words and own in words for words in said)


@pytest.mark.long
def test_what_is_the_tunnels_own_is_fixed_and_the_rest_is_named_with_the_command():
    with Lab() as lab:
        control = make_control(lab)
        member = make_member(lab, control, 201, 4)
        qmesh(control, "render-config", "--write")
        for each in OWN:
            machine, far = (control, "10.77.0.2") if each.on_control else (member, "10.77.0.1")
            began = time.monotonic()
            machine.run(["sh", "-c", each.spoil])
            wait_until(lambda: sends(machine, far), 20)  # noqa: B023 - called at once
            tell(f"{each.name}: fixed by the agent in {time.monotonic() - began:.1f} s")
            machine.run(["sh", "-c", each.undo])
            wait_until(lambda: facts(machine, "plan", code=None)["steps"] == [])  # noqa: B023 - as above
        for each in OTHERS:
            machine, far = (control, "10.77.0.2") if each.on_control else (member, "10.77.0.1")
            began = time.monotonic()
            machine.run(["sh", "-c", each.spoil])
            report = json.loads(qmesh(machine, "check", "--json", code=1).stdout)
            took = time.monotonic() - began
            found = [finding for finding in report["findings"] if finding["code"] == "route-collision"]
            assert found, (each.name, report)
            for finding in found:
                machine.run(["sh", "-c", finding["cure"]])
            wait_until(lambda: sends(machine, far))  # noqa: B023 - as above
            assert "route-collision" not in {each["code"] for each in checked(machine)["findings"]}
            tell(f"{each.name}: named by check in {took:.1f} s: {found[0]['seen']}; {found[0]['cure']}")
            machine.run(["sh", "-c", each.undo])
        assert "do not go into the tunnel" in control.read(f"{STATE}/agent.log")
