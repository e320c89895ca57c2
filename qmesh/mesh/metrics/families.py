"""The metrics: which there are, and what each has of a snapshot.

WireGuard's three have the names and labels of the exporter that others copy, so that its dashboards fit. No
metric has an endpoint, a path or a secret.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Final, Literal, NamedTuple, TypeAlias

from qmesh.mesh.desired import host_network
from qmesh.mesh.inventory import list_members
from qmesh.mesh.machine import Machine
from qmesh.mesh.machine_facts.differences import list_fresh_facts
from qmesh.mesh.machine_facts.facts import MachineFacts, WorkerFacts
from qmesh.mesh.metrics.snapshot import Snapshot, WorkerSample
from qmesh.mesh.standing_proof.record import ClaimState
from qmesh.mesh.state import Counters

MetricKind: TypeAlias = Literal["counter", "gauge"]
Sample: TypeAlias = tuple[tuple[str, ...], float]
"""The labels' values, in their order, and the value."""

_PEER_LABELS: Final = ("interface", "public_key", "allowed_ips", "friendly_name")


class Metric(NamedTuple):
    """One metric. on: the machines that have it. find: its samples; none where nothing is known."""

    name: str
    kind: MetricKind
    help: str
    labels: tuple[str, ...]
    on: Literal["all", "control node"]
    find: Callable[[Snapshot], Iterable[Sample]]


class MetricFamily(NamedTuple):
    """A metric's samples in a snapshot."""

    metric: Metric
    samples: tuple[Sample, ...]


def build_families(snapshot: Snapshot) -> Iterator[MetricFamily]:
    """All metrics that have a sample, in the order of `METRICS`, one by one: each may be large."""
    for metric in METRICS:
        samples = tuple(metric.find(snapshot))
        if samples:
            yield MetricFamily(metric, samples)


def _list_others(snapshot: Snapshot) -> tuple[Machine, ...]:
    """The members that this one has a tunnel to: on the control node all others, elsewhere that one."""
    mesh = snapshot.inventory
    others = list_members(mesh) if snapshot.name == mesh.control else mesh.hubs
    return tuple(each for each in others if each.name != snapshot.name)


def _list_active_others(snapshot: Snapshot) -> tuple[Machine, ...]:
    return tuple(each for each in _list_others(snapshot) if each.state == "active")


def _find_peers(snapshot: Snapshot, read: Callable[[Counters], float]) -> Iterator[Sample]:
    counters = snapshot.counters or {}
    for each in _list_others(snapshot):
        if each.public_key in counters:
            labels = snapshot.interface, each.public_key, host_network(each.address), each.name
            yield labels, read(counters[each.public_key])


def _find_build(snapshot: Snapshot) -> Iterator[Sample]:
    yield (snapshot.version, snapshot.inventory.node), 1


def _find_look(snapshot: Snapshot) -> Iterator[Sample]:
    if snapshot.looked_at is not None:
        yield (), round(snapshot.looked_at, 1)


def _find_guard(snapshot: Snapshot) -> Iterator[Sample]:
    if snapshot.guard_ok is not None:
        yield (), snapshot.guard_ok


def _find_claims(snapshot: Snapshot, state: ClaimState) -> Iterator[Sample]:
    """No word that one is proved where rules have changed since: it would be read as if it held now."""
    proof = snapshot.proof
    if proof is not None:
        for each in proof.claims:
            if proof.behind_s is None or not state == each.state == "proved":
                yield (each.claim,), each.state == state


def _find_proof(snapshot: Snapshot) -> Iterator[Sample]:
    if snapshot.proof is not None and snapshot.proof.claims:
        yield (), round(snapshot.proof.at, 1)


def _find_drops(snapshot: Snapshot) -> Iterator[Sample]:
    for chain, packets in sorted((snapshot.dropped or {}).items()):
        yield (chain,), packets


def _find_machines(snapshot: Snapshot) -> Iterator[Sample]:
    mesh = snapshot.inventory
    for each in _list_known(snapshot):
        role = "control" if each.name == mesh.control else "worker"
        told = snapshot.facts.get(each.address)
        facts = MachineFacts() if told is None else told.facts
        cores = "" if facts.cores is None else str(facts.cores)
        known = facts.qmesh, facts.node, facts.kernel, facts.cpu, cores
        yield (each.name, role, each.state, *known), 1


def _list_known(snapshot: Snapshot) -> tuple[Machine, ...]:
    """This machine, and those that it has a tunnel to."""
    return (snapshot.inventory.machine(snapshot.name), *_list_others(snapshot))


def _list_fresh_facts(snapshot: Snapshot) -> dict[str, MachineFacts]:
    """Of who tells no more, neither load nor free memory is known."""
    return list_fresh_facts(snapshot.inventory, snapshot.facts.values())


def _find_facts(snapshot: Snapshot, read: Callable[[MachineFacts], float | None]) -> Iterator[Sample]:
    for name, facts in _list_fresh_facts(snapshot).items():
        value = read(facts)
        if value is not None:
            yield (name,), value


def _find_worker_facts(snapshot: Snapshot, read: Callable[[WorkerFacts], float | None]) -> Iterator[Sample]:
    for name, facts in _list_fresh_facts(snapshot).items():
        for each in facts.workers:
            value = read(each)
            if value is not None:
                yield (name, str(each.core)), value


def _find_heard(snapshot: Snapshot) -> Iterator[Sample]:
    if snapshot.links is not None:
        silent = {link.public_key for link in snapshot.links.silent}
        for each in _list_active_others(snapshot):
            yield (each.name,), each.public_key not in silent


def _find_agents(snapshot: Snapshot) -> Iterator[Sample]:
    if snapshot.unasked is not None:
        for each in _list_others(snapshot):
            yield (each.name,), each.address not in snapshot.unasked


def _find_revision(snapshot: Snapshot) -> Iterator[Sample]:
    yield (), snapshot.inventory.revision


def _find_revisions(snapshot: Snapshot) -> Iterator[Sample]:
    held = snapshot.revisions or {}
    for each in _list_others(snapshot):
        if each.address in held:
            yield (each.name,), held[each.address]


def _list_workers(snapshot: Snapshot) -> Iterator[WorkerSample]:
    """Those of machines that have workers now: one that was removed or paused since is no silent one."""
    cores = snapshot.inventory.cores
    return (each for each in snapshot.workers or () if each.machine in cores)


def _find_workers(snapshot: Snapshot) -> Iterator[Sample]:
    for each in _list_workers(snapshot):
        yield (each.machine, str(each.core)), each.seconds is not None


def _find_answers(snapshot: Snapshot) -> Iterator[Sample]:
    for each in _list_workers(snapshot) if snapshot.is_dialled else ():
        if each.seconds is not None:
            yield (each.machine, str(each.core)), round(each.seconds, 6)


def _find_findings(snapshot: Snapshot) -> Iterator[Sample]:
    yield from sorted(Counter((each.code, each.severity) for each in snapshot.findings or ()).items())


def _find_check(snapshot: Snapshot) -> Iterator[Sample]:
    if snapshot.checked_at is not None:
        yield (), round(snapshot.checked_at, 1)


METRICS: Final = (
    Metric(
        "qmesh_build_info",
        "gauge",
        "Always 1. The version of qmesh, and the node's profile.",
        ("version", "node"),
        "all",
        _find_build,
    ),
    Metric(
        "qmesh_agent_last_look_timestamp_seconds",
        "gauge",
        "When the agent last looked at its machine from begin to end, in seconds since 1970.",
        (),
        "all",
        _find_look,
    ),
    Metric(
        "qmesh_guard_ok",
        "gauge",
        "Whether the guard is whole: both of its tables and its file are as they should be.",
        (),
        "all",
        _find_guard,
    ),
    Metric(
        "qmesh_claim_proved",
        "gauge",
        "Whether a claim of `qmesh prove` is proved by this machine's rules. None once they have changed.",
        ("claim",),
        "all",
        partial(_find_claims, state="proved"),
    ),
    Metric(
        "qmesh_claim_refuted",
        "gauge",
        "Whether a packet breaks a claim of `qmesh prove`. One that is neither is not known.",
        ("claim",),
        "all",
        partial(_find_claims, state="refuted"),
    ),
    Metric(
        "qmesh_claims_last_proof_timestamp_seconds",
        "gauge",
        "When the agent proved the claims last.",
        (),
        "all",
        _find_proof,
    ),
    Metric(
        "qmesh_guard_dropped_packets_total",
        "counter",
        "Packets that the guard has dropped since its tables were loaded, by chain.",
        ("chain",),
        "all",
        _find_drops,
    ),
    Metric(
        "qmesh_findings",
        "gauge",
        "Findings of the last check of this machine, by code and severity.",
        ("code", "severity"),
        "all",
        _find_findings,
    ),
    Metric(
        "qmesh_findings_timestamp_seconds",
        "gauge",
        "When that check was, in seconds since 1970.",
        (),
        "all",
        _find_check,
    ),
    Metric(
        "qmesh_revision",
        "gauge",
        "The revision of the membership that this machine has.",
        (),
        "all",
        _find_revision,
    ),
    Metric(
        "qmesh_machine_info",
        "gauge",
        "Always 1. This machine, and those that it has a tunnel to: role, state, versions, CPU.",
        ("machine", "role", "state", "qmesh", "node", "kernel", "cpu", "cores"),
        "all",
        _find_machines,
    ),
    Metric(
        "qmesh_machine_up",
        "gauge",
        "Whether something came through the tunnel from that machine within the last 3 minutes.",
        ("machine",),
        "all",
        _find_heard,
    ),
    Metric(
        "qmesh_member_agent_up",
        "gauge",
        "Whether that member's agent asks this control node for the membership.",
        ("machine",),
        "control node",
        _find_agents,
    ),
    Metric(
        "qmesh_member_revision",
        "gauge",
        "The revision that the member has said it holds, since this control node's agent started.",
        ("machine",),
        "control node",
        _find_revisions,
    ),
    Metric(
        "qmesh_worker_up",
        "gauge",
        "Whether the data worker answers; on a member whether it listens.",
        ("machine", "core"),
        "all",
        _find_workers,
    ),
    Metric(
        "qmesh_worker_answer_seconds",
        "gauge",
        "Seconds until the data worker accepted a connection through the tunnel.",
        ("machine", "core"),
        "control node",
        _find_answers,
    ),
    Metric(
        "qmesh_machine_core_speed",
        "gauge",
        "Verifications of an Ed25519 signature in a second of one core, measured every 6 hours.",
        ("machine",),
        "all",
        lambda snapshot: _find_facts(snapshot, lambda each: each.core_speed),
    ),
    Metric(
        "qmesh_machine_load",
        "gauge",
        "Processes that run or wait to, on average of a minute.",
        ("machine",),
        "all",
        lambda snapshot: _find_facts(snapshot, lambda each: each.load),
    ),
    Metric(
        "qmesh_machine_memory_bytes",
        "gauge",
        "Memory of the machine.",
        ("machine",),
        "all",
        lambda snapshot: _find_facts(snapshot, lambda each: each.memory_bytes),
    ),
    Metric(
        "qmesh_machine_memory_available_bytes",
        "gauge",
        "Memory that programs can have without swapping.",
        ("machine",),
        "all",
        lambda snapshot: _find_facts(snapshot, lambda each: each.memory_available_bytes),
    ),
    Metric(
        "qmesh_machine_disk_free_bytes",
        "gauge",
        "Room on the disk with the node's config.yml, for others than root.",
        ("machine",),
        "all",
        lambda snapshot: _find_facts(snapshot, lambda each: each.disk_free_bytes),
    ),
    Metric(
        "qmesh_worker_memory_bytes",
        "gauge",
        "Memory that the data worker has alone, without what it shares with others or with files.",
        ("machine", "core"),
        "all",
        lambda snapshot: _find_worker_facts(snapshot, lambda each: each.memory_bytes),
    ),
    Metric(
        "qmesh_worker_restarts_total",
        "counter",
        "How often another process has taken the data worker's place since the agent there started.",
        ("machine", "core"),
        "all",
        lambda snapshot: _find_worker_facts(snapshot, lambda each: each.restarts),
    ),
    Metric(
        "wireguard_sent_bytes_total",
        "counter",
        "Bytes sent to the peer.",
        _PEER_LABELS,
        "all",
        lambda snapshot: _find_peers(snapshot, lambda each: each.tx_bytes),
    ),
    Metric(
        "wireguard_received_bytes_total",
        "counter",
        "Bytes received from the peer.",
        _PEER_LABELS,
        "all",
        lambda snapshot: _find_peers(snapshot, lambda each: each.rx_bytes),
    ),
    Metric(
        "wireguard_latest_handshake_seconds",
        "gauge",
        "When the last handshake with the peer was, in seconds since 1970; 0 if never.",
        _PEER_LABELS,
        "all",
        lambda snapshot: _find_peers(snapshot, lambda each: each.last_handshake_s or 0),
    ),
)
"""All that there are, in the order in which they are printed, and in docs/monitoring.md."""
