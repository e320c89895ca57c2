"""The kernel's verdict on any packet under any rule set, many thousands a second.

    machine = RangeMachine(
        {"eth0": RangeInterface(None, ("192.0.2.2/24", "2001:db8::2/64")),
         "qmesh0": RangeInterface("tun", ("10.77.0.2/20",)),
         "docker0": RangeInterface("bridge", ("172.17.0.1/16",))},
        settings={"ipv4/conf/all/forwarding": "1"},
    )
    shot = Shot(way="eth0", source="192.0.2.9", target="192.0.2.2", protocol="tcp",
                source_port=1025, target_port=40000, flags=SYN)
    ((fate,),) = judge_rule_sets(machine, [Job(RuleText("table inet t { ... }"), (shot,))])

`fate.ports` has the ports at which the machine's own TCP or UDP was given the packet, after translation;
`fate.left` the interfaces by which it came out. Nothing of either: it was dropped. It needs root, and touches
nothing of the machine: the namespaces are those of `qmesh drill`.
"""

from __future__ import annotations

import ipaddress
import socket
import subprocess
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from qmesh.host.drill.firing_range import FiringRange
from qmesh.host.drill.live_network import ADDRESS, ROUTE, LiveLink, LiveNetwork
from qmesh.host.drill.namespaces import Namespaces, run_in_namespaces
from qmesh.host.drill.network_copy import copy_network
from qmesh.host.network.netlink_messages import build_attribute, build_request
from qmesh.mesh.drill.shots import Fate, Shot

JUDGEMENT_TIMEOUT_S = 600.0
FLUSH = "flush ruleset\n"


class RangeInterface(NamedTuple):
    """kind: as the kernel calls it; None for hardware, which a veth stands for. master: a bridge."""

    kind: str | None = None
    addresses: tuple[str, ...] = ()
    master: str = ""


class RangeMachine(NamedTuple):
    """A machine. settings: by their path below /proc/sys/net. routes: `10.0.0.0/8` to a gateway's address."""

    interfaces: Mapping[str, RangeInterface]
    settings: Mapping[str, str] = {}
    routes: Mapping[str, str] = {}
    listens: tuple[int, ...] = ()


class RuleText(NamedTuple):
    """Rules, and the program that loads them: `nft -f -`, `nft -j -f -`, `iptables-restore`."""

    text: str
    program: tuple[str, ...] = ("nft", "-f", "-")


class Job(NamedTuple):
    """What is loaded, one after the other, in place of the rules before, and the shots under it.

    keeps: whether the connections of the job before are still known.
    """

    rules: tuple[RuleText, ...]
    shots: tuple[Shot, ...]
    keeps: bool = False


def describe_network(machine: RangeMachine) -> LiveNetwork:
    """The machine as if it had been read from a kernel."""
    numbers = {name: number for number, name in enumerate(machine.interfaces, start=10)}
    links = [
        LiveLink(
            name=name,
            index=numbers[name],
            kind=each.kind,
            is_up=True,
            mtu=1500,
            group=0,
            master=numbers.get(each.master),
            link_address=b"",
            data=b"",
            is_loopback=False,
            is_ethernet=each.kind not in {"tun", "wireguard"},
        )
        for name, each in machine.interfaces.items()
    ]
    addresses = [
        _build_address(numbers[name], address)
        for name, each in machine.interfaces.items()
        for address in each.addresses
    ]
    routes = [_build_route(network, gateway) for network, gateway in machine.routes.items()]
    return LiveNetwork(tuple(links), tuple(addresses), tuple(routes), (), dict(machine.settings))


def _build_address(index: int, text: str) -> bytes:
    own = ipaddress.ip_interface(text)
    family = socket.AF_INET if own.version == 4 else socket.AF_INET6
    scope = 253 if own.is_link_local and own.version == 6 else 0
    payload = ADDRESS.pack(family, own.network.prefixlen, 0, scope, index)
    payload += build_attribute(2, own.packed) + build_attribute(1, own.packed)
    if own.version == 4:
        payload += build_attribute(4, own.network.broadcast_address.packed)
    return build_request(20, 0, payload)


def _build_route(network: str, gateway: str) -> bytes:
    target, hop = ipaddress.ip_network(network), ipaddress.ip_address(gateway)
    family = socket.AF_INET if hop.version == 4 else socket.AF_INET6
    payload = ROUTE.pack(family, target.prefixlen, 0, 0, 254, 3, 0, 1, 0)  # main, RTPROT_BOOT, unicast
    payload += build_attribute(1, target.network_address.packed) + build_attribute(5, hop.packed)
    return build_request(24, 0, payload)


def judge_rule_sets(machine: RangeMachine, jobs: Iterable[Job]) -> list[list[Fate]]:
    """Each job's fates, shot by shot. Raises MachineRefused, also where a rule set is refused."""
    wanted, live = list(jobs), describe_network(machine)

    def work(namespaces: Namespaces) -> list[list[Fate]]:
        copy = copy_network(namespaces, live)
        assert not copy.failures, copy.failures
        found = []
        with FiringRange(namespaces, copy.ways) as place:
            place.listen(machine.listens)
            for job in wanted:
                if not job.keeps:
                    place.forget_connections()
                _load(namespaces, RuleText(FLUSH), *job.rules)
                found.append(place.fire(job.shots))
        return found

    return run_in_namespaces(work, list[list[Fate]], timeout_s=JUDGEMENT_TIMEOUT_S)


def _load(namespaces: Namespaces, *rules: RuleText) -> None:
    for each in rules:
        namespaces.verify_copy()
        done = subprocess.run(each.program, check=False, input=each.text, text=True, capture_output=True)
        if done.returncode:
            raise ValueError(f"{each.program}: {done.stderr}\n{each.text}")
