"""How long `qmesh check --all` waits for a control node with many members, all of which wait for news."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import threading
import time
from collections import Counter

from benchmarks import sample
from benchmarks.measuring import Figure, resident_mb

from qmesh.agent.audit.collection import Collector
from qmesh.agent.daemon.loop_events import LookRequests
from qmesh.agent.daemon.membership.api import ControlNode
from qmesh.host.api import collection
from qmesh.host.api.messages import ASKED_FINDINGS, CAN_REPORT, FINDINGS, MEMBERSHIP
from qmesh.host.api.server import Collection, Service
from qmesh.host.registry import Registry
from qmesh.host.state.directory import State
from qmesh.host.system import agent_notify
from qmesh.mesh.audit.findings import Finding
from qmesh.mesh.protocol.findings_report import FindingsReport, encrypt_report
from qmesh.mesh.values import Secret

PORT = 51820
CONTROL = str(sample.NETWORK[1])
MOST_S = 10.0
OWN = 1
"""The process as which a row is measured."""
FINDING = Finding("clock", "warning", "a" * 40, "b" * 90, "c" * 90, "d" * 90)
REPORT = FindingsReport(revision=1, findings=(FINDING,) * 3)


def figures(members: int) -> list[Figure]:
    """The service over the registry, with every member a connection that waits; and one `check --all`."""
    state = sample.control_node(members, workers=1)
    # Every address of the mesh is one of this machine's, so that each member asks from its own.
    subprocess.run(["ip", "route", "add", "local", str(sample.NETWORK), "dev", "lo"], check=True)
    service = _serve(state)
    with Registry(state.registry_file) as registry:
        revision = registry.revision()
    crowd = threading.Thread(target=lambda: asyncio.run(_be_members(members, revision)), daemon=True)
    crowd.start()
    _ready.wait(120)
    began = time.monotonic()
    reports = list(collection.collect_reports(state.directory))
    taken = time.monotonic() - began
    service.stop()
    assert sum(each.report is not None for each in reports) == members, _describe(reports)
    work, size = "findings of all members, three each", f"{members:,}"
    return [
        Figure(work, size, taken, None, "s", f"< {MOST_S:.0f} s", taken < MOST_S),
        Figure("service and members in one process, memory", size, resident_mb(OWN), None, "MB", "", None),
    ]


def _serve(state: State) -> Service:
    service = Service(
        ControlNode(state, changed=lambda: None, turns=LookRequests(lambda: None)),
        address=CONTROL,
        port=PORT,
        interface="lo",
        told=agent_notify.listen(state.directory),
        collection=Collection(collection.listen(state.directory), Collector(state, own="control")),
    )
    service.start()
    return service


_ready = threading.Event()


async def _be_members(members: int, revision: int) -> None:
    waiting = 0

    async def be_member(number: int) -> None:
        nonlocal waiting
        address, shared = str(sample.NETWORK[number + 1]), Secret(sample.key(10**6 + number + 1))
        poll = f"GET {MEMBERSHIP}?newer_than={revision}&wait=50 HTTP/1.1\r\nHost: a\r\n"
        poll += f"{CAN_REPORT}: findings\r\n\r\n"
        reader, writer = await _connect(address)
        writer.write(poll.encode())
        await writer.drain()
        waiting += 1
        if waiting == members:
            _ready.set()
        answer = (await reader.read()).decode("latin-1")
        writer.close()
        request = answer.partition(f"{ASKED_FINDINGS}: ")[2].partition("\r\n")[0]
        body = encrypt_report(REPORT, request, shared, nonce=secrets.token_bytes(12))
        reader, writer = await _connect(address)
        head = f"POST {FINDINGS} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await reader.read()
        writer.close()

    await asyncio.gather(*(be_member(number) for number in range(1, members + 1)))


async def _connect(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(CONTROL, PORT, local_addr=(address, 0))


def _describe(reports: list[collection.CollectedReport]) -> Counter[str]:
    return Counter(each.silence or "reported" for each in reports)
