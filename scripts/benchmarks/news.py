"""How news of a mesh spreads to members that wait at one service, each from its own address.

The next change comes when all know the last.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import resource
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks import sample
from benchmarks.measuring import Figure, resident_mb

from qmesh.agent.daemon.loop_events import LookRequests
from qmesh.agent.daemon.membership.api import ControlNode
from qmesh.host.api.server import Service
from qmesh.host.registry import Registry
from qmesh.host.state.directory import State
from qmesh.host.state.documents import Settings
from qmesh.host.system import agent_notify
from qmesh.mesh.changes import set_worker_count
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.protocol.membership import apply_update, encode_membership, read_update, sign_membership

MOST_SHARE = 0.05
SETTLED_S = 0.005
"""For each member: after so long all of them wait."""


class Asking:
    """Members that ask and wait, each from its own address, and count what they are sent."""

    def __init__(self, members: int, revision: int) -> None:
        self.octets = 0
        self.held = [revision] * members
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
    node = ControlNode(state, changed=lambda: None, turns=LookRequests(lambda: None))
    told = agent_notify.listen(state.directory)
    Service(node, address="127.0.0.1", port=51820, interface="lo", told=told).start()
    ready.set()
    time.sleep(86400)


def figures(members: int, changes: int) -> list[Figure]:
    """Changes, one after the other, each with all members before the next."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a connection for each member
    subprocess.run(["ip", "route", "add", "local", str(sample.NETWORK), "dev", "lo"], check=True)
    mesh = sample.inventory(members, workers=4)
    state = control_node(mesh)
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=serve, args=(state, ready), daemon=True)
    process.start()
    assert ready.wait(30)
    assert process.pid is not None
    before = resident_mb(process.pid)
    asking, took, megabytes = asyncio.run(told(state, mesh, process.pid, changes))
    process.kill()
    whole = len(encode_membership(sign_membership(mesh, state.keys.read_signing_key())))
    sent, full = asking.octets / 1e6, changes * members * whole / 1e6
    size = f"{members:,} members"
    return [
        Figure(
            f"sent for {changes} changes, beside whole documents",
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


def control_node(mesh: Inventory) -> State:
    """The state of its control node, without a tunnel."""
    state = State(Path(tempfile.mkdtemp()))
    key = state.keys.ensure_signing_key()
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
    return state


async def told(
    state: State, mesh: Inventory, process: int, changes: int
) -> tuple[Asking, list[float], float]:
    """What was sent, seconds of each change, and megabytes of the service while all wait for the first."""
    count = len(mesh.machines) - 1
    asking = Asking(count, 1)
    members = [asyncio.create_task(asking.member(number)) for number in range(count)]
    await asyncio.sleep(SETTLED_S * count)
    megabytes = resident_mb(process)
    took = []
    held = sign_membership(mesh, state.keys.read_signing_key())
    with Registry(state.registry_file) as registry:
        for change in range(changes):
            begun = time.perf_counter()
            asking.all_have_it.clear()
            asking.wanted += 1
            name = f"worker-{count - change}"
            registry.change_mesh(
                lambda mesh, name=name: set_worker_count(mesh, name, 5),  # type: ignore[misc]
                command="set",
                what="machine-changed",
                machine=name,
                now=0,
            )
            await asyncio.to_thread(agent_notify.notify_agent, state.directory, wait_s=30)
            await asyncio.wait_for(asking.all_have_it.wait(), 60)
            took.append(time.perf_counter() - begun)
            held = apply_update(read_update(asking.answer), held)
            assert json.loads(held.payload)["revision"] == asking.wanted
    for member in members:
        member.cancel()
    await asyncio.gather(*members, return_exceptions=True)
    return asking, took, megabytes
