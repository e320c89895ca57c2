"""Machines that are unlike others, and right: whatever `check` finds there is a false alarm."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final, NamedTuple

from tests.support.lab.machines import Machine
from tests.support.lab.matrix.arrangements import docker
from tests.support.waiting import comes_true

SETTLED_S: Final = 20.0
"""Seconds in which the agents have done what they do when a machine changes."""
BRIDGE: Final = """
ip netns add inside
ip link add docker0 type bridge && ip address add 172.17.0.1/16 dev docker0 && ip link set docker0 up
ip link add outside type veth peer name eth0 netns inside
ip link set outside master docker0 up
ip -n inside address add 172.17.0.2/16 dev eth0
ip -n inside link set eth0 up && ip -n inside link set lo up
ip -n inside route add default via 172.17.0.1
sysctl -qw net.ipv4.ip_forward=1
"""
"""A container's network, as Docker makes it."""
NO_BRIDGE: Final = (
    "ip netns delete inside; ip link delete docker0; sysctl -qw net.ipv4.ip_forward=0;"
    " nft delete table ip nat; nft delete table ip filter"
)
_OWN: Final = "$(ip -4 -o address show eth0 | sed 's,.*inet \\([0-9.]*\\)/.*,\\1,')"


class Shape(NamedTuple):
    """Scripts: what makes a machine unlike others, and what ends that."""

    makes: str
    ends: str


SHAPES: Final = {
    "the local table's rule behind one of another network": Shape(
        "for v in 4 6; do ip -$v rule add priority 100 lookup local; ip -$v rule delete priority 0; done;"
        " ip rule add priority 50 to 198.51.100.0/24 lookup 77",
        "for v in 4 6; do ip -$v rule add priority 0 lookup local; ip -$v rule delete priority 100; done;"
        " ip rule delete priority 50",
    ),
    "two uplinks, and a table for each": Shape(
        "ip link add uplink type veth peer name beyond; ip link set beyond up;"
        " ip address add 203.0.113.7/24 dev uplink; ip link set uplink up;"
        " ip route add default via 192.168.0.254 metric 100;"
        " ip route add default via 203.0.113.1 metric 200;"
        " ip route add default via 203.0.113.1 table 100; ip route add default via 192.168.0.254 table 101;"
        f" ip rule add from 203.0.113.7 lookup 100 priority 1000; ip rule add from {_OWN} lookup 101"
        " priority 1001",
        "ip rule delete priority 1000; ip rule delete priority 1001; ip route flush table 100;"
        " ip route flush table 101; ip route delete default; ip link delete uplink",
    ),
    "a read-only /etc": Shape("mount --bind /etc /etc && mount -o remount,bind,ro /etc", "umount /etc"),
    "no resolv.conf": Shape("mv /etc/resolv.conf /etc/r || true", "mv /etc/r /etc/resolv.conf"),
    "a container's bridge": Shape(BRIDGE, NO_BRIDGE),
}
"""By what is unlike."""
LOCALES: Final = ({"LC_ALL": "C"}, {"LC_ALL": "ar_EG.UTF-8"}, {"LANG": "he_IL.UTF-8", "PYTHONUTF8": "0"})


def publish(machine: Machine, ports: dict[int, int]) -> None:
    """Rules as Docker's for a container's ports, by those published."""
    machine.run(["iptables-nft-restore", "--noflush"], input=docker(ports))


def find_alarms(machine: Machine, *words: str, env: Mapping[str, str] | None = None) -> list[str]:
    """What `check` and `plan` say of a machine that is as it should be."""
    done = machine.run(["qmesh", "check", *words, "--json"], check=False, env=env, timeout=120)
    report = json.loads(done.stdout)
    members = report.get("members", ())
    answers = [*report["findings"], *(each for member in members for each in member["findings"])]
    found = [f"{each['code']}: {each['seen']}" for each in answers if each["severity"] != "info"]
    planned = machine.run(["qmesh", "plan", "--json"], check=False, env=env, timeout=60).stdout
    found += [f"plan: {each}" for each in json.loads(planned)["steps"]]
    return found or ([] if done.returncode == 0 else [f"exit code {done.returncode}"])


def find_lasting_alarms(machine: Machine, *words: str, env: Mapping[str, str] | None = None) -> list[str]:
    """Those that are there still once the agents have settled."""
    last: list[str] = []

    def is_quiet() -> bool:
        last[:] = find_alarms(machine, *words, env=env)
        return not last

    comes_true(is_quiet, SETTLED_S, every_s=0.5)
    return last
