"""Situations of daily work on a server: containers, VPNs and programs beside the mesh, and mistakes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from tests.support.lab.cluster import CONFIG
from tests.support.lab.situation_cluster import Machines, Situation
from tests.support.waiting import wait_until

_NO_MEMBER: Final = "nothing passes between the two machines"
_NO_WORKER: Final = "the control process reaches no worker of the machine"
_NONE: Final = "none"
_AGENT: Final = "'silent_s [=] float|[q]mesh agent'"
_NO_TABLES: Final = "iptables -t nat -F; iptables -F; nft delete table ip nat; nft delete table ip filter"
_TAKE_PORT: Final = """
import socket, time
taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    try:
        taken.bind(("0.0.0.0", 51820))
        break
    except OSError:
        time.sleep(0.0005)
time.sleep(10_000)
"""


def _dropped(name: str, spoil: str, undo: str = _NO_TABLES, **more: Any) -> Situation:
    """Of rules of others."""
    facts = {"part": 4, "harm": _NO_MEMBER, "code": "foreign-drop", **more}
    return Situation(name=name, spoil=spoil, undo=undo, **facts)


def _harmless(name: str, spoil: str, undo: str = "true", **more: Any) -> Situation:
    """What changes a machine, and nothing of the mesh."""
    facts = {"part": 10, "harm": _NONE, "is_harmless": True, **more}
    return Situation(name=name, spoil=spoil, undo=undo, **facts)


def _take_port(machines: Machines) -> None:
    """Have another program take WireGuard's port in the moment in which the tunnel is gone."""
    member = machines["member"]
    member.start(["python", "-c", _TAKE_PORT])
    wait_until(lambda: bool(member.processes("0.0005")), 30)
    member.run(["ip", "link", "delete", "qmesh0"])


def _free_port(machines: Machines) -> None:
    machines["member"].kill("0.0005")


def _spoil_on_the_way(rule: str) -> Callable[[Machines], None]:
    """Have what is between the machines do this to packets."""
    table = f"table bridge between {{ chain c {{ type filter hook forward priority 0; {rule}; }}; }}"

    def load(machines: Machines) -> None:
        machines["control"].lan.run(["nft", "-f", "-"], input=table)

    return load


def _mend_the_way(machines: Machines) -> None:
    machines["control"].lan.run(["nft", "delete", "table", "bridge", "between"], check=False)


DAILY_WORK: Final = (
    _dropped(
        "a container's published port is WireGuard's",
        "iptables -t nat -A PREROUTING -p udp --dport 51820 -j DNAT --to-destination 172.17.0.2:51820",
        on="control",
    ),
    _dropped(
        "all that leaves has the server's own address (SNAT)",
        "iptables -t nat -A POSTROUTING -j SNAT --to-source 192.168.0.200",
        on="control",
        harm=_NO_WORKER,
    ),
    _dropped(
        "packets wait for a program that does not run (NFQUEUE)",
        "iptables -I INPUT -j NFQUEUE --queue-num 0",
    ),
    _dropped(
        "a VPN's kill switch",
        "nft add table inet vpn; nft add chain inet vpn out '{ type filter hook output priority 0;"
        " policy drop; }'; nft add rule inet vpn out oifname { lo, tun0 } accept",
        "nft delete table inet vpn",
    ),
    _harmless(
        "connections are soon forgotten by the kernel",
        "sysctl -qw net.netfilter.nf_conntrack_udp_timeout=2 net.netfilter.nf_conntrack_udp_timeout_stream=2"
        " net.netfilter.nf_conntrack_tcp_timeout_established=2 net.netfilter.nf_conntrack_tcp_loose=0",
        "sysctl -qw net.netfilter.nf_conntrack_udp_timeout=30"
        " net.netfilter.nf_conntrack_udp_timeout_stream=120"
        " net.netfilter.nf_conntrack_tcp_timeout_established=432000 net.netfilter.nf_conntrack_tcp_loose=1",
        part=4,
    ),
    _harmless(
        "Docker is started again: its rules go and come",
        "for n in 1 2 3; do iptables -t nat -N DOCKER; iptables -t nat -A PREROUTING -m addrtype --dst-type"
        " LOCAL -j DOCKER; iptables -t nat -A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE; iptables -P FORWARD"
        " DROP; iptables -t nat -F; iptables -t nat -X; iptables -F; done",
        f"iptables -P FORWARD ACCEPT; {_NO_TABLES}",
        part=4,
    ),
    Situation(
        part=9,
        name="the agent may open no more files",
        harm="nothing is fixed",
        spoil=f"for p in $(pgrep -f {_AGENT}); do prlimit --nofile=4:4096 --pid $p; done",
        code="agent-silent",
        undo=f"for p in $(pgrep -f {_AGENT}); do prlimit --nofile=1024:4096 --pid $p; done",
        by_hand=f"for p in $(pgrep -f {_AGENT}); do prlimit --nofile=1024:4096 --pid $p; done",
        within_s=60,
    ),
    Situation(
        part=9,
        name="another program has taken WireGuard's port",
        harm=_NO_MEMBER,
        spoil=_take_port,
        code="agent-failing",
        undo=_free_port,
        by_hand=_free_port,
        within_s=60,
    ),
    Situation(
        part=8,
        name="the disk with the node's files is not mounted",
        harm="the node does not start",
        spoil=f"mkdir -p /root/none; mount --bind /root/none {CONFIG}",
        code="config-missing",
        on="control",
        undo=f"umount {CONFIG}",
        by_hand=f"umount {CONFIG}",
    ),
    Situation(
        part=2,
        name="a fifth of all packets is lost on the way",
        harm=_NONE,
        spoil=_spoil_on_the_way("ip protocol udp numgen random mod 100 < 20 drop"),
        undo=_mend_the_way,
        is_harmless=True,
    ),
)
