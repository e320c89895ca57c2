"""A machine on which somebody asks for a worker without pause, from before its network comes until the end.

A careless server listens on a worker's port and on the port beside it, and the distribution's
nftables.service has a configuration that flushes all rules. What is done there, and what is told of it, is
in tests/support/lab/programs/boot.py.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tests.support.checkout import CHECKOUT
from tests.support.lab.machines import TOOLS

WORKER_PORT, NEIGHBOUR = 40000, 39999
UNITS = Path("etc/systemd/system")
NFTABLES = Path("/usr/lib/systemd/system/nftables.service")
PROGRAM = "/root/stand-in"
PYTHON = f"{sys.executable} -I -S {TOOLS / 'knock.py'}"

FLUSHING = """\
#!/usr/sbin/nft -f

flush ruleset

table inet filter {
	chain input {
		type filter hook input priority filter;
	}
}
"""

EARLY = "DefaultDependencies=no\nConflicts=shutdown.target\nBefore=shutdown.target\n"
# The port is there as a card is: before its addresses. Nothing here waits for the guard, or for anything.
OF_THE_TEST = {
    "port.service": f"""\
[Unit]
{EARLY}
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/mkdir -p /run/knock
ExecStart=ip netns add outside
ExecStart=ip -batch /etc/port.ip
ExecStart=ip -n outside -batch /etc/outside.ip
""",
    "careless.service": f"""\
[Unit]
{EARLY}Requires=port.service
After=port.service

[Service]
Type=notify
ExecStart={PYTHON} listen /run/knock/came {WORKER_PORT} {NEIGHBOUR}
""",
    "outsider.service": f"""\
[Unit]
{EARLY}Requires=port.service
After=port.service

[Service]
Type=notify
NetworkNamespacePath=/run/netns/outside
ExecStart={PYTHON} ask /run/knock/asked 192.0.2.1 2001:db8::1 -- {WORKER_PORT} {NEIGHBOUR}
""",
    "lan.service": f"""\
[Unit]
Description=The network, as a server's own program brings it up
{EARLY}Wants=network.target careless.service outsider.service
After=network-pre.target systemd-sysctl.service careless.service outsider.service
Before=network.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=sh -c 'cat /proc/sys/net/ipv4/ip_local_reserved_ports >/run/knock/reserved'
ExecStart=ip -batch /etc/lan.ip
""",
    "job.service.d/boot.conf": "[Unit]\nWants=lan.service multi-user.target\n",
}
MAC = "02:00:00:00:00:01"
OTHER_FILES = {
    "etc/port.ip": f"link add lan0 address {MAC} type veth peer name eth0 netns outside\n",
    "etc/outside.ip": "link set lo up\nlink set eth0 up\naddr add 192.0.2.2/24 dev eth0\n"
    f"addr add 2001:db8::2/64 dev eth0 nodad\nneigh add 192.0.2.1 lladdr {MAC} dev eth0 nud permanent\n"
    f"neigh add 2001:db8::1 lladdr {MAC} dev eth0 nud permanent\n",
    "etc/lan.ip": "addr add 192.0.2.1/24 dev lan0\naddr add 2001:db8::1/64 dev lan0 nodad\n"
    "link set lan0 up\n",
    "etc/sysctl.d/50-of-others.conf": "net.ipv4.ip_local_reserved_ports = 33333\n",
    "etc/nftables.conf": FLUSHING,
    PROGRAM[1:]: f'#!/bin/sh\nPYTHONPATH={CHECKOUT} exec {sys.executable} {TOOLS / "worker.py"} "$@"\n',
}


def count(knocks: Any, which: str, port: int) -> int:
    """How many went out or came at a port, by TCP and UDP."""
    return sum(int(knocks[which].get(f"{each} {port}", {"count": 0})["count"]) for each in ("tcp", "udp"))


def assert_closed(before: Any, after: Any, at_least: int) -> None:
    """Meanwhile both ports were asked for, the neighbour was reached, and the worker was not."""
    assert count(after, "asked", WORKER_PORT) - count(before, "asked", WORKER_PORT) >= at_least
    assert count(after, "came", NEIGHBOUR) - count(before, "came", NEIGHBOUR) >= at_least // 2
    assert count(after, "came", WORKER_PORT) == count(before, "came", WORKER_PORT)
