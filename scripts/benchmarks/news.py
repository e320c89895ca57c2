"""How news of a mesh spreads: to two thousand members at the service, and to fifty real machines."""

from __future__ import annotations

import asyncio
import base64
import json
import multiprocessing
import resource
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks import sample
from benchmarks.agent import resident_mb
from benchmarks.joins import percentile
from benchmarks.measuring import Figure

from qmesh.agent.serving import ControlNode, Turns
from qmesh.host import telling
from qmesh.host.channel.service import Service
from qmesh.host.records import Settings
from qmesh.host.registry import Registry
from qmesh.host.state import State
from qmesh.mesh.changes import with_worker_count
from qmesh.mesh.membership import read_update, sign_membership, stored, updated
from tests.lab.cluster import STATE, facts, invite, make_control, qmesh
from tests.lab.machines import Lab, Machine

MEMBERS, CHANGES = 2000, 100
MACHINES, TIMES = 50, 10
MOST_SHARE = 0.05
MOST_INFORMED_S, MOST_REMOVED_S = 3, 2


ASK = """
import socket, time
while True:
    try:
        socket.create_connection(("10.77.0.1", 51820), timeout=0.2).close()
        print(time.time(), flush=True)
    except OSError:
        pass
    time.sleep(0.01)
"""
"""Says when it was answered through the tunnel, a hundred times a second."""


class Asking:
    """Members that ask and wait, each from its own address, and count what they are sent."""

    def __init__(self, revision: int) -> None:
        self.octets = 0
        self.held = [revision] * MEMBERS
        self.wanted = revision
        self.all_have_it = asyncio.Event()
        self.answer = b""

    async def member(self, number: int) -> None:
        """Ask for ever."""
        source = str(sample.NETWORK[number + 2])
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", 51820, local_addr=(source, 0))
            asked = f"/v1/membership?newer_than={self.held[number]}&wait=50&whole=0"
            writer.write(f"GET {asked} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            answer = await reader.read()
            writer.close()
            head, _, body = answer.partition(b"\r\n\r\n")
            assert head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 204")), head
            if number == 0:
                self.answer = body
            self.octets += len(answer)
            if b" 200 " in head[:20]:
                self.held[number] = self.wanted
            if min(self.held) == self.wanted:
                self.all_have_it.set()


def serve(state: State, ready: multiprocessing.synchronize.Event) -> None:
    """The control node's service, from a registry, on loopback."""
    node = ControlNode(state, changed=lambda: None, turns=Turns(lambda: None))
    told = telling.listen(state.directory)
    Service(node, address="127.0.0.1", port=51820, interface="lo", told=told).start()
    ready.set()
    time.sleep(86400)


def at_the_service() -> list[Figure]:
    """A hundred changes, one after the other, each with all members before the next."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a connection for each member
    subprocess.run(["ip", "route", "add", "local", str(sample.NETWORK), "dev", "lo"], check=True)
    with tempfile.TemporaryDirectory() as directory:
        state = State(Path(directory))
        key = state.make_signing_key()
        mesh = sample.inventory(MEMBERS, workers=4)
        Registry.create(state.registry_file, mesh, now=int(time.time()))
        settings = Settings(
            mesh=mesh.mesh,
            name=mesh.control,
            control=True,
            interface="lo",
            listen_port=51820,
            verification_key=key.public_key().public_bytes_raw(),
        )
        state.save_settings(settings)
        context = multiprocessing.get_context("fork")
        ready = context.Event()
        process = context.Process(target=serve, args=(state, ready), daemon=True)
        process.start()
        ready.wait()
        assert process.pid is not None
        before = resident_mb(process.pid)
        asking, took, megabytes = asyncio.run(_changes(state, process.pid))
        process.kill()
        process.join()
        whole = len(stored(sign_membership(mesh, key)))
    sent, full = asking.octets / 1e6, CHANGES * MEMBERS * whole / 1e6
    size = f"{MEMBERS:,} members"
    return [
        Figure(
            f"sent for {CHANGES} changes, beside whole documents",
            size,
            sent,
            full,
            "MB",
            f"<= {MOST_SHARE} x",
            sent <= MOST_SHARE * full,
        ),
        Figure(
            "a change, until all of them know, median", size, statistics.median(took), None, "s", "", None
        ),
        Figure("the same, the longest", size, max(took), None, "s", "", None),
        Figure("the service, while they wait, beside none", size, megabytes, before, "MB", "", None),
    ]


async def _changes(state: State, process: int) -> tuple[Asking, list[float], float]:
    asking = Asking(1)
    members = [asyncio.create_task(asking.member(number)) for number in range(MEMBERS)]
    await asyncio.sleep(10)
    megabytes = resident_mb(process)
    took = []
    held = sign_membership(sample.inventory(MEMBERS, workers=4), state.signing_key())
    with Registry(state.registry_file) as registry:
        for change in range(CHANGES):
            begun = time.perf_counter()
            asking.all_have_it.clear()
            asking.wanted += 1
            name = f"worker-{MEMBERS - change}"
            registry.change(
                lambda mesh, name=name: with_worker_count(mesh, name, 5),  # type: ignore[misc]
                command="set",
                what="machine-changed",
                machine=name,
                now=0,
            )
            await asyncio.to_thread(telling.tell, state.directory, wait_s=30)
            await asyncio.wait_for(asking.all_have_it.wait(), 60)
            took.append(time.perf_counter() - begun)
            held = updated(read_update(asking.answer), held)
            assert json.loads(held.payload)["revision"] == asking.wanted
    for member in members:
        member.cancel()
    await asyncio.gather(*members, return_exceptions=True)
    return asking, took, megabytes


def with_tunnels() -> list[Figure]:
    """Changes told to fifty machines, and machines removed while they send."""
    with Lab() as lab:
        control = make_control(lab)
        members = []
        for number in range(MACHINES):
            machine = lab.machine(f"m{number}", f"192.168.0.{10 + number}", f"fd00:1a::{10 + number}")
            invite(control, machine, "--workers", "1")
            qmesh(machine, "join", "invitation")
            members.append(machine)
        informed = [_informed(control, members, str(4 + turn)) for turn in range(TIMES)]
        removed = [_removed(control, machine) for machine in members[:TIMES]]
    size = f"{MACHINES} machines"
    longest, last = max(informed), max(removed)
    return [
        Figure("`qmesh set`, until all know, median", size, statistics.median(informed), None, "s", "", None),
        Figure(
            f"the same, the longest of {TIMES}",
            size,
            longest,
            None,
            "s",
            f"< {MOST_INFORMED_S} s",
            longest < MOST_INFORMED_S,
        ),
        Figure(
            "`qmesh remove`, until the last packet, median",
            size,
            statistics.median(removed),
            None,
            "s",
            "",
            None,
        ),
        Figure(
            f"the same, the longest of {TIMES}",
            size,
            last,
            None,
            "s",
            f"< {MOST_REMOVED_S} s",
            last < MOST_REMOVED_S,
        ),
        Figure("the same, 90th percentile", size, percentile(removed, 90), None, "s", "", None),
    ]


def _informed(control: Machine, members: list[Machine], workers: str) -> float:
    """Seconds from the command's start to the last file."""
    begun = time.perf_counter()
    revision = facts(control, "set", "control", "--workers", workers)["revision"]
    while any(_held(machine) != revision for machine in members):
        time.sleep(0.01)
    return time.perf_counter() - begun


def _held(machine: Machine) -> int:
    """The revision that a machine holds, read from outside it."""
    path = Path(f"/proc/{machine.pid}/root{STATE}/membership.json")
    payload = base64.b64decode(json.loads(path.read_text())["payload"])
    return int(json.loads(payload)["revision"])


def _removed(control: Machine, machine: Machine) -> float:
    """Seconds from the command's start to the last answer that the machine was given in the tunnel."""
    asking = machine.start(["python", "-c", ASK])
    asking.wait_for("\n", timeout=10)
    begun = time.time()
    qmesh(control, "remove", machine.name)
    time.sleep(0.5)
    asking.kill()
    return float(asking.output().splitlines()[-1]) - begun
