"""What the agent knows at one moment, as readers and the page may see it: built field by field."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from qmesh.mesh.audit.findings import Finding
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.machine import Machine
from qmesh.mesh.metrics.snapshot import Snapshot, WorkerSample
from qmesh.mesh.view.cluster_view import (
    ClusterView,
    EventView,
    FindingView,
    GuardView,
    MachineView,
    TunnelView,
    WorkerView,
    WorkerViewState,
)

RESTART_S: Final = 60.0
"""Seconds since a worker's last answer in which it counts as one that is being restarted."""
MOST_EVENTS: Final = 50
"""Events of a view, the newest."""
_GONE: Final = frozenset({"", "absent", "refused"})
"""Why a worker does not answer whose process has ended."""


def build_cluster_view(snapshot: Snapshot, events: Iterable[EventView] | None, *, at: float) -> ClusterView:
    """The view of a snapshot.

    events: of this mesh, oldest first; None where this machine has none. at: Unix time in seconds.
    """
    mesh = snapshot.inventory
    silent = None if snapshot.links is None else {link.public_key for link in snapshot.links.silent}
    samples: dict[str, dict[int, WorkerSample]] = {}
    for each in snapshot.workers or ():
        samples.setdefault(each.machine, {})[each.core] = each
    return ClusterView(
        at=at,
        looked_at=snapshot.looked_at,
        version=snapshot.version,
        mesh=mesh.mesh,
        name=snapshot.name,
        role="control" if snapshot.name == mesh.control else "worker",
        control=mesh.control,
        node=mesh.node,
        revision=mesh.revision,
        machines=tuple(
            _build_machine_view(snapshot, each, silent, samples.get(each.name, {}), at)
            for each in mesh.machines
        ),
        guard=GuardView(
            is_whole=snapshot.guard_ok,
            dropped=None if snapshot.dropped is None else dict(snapshot.dropped),
        ),
        findings=None if snapshot.findings is None else tuple(map(build_finding_view, snapshot.findings)),
        checked_at=snapshot.checked_at,
        events=None if events is None else tuple(events)[-MOST_EVENTS:],
    )


def build_finding_view(finding: Finding) -> FindingView:
    """A finding as it may be shown."""
    return FindingView(
        code=finding.code,
        severity=finding.severity,
        subject=finding.subject,
        wanted=finding.wanted,
        seen=finding.seen,
        cure=finding.cure,
        link=finding.link,
    )


def _build_machine_view(
    snapshot: Snapshot,
    machine: Machine,
    silent: Collection[str] | None,
    samples: Mapping[int, WorkerSample],
    at: float,
) -> MachineView:
    mesh = snapshot.inventory
    is_here = machine.name == snapshot.name
    told = snapshot.facts.get(machine.address)
    agent_up, agent_silent_s = _judge_agent(snapshot, machine, is_here=is_here)
    return MachineView(
        name=machine.name,
        role="control" if machine.name == mesh.control else "worker",
        state=machine.state,
        address=machine.address,
        tunnel=None if is_here else _build_tunnel_view(snapshot, machine, silent, at),
        revision=mesh.revision if is_here else (snapshot.revisions or {}).get(machine.address),
        agent_up=agent_up,
        agent_silent_s=agent_silent_s,
        workers=_build_worker_views(mesh, machine.name, samples, is_dialled=snapshot.is_dialled),
        facts=None if told is None else told.facts,
        facts_at=None if told is None else told.at,
    )


def _judge_agent(snapshot: Snapshot, machine: Machine, *, is_here: bool) -> tuple[bool | None, float | None]:
    """Whether a machine's agent is there; and the seconds since it asked, where those are too many."""
    if is_here:
        return (None if snapshot.looked_at is None else True), None
    if snapshot.unasked is None or machine.state == "invited":
        return None, None
    silent_s = snapshot.unasked.get(machine.address)
    return silent_s is None, silent_s


def _build_tunnel_view(
    snapshot: Snapshot, machine: Machine, silent: Collection[str] | None, at: float
) -> TunnelView | None:
    counters = (snapshot.counters or {}).get(machine.public_key)
    if counters is None:
        return None
    handshake = counters.last_handshake_s
    return TunnelView(
        handshake_s=None if handshake is None else max(0.0, round(at - handshake, 1)),
        received_bytes=counters.rx_bytes,
        sent_bytes=counters.tx_bytes,
        is_silent=None if silent is None or machine.state != "active" else machine.public_key in silent,
    )


def _build_worker_views(
    mesh: Inventory, name: str, samples: Mapping[int, WorkerSample], *, is_dialled: bool
) -> tuple[WorkerView, ...]:
    cores = mesh.cores.get(name)
    if cores is None:
        return ()
    ports = cores.ports(mesh.base_port)
    return tuple(
        _build_worker_view(core, port, samples.get(core), is_dialled=is_dialled)
        for core, port in zip(cores.numbers, ports, strict=True)
    )


def _build_worker_view(core: int, port: int, sample: WorkerSample | None, *, is_dialled: bool) -> WorkerView:
    if sample is None:
        return WorkerView(core=core, port=port, state="unknown")
    if sample.seconds is not None:
        answer_s = round(sample.seconds, 6) if is_dialled else None
        return WorkerView(core=core, port=port, state="alive", answer_s=answer_s)
    return WorkerView(core=core, port=port, state=_judge_silence(sample), why=sample.why)


def _judge_silence(sample: WorkerSample) -> WorkerViewState:
    is_lately = sample.answered_s is not None and sample.answered_s < RESTART_S
    return "restarting" if is_lately and sample.why in _GONE else "silent"
