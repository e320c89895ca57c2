"""A mesh of machines that are as careless as can be, to be attacked.

    attacker 192.168.0.66 ------ LAN ------ control node .200  10.77.0.1
                                  |-------- member       .202  10.77.0.3, 10.77.0.4
                                  '-------- worker       .201  10.77.0.2, 10.77.1.2
                                              |- docker0: container-a 172.17.0.2
                                              |- br0:     container-b 172.18.0.2
                                              '- router   10.50.0.1 - beyond 10.50.0.2

Every machine believes forged sources, every server listens on every address, and the worker
machine forwards: only the guard is left to refuse. 10.77.0.3 is a member whose WireGuard peer
the worker itself is, 10.77.0.4 one that comes by way of the hub, to 10.77.1.2.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec

from qmesh.mesh.guard.scripts import render_load_script
from qmesh.mesh.state import Guard
from tests.support.lab.machines import Lab, Machine
from tests.support.lab.probe import Attempt, Listeners, Place, Probe, Protocol, eventually, reach

Role: TypeAlias = Literal["control", "worker"]
Probes: TypeAlias = Callable[[int], list[Probe]]
"""The probes to a port."""
WORKER, SILENT_WORKER, NEIGHBOUR, LAST_WORKER = 40001, 40003, 40004, 40010
"""The last worker's port adjoins none. Nothing listens at the silent worker's, as when a worker has ended."""
OWN, SILENT_OWN, OF_CONTROL, OF_MESH = 8337, 8338, 9100, 5432
"""Closed ports of no workers: the machine reaches all, the control node and all members one more each."""
GUARDED = (OWN, OF_CONTROL, OF_MESH)
USER = 1000
SSH, MEMBERSHIP, ELSEWHERE, LISTEN = 22, 9377, 9001, 51820
PORTS = (*range(40000, NEIGHBOUR), LAST_WORKER)
CONTROL, CONTROL6 = "10.77.0.1", "fd77::1"
ADDRESSES: Final = {"control": (CONTROL, CONTROL6), "worker": ("10.77.0.2", "fd77::2")}
MEMBER, MEMBER_BY_HUB, WORKER_BY_HUB = "10.77.0.3", "10.77.0.4", "10.77.1.2"
PROTOCOLS: Final[tuple[Protocol, ...]] = ("tcp", "udp")
GUARDS: Final[dict[Role, Guard]] = {
    role: Guard(
        role=role,
        interface="qmesh0",
        kind="tun",
        listen_port=LISTEN,
        control_address=CONTROL,
        service_port=MEMBERSHIP,
        ports=PORTS,
        own_ports=(OWN, SILENT_OWN),
        control_ports=(OF_CONTROL,),
        mesh_ports=(OF_MESH,),
    )
    for role in ("control", "worker")
}
PEERS: Final = {
    "control": {
        "worker": "10.77.0.2/32, 10.77.1.2/32, fd77::2/128",
        "member": "10.77.0.3/32, 10.77.0.4/32, fd77::3/128",
    },
    "worker": {
        "control": "10.77.0.1/32, 10.77.0.4/32, fd77::1/128",
        "member": "10.77.0.3/32, fd77::3/128",
    },
    "member": {
        "control": "10.77.0.1/32, 10.77.1.2/32, fd77::1/128",
        "worker": "10.77.0.2/32, fd77::2/128",
    },
}
"""Each machine's peers with their allowed IPs: more than qmesh gives them, so that more is tried."""
TUNNEL_ADDRESSES: Final = {
    "control": ("10.77.0.1/20", "fd77::1/64"),
    "worker": ("10.77.0.2/20", "10.77.1.2/20", "fd77::2/64"),
    "member": ("10.77.0.3/20", "10.77.0.4/20", "fd77::3/64"),
}
SYSCTLS = (
    "net.ipv4.conf.all.accept_local=1",
    "net.ipv4.conf.all.route_localnet=1",
    "net.ipv4.conf.all.rp_filter=0",
    "net.ipv4.conf.default.rp_filter=0",
    "net.ipv4.conf.eth0.rp_filter=0",
    "net.ipv4.ip_forward=1",
    "net.ipv4.ip_nonlocal_bind=1",
    "net.ipv6.conf.all.forwarding=1",
)


class Mesh:
    """The machines of the module's docstring, with what the tests do to them."""

    def __init__(self, lab: Lab, listeners: Listeners, undo: contextlib.ExitStack) -> None:
        self.listeners = listeners
        self._undo = undo
        numbers = {"control": 200, "worker": 201, "member": 202, "attacker": 66}
        self.machines = {
            name: lab.machine(name, f"192.168.0.{number}", f"fd00:1a::{number}")
            for name, number in numbers.items()
        }
        self.control, self.worker, self.member, self.attacker = self.machines.values()
        self.at = {name: self._place(machine) for name, machine in self.machines.items()}
        for machine in self.machines.values():
            machine.run(["sysctl", "-qw", *SYSCTLS])
        keys = {name: self.machines[name].run(["wg", "genkey"]).stdout.strip() for name in PEERS}
        self._private = keys
        self.public = {
            name: self.control.run(["wg", "pubkey"], input=key).stdout.strip() for name, key in keys.items()
        }
        for name in PEERS:
            self.make_tunnel(name)
        for name, peer in itertools.permutations(PEERS, 2):  # so that no test waits for a handshake
            assert self.at[name].ping(TUNNEL_ADDRESSES[peer][0].partition("/")[0])
        self._make_networks_behind_the_worker()
        self._listen()
        routes = [f"{ADDRESSES[name][0]} via {self.machines[name].ipv4}" for name in ADDRESSES]
        routes += [f"{ADDRESSES[name][1]} via {self.machines[name].ipv6}" for name in ADDRESSES]
        routes += [
            f"{net} via {self.worker.ipv4}" for net in ("172.17.0.0/16", "172.18.0.0/16", "10.50.0.0/24")
        ]
        routes += [f"{net} via {self.worker.ipv6}" for net in ("fd17::/64", "fd18::/64", "fd50::/64")]
        ip(self.attacker, *(f"route add {route}" for route in routes))

    def _place(self, machine: Machine, netns: str = "") -> Place:
        place = Place(machine, netns)
        self._undo.callback(place.close)
        return place

    def make_tunnel(self, name: str) -> None:
        """Userspace WireGuard on a machine, configured and up."""
        machine = self.machines[name]
        machine.run(["wireguard-go", "qmesh0"])
        lines = ["[Interface]", f"PrivateKey = {self._private[name]}", f"ListenPort = {LISTEN}"]
        for peer, allowed in PEERS[name].items():
            endpoint = f"{self.machines[peer].ipv4}:{LISTEN}"
            lines += [
                "[Peer]",
                f"PublicKey = {self.public[peer]}",
                f"Endpoint = {endpoint}",
                f"AllowedIPs = {allowed}",
            ]
        machine.write("/root/wg.conf", "\n".join(lines) + "\n", 0o600)
        machine.run(["wg", "setconf", "qmesh0", "/root/wg.conf"])
        addresses = [f"addr add {address} dev qmesh0" for address in TUNNEL_ADDRESSES[name]]
        ip(machine, *addresses, "link set qmesh0 mtu 1420 up")
        if name == "worker":
            ip(machine, f"route add {MEMBER_BY_HUB} dev qmesh0 src {WORKER_BY_HUB}")
        if name == "member":
            ip(machine, f"route add {WORKER_BY_HUB} dev qmesh0 src {MEMBER_BY_HUB}")

    def delete_tunnel(self, name: str) -> None:
        """Delete a machine's tunnel, and wait until its process has ended."""
        ip(self.machines[name], "link del qmesh0")
        sock = Path(f"/proc/{self.machines[name].pid}/root/run/wireguard/qmesh0.sock")
        assert eventually(lambda: not sock.exists())

    def _make_networks_behind_the_worker(self) -> None:
        behind = (("container-a", "docker0", 17), ("container-b", "br0", 18), ("beyond", "", 0))
        for name, bridge, number in behind:
            net, net6 = (f"172.{number}.0.", f"fd{number}::") if bridge else ("10.50.0.", "fd50::")
            port, own = f"veth{number}", bridge or f"veth{number}"
            self.worker.run(["ip", "netns", "add", name])
            ip(self.worker, f"link add {port} type veth peer name eth0 netns {name}")
            if bridge:
                ip(self.worker, f"link add {bridge} type bridge forward_delay 0")
                ip(self.worker, f"link set {port} master {bridge}")
            addresses = (f"{net}1/24", f"{net6}1/64", "fe80::1/64")
            ip(self.worker, *given(addresses, own), f"link set {port} up", f"link set {own} up")
            inside = given((f"{net}2/24", f"{net6}2/64"), "eth0")
            inside += ["link set lo up", "link set eth0 up"]
            inside += [f"route add default via {net}1", f"route add default via {net6}1"]
            commands = "".join(f"{line}\n" for line in inside)
            self.worker.run(["ip", "-n", name, "-batch", "-"], input=commands)
            self.at[name] = self._place(self.worker, name)

    def _listen(self) -> None:
        workers = (WORKER, LAST_WORKER)
        for name in ("control", "worker"):
            self.listeners.listen(self.at[name], [SSH, NEIGHBOUR, MEMBERSHIP, *workers, *GUARDED])
        for name in ("member", "attacker", "beyond"):
            self.listeners.listen(self.at[name], [SSH, NEIGHBOUR, MEMBERSHIP, *workers, *GUARDED])
        for name in ("container-a", "container-b"):
            self.listeners.listen(self.at[name], [8080, NEIGHBOUR, *workers, *GUARDED])

    def guard(self, role: Role, **changed: object) -> None:
        """Load the guard on the machine of a role."""
        guard = msgspec.structs.replace(GUARDS[role], **changed)
        nft(self.machines[role], render_load_script(guard))

    def settle(self) -> None:
        """No rules but the guards'."""
        for role in GUARDS:
            nft(self.machines[role], "flush ruleset\n" + render_load_script(GUARDS[role]))

    def strip(self) -> None:
        """No rules anywhere."""
        for machine in self.machines.values():
            nft(machine, "flush ruleset\n")

    def arrived(self, probes: list[Probe], wanted: Iterable[Probe] = ()) -> set[str]:
        return {str(probe) for probe in reach(self.listeners, probes, wanted=wanted)}

    def assert_all_arrive(self, probes: list[Probe]) -> None:
        assert {str(probe) for probe in probes} - self.arrived(probes, probes) == set()

    def assert_guarded(
        self,
        role: Role,
        probes: Probes,
        *,
        port: int = WORKER,
        other_port: int | None = NEIGHBOUR,
    ) -> None:
        """That none of the probes reaches a worker, although they are real.

        other_port: the port of no worker to which they must arrive as well; None where the guard
            denies that too.
        """
        hostile = probes(port)
        nft(self.machines[role], "delete table inet qmesh\n")
        self.assert_all_arrive(hostile)
        self.guard(role)
        ordinary = probes(other_port) if other_port else []
        assert self.arrived([*hostile, *ordinary], ordinary) == {str(probe) for probe in ordinary}


def ip(machine: Machine, *commands: str) -> None:
    """Commands of ip(8) in a machine."""
    machine.run(["ip", "-batch", "-"], input="".join(f"{command}\n" for command in commands))


def nft(machine: Machine, script: str) -> None:
    machine.run(["nft", "-f", "-"], input=script)


def given(addresses: Iterable[str], interface: str) -> list[str]:
    return [
        f"addr add {address} dev {interface}{' nodad' if ':' in address else ''}" for address in addresses
    ]


def all_arrived(mesh: Mesh, opened: list[Attempt]) -> bool:
    for attempt in opened:
        attempt.push()
    return all(attempt.arrived(mesh.listeners) for attempt in opened)
