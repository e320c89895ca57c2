"""A machine's way to its first packet by `qmesh join`, against a shell script of `wg`, `ip` and wireguard-go.

The script has the keys of both ends and the address already; it makes no guard, writes no file, and keeps
nothing running but the tunnel. Both begin on a bare machine, in turn. Packets are seen as they pass, and
nobody asks whether they have.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import statistics
import struct
import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from benchmarks.join import make_mesh
from benchmarks.measuring import Figure

from tests.support.lab.cluster import STATE, TUNNEL, invite
from tests.support.lab.faults import Faulty, reset
from tests.support.lab.machines import TOOLS, Lab, Machine
from tests.support.lab.probe import Place
from tests.support.waiting import wait_until

PORT: Final = 7000
_SCRIPT: Final = """\
set -e
wireguard-go floor0 2>/dev/null
wg setconf floor0 /root/floor.conf
ip address add 10.99.0.{number}/24 dev floor0
ip link set floor0 mtu 1280 up
"""
_CONNECT: Final = f"exec 3<>/dev/tcp/10.99.0.1/{PORT}\n"
_ALL, _IPV4, _TCP, _UDP = 3, 0x0800, 6, 17
_SYN_ACK: Final = 0x12
STAGES: Final = (
    "Python, what qmesh loads, and the first looks",
    "guard, its holder and the tunnel, until the first handshake",
    "handshake, until the first connection through the tunnel",
    "redemption, membership and the guard with its ports, until connected as a member",
    "nearest endpoint, config.yml, and the agent",
)
"""What a join does between its start, its key on the disk, the first packet to the control node, the first
connection through the tunnel, the first one with its own key, and its end."""


class Seen(NamedTuple):
    """When something was seen on a machine, by the clock of the day."""

    handshakes: list[float]
    connections: list[float]


@contextlib.contextmanager
def packets_of(machine: Machine) -> Iterator[Callable[[], Seen]]:
    """What passes while the block runs: handshakes that it begins, and TCP connections by its tunnel."""
    with contextlib.closing(Place(machine)) as place, place.inside():
        seeing = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ALL))
    with seeing:
        seeing.setsockopt(socket.SOL_SOCKET, _TIMESTAMPS, 1)
        seeing.settimeout(0)

        def take() -> Seen:
            found = Seen([], [])
            with contextlib.suppress(BlockingIOError):
                while True:
                    octets, said, _, (interface, protocol, kind, *_) = seeing.recvmsg(256, 256)
                    at = next(s + n / 1e9 for _, _, data in said for s, n in [struct.unpack("@qq", data)])
                    note(found, octets, at, is_tunnel=interface != "eth0", protocol=protocol, kind=kind)
            return found

        yield take


_TIMESTAMPS: Final = 35  # SO_TIMESTAMPNS


def note(found: Seen, octets: bytes, at: float, *, is_tunnel: bool, protocol: int, kind: int) -> None:
    """Note a packet, if it is one of those that count."""
    if protocol != _IPV4:
        return
    payload = octets[4 * (octets[0] & 15) :]
    if is_tunnel and kind == socket.PACKET_HOST and octets[9] == _TCP and payload[13] & 0x3F == _SYN_ACK:
        found.connections.append(at)
    if kind == socket.PACKET_OUTGOING and octets[9] == _UDP and payload[8:12] == b"\1\0\0\0":
        found.handshakes.append(at)  # a message of that type begins a handshake


def figures(runs: int) -> list[Figure]:
    """The time to the first connection, in turn, and a join's stages."""
    floors, firsts, members, stages = [], [], [], []
    with Lab() as lab:
        control, faulty = make_mesh(lab)
        member = lab.machine("machine-b", "192.168.0.201")
        far = lab.machine("machine-c", "192.168.0.202")
        make_floor(far, member)
        for _ in range(runs):
            floors.append(run_script(member))
            marks = run_join(faulty, control, member)
            firsts.append(marks[3] - marks[0])
            members.append(marks[4] - marks[0])
            stages.append([1000 * (end - begun) for begun, end in itertools.pairwise(marks)])
    floor = 1000 * statistics.median(floors)
    first, as_member = (1000 * statistics.median(taken) for taken in (firsts, members))
    size = f"{runs} times"
    return [
        Figure("first connection through the tunnel", size, first, floor, "ms", "", None),
        Figure("first connection as a member", size, as_member, floor, "ms", "", None),
        *(
            Figure(f"of a join: {name}", size, statistics.median(taken), None, "ms", "", None)
            for name, taken in zip(STAGES, zip(*stages, strict=True), strict=True)
        ),
    ]


def make_floor(far: Machine, near: Machine) -> None:
    """Two machines with the keys of each other, of which the far one has its tunnel and a service."""
    keys = [far.run(["wg", "genkey"]).stdout.strip() for _ in range(2)]
    public = [far.run(["wg", "pubkey"], input=key).stdout.strip() for key in keys]
    for machine, own, other, rest in (
        (far, keys[0], public[1], "AllowedIPs = 10.99.0.2/32"),
        (near, keys[1], public[0], f"AllowedIPs = 10.99.0.1/32\nEndpoint = {far.ipv4}:51999"),
    ):
        text = f"[Interface]\nPrivateKey = {own}\nListenPort = 51999\n[Peer]\nPublicKey = {other}\n{rest}\n"
        machine.write("/root/floor.conf", text, 0o600)
    far.run(["bash", "-c", _SCRIPT.format(number=1)])
    far.start(["python", TOOLS / "service.py", str(PORT)]).wait_for("ready", timeout=20)


def run_script(machine: Machine) -> float:
    """Seconds from the script's start until it has its connection; the machine is bare again then."""
    with packets_of(machine) as take:
        begun = time.time()
        machine.start(["bash", "-c", _SCRIPT.format(number=2) + _CONNECT]).wait(60)
        first, *_ = take().connections
    machine.run(["ip", "link", "delete", "floor0"])
    wait_until(lambda: not machine.processes(TUNNEL))
    return first - begun


def run_join(faulty: Faulty, control: Machine, machine: Machine) -> tuple[float, ...]:
    """When a join began and had come to each of its stages; the machine is bare again then."""
    faulty("remove", machine.name)
    invite(control, machine, "--workers", "4")
    with packets_of(machine) as take:
        begun = time.time()
        joining = machine.start(["qmesh", "join", "invitation"])
        assert joining.wait(60) == 0, joining.error_output()
        ended = time.time()
        seen = take()
    own_key = machine.path(f"{STATE}/private.key").stat().st_mtime
    first, *later = seen.connections
    _, own, *_ = seen.handshakes
    marks = (begun, own_key, seen.handshakes[0], first, next(at for at in later if at > own), ended)
    reset(machine)
    return marks
