"""How machines find each other: the nearest way, another when it dies, NAT, and paths that carry less."""

import json

import pytest

from tests.lab.cluster import (
    STATE,
    checked,
    dial,
    facts,
    invite,
    make_control,
    make_member,
    qmesh,
    start_workers,
    stop_agent,
)
from tests.lab.machines import TOOLS, Lab, Machine, _ip
from tests.lab.test_lab import wait_until

pytestmark = pytest.mark.lab

CONTROL = "192.168.0.200"
QUIET_S = 60.0
"""Seconds within which an agent changes over: 30 of silence, and a look or two."""


def cable(one: Machine, other: Machine, name: str, *, mtu: int = 1500) -> None:
    """A link of their own between two machines, up, with the same name on both."""
    _ip(
        one.pid,
        f"link add {name} mtu {mtu} type veth peer name {name} mtu {mtu} netns {other.pid}\n"
        f"link set {name} up\n",
    )
    _ip(other.pid, f"link set {name} up\n")


def ip(machine: Machine, *commands: str) -> None:
    machine.run(["ip", "-batch", "-"], input="".join(f"{command}\n" for command in commands))


def router(lab: Lab, name: str = "router", number: int = 1) -> Machine:
    machine = lab.machine(name, f"192.168.0.{number}")
    machine.run(["sysctl", "-qw", "net.ipv4.ip_forward=1"])
    return machine


def behind(
    lab: Lab, gate: Machine, name: str, network: str, *, mtu: int = 1500, inner_mtu: int = 1500
) -> Machine:
    """A machine of another LAN, whose only way out is that router; its link may carry less than it thinks."""
    machine = Machine(name, ipv4=f"{network}.2")
    lab._undo.callback(machine.close)
    link = f"to-{network.replace('.', '')}"[:15]
    cable(gate, machine, link, mtu=mtu)
    ip(gate, f"addr add {network}.1/24 dev {link}")
    ip(
        machine,
        "link set lo up",
        f"link set {link} mtu {inner_mtu} name eth0",
        f"addr add {network}.2/24 dev eth0",
        f"route add default via {network}.1",
    )
    return machine


def masquerade(gate: Machine, port: str, *, timeout_s: int) -> None:
    """What leaves by that port bears the router's address; its table forgets UDP quickly."""
    script = (
        "add table ip nat\n"
        "add chain ip nat out { type nat hook postrouting priority 100; }\n"
        f"add rule ip nat out oifname {port} masquerade\n"
    )
    gate.run(["nft", "-f", "-"], input=script)
    names = ("nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream")
    gate.run(["sysctl", "-qw", *(f"net.netfilter.{name}={timeout_s}" for name in names)])


def endpoint_seen(machine: Machine) -> str:
    """Where a machine's WireGuard sends to its one peer."""
    return machine.run(["wg", "show", "qmesh0", "endpoints"]).stdout.split()[1]


def test_takes_the_lan_and_changes_over_when_it_dies(lab):
    """The public way is what `init` was told, far and first; the LAN's is found, measured and taken."""
    far = lab.machine("far", "192.168.0.5")
    far.start(["python", TOOLS / "far.py", "51820", CONTROL, "51820", "20"]).wait_for("ready")
    control = make_control(lab, "--endpoint", "192.168.0.5:51820")
    control.run(["ip", "address", "add", "10.9.0.1/24", "dev", "eth0"])
    dead = "10.9.0.1"
    member = make_member(lab, control, 201, 2)
    settings = json.loads(member.read(f"{STATE}/machine.json"))
    hosts = [endpoint["host"] for endpoint in settings["control_endpoints"]]
    assert hosts[0] == CONTROL
    assert set(hosts) == {CONTROL, "192.168.0.5", dead, "fd00:1a::200"}
    assert endpoint_seen(member) == f"{CONTROL}:51820"
    qmesh(control, "render-config", "--write")
    workers = start_workers(member, "4..5")
    # The LAN is dead, between these two alone: WireGuard's datagrams to and from it vanish.
    member.run(["ip", "route", "add", "blackhole", "fd00:1a::200/128"])
    member.run(["nft", "-f", "-"], input=cut_off(CONTROL))
    wait_until(lambda: endpoint_seen(member) == "192.168.0.5:51820", QUIET_S)
    wait_until(lambda: dial(control)[3:] == ["core 4 on machine-b", "core 5 on machine-b"])
    assert checked(member)["findings"] == []
    wait_until(
        lambda: (
            json.loads(member.read(f"{STATE}/machine.json"))["control_endpoints"][0]["host"] == "192.168.0.5"
        )
    )
    workers.stop()


def cut_off(address: str) -> str:
    return (
        "add table inet lan\n"
        "add chain inet lan out { type filter hook output priority 0; }\n"
        f"add rule inet lan out ip daddr {address} udp dport 51820 drop\n"
    )
