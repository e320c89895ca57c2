"""What of an agent's knowledge its operator is told, as conditions and changes.

The control node tells of the cluster: of machines, workers and who joins. Each machine tells of itself what
no other knows: its guard and its findings. A member tells besides when it does not hear the control node,
which cannot do that itself. So nothing is told by two machines.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from qmesh.mesh.audit.findings import Finding
from qmesh.mesh.events.mesh_events import describe_author
from qmesh.mesh.inventory import Inventory, list_workers
from qmesh.mesh.links.activity import QUIET_S, SILENT_S, LinkReport
from qmesh.mesh.metrics.snapshot import WorkerSample
from qmesh.mesh.node_processes.answers import list_undialled_machines
from qmesh.mesh.node_processes.silence import SILENCE_WORDS
from qmesh.mesh.notifications.change import ChangeKind, Condition, Key, ToldChange, cut_text
from qmesh.mesh.notifications.tracker import Absence, ConditionTracker
from qmesh.mesh.view.cluster_view import EventView

MOST_FINDINGS: Final = 200
"""Of one check; a local user can have as many as he opens ports."""
TOLD_OTHERWISE: Final = frozenset(
    {
        "peer-silent",
        "worker-silent",
        "guard-missing",
        "guard-drift",
        "guard-outdated",
        "guard-held",
        "guard-not-first",
    }
)
"""Codes of findings that are a kind of change of their own. guard-boot is not: it may be about a unit."""

_ALIVE: Final = frozenset({"absent", "elsewhere", "refused", "rejected", "stopped", "down"})
"""Why a worker does not answer, where its machine is there: else the machine may be about to be silent."""
_UNSURE_S: Final = QUIET_S + 15.0

TOLD_EVENTS: Final[tuple[ChangeKind, ...]] = ("joined", "replaced", "removed", "restored")
"""Events of the registry that are told."""


def note_machines(
    tracker: ConditionTracker,
    inventory: Inventory,
    name: str,
    links: LinkReport,
    heard: Collection[str],
    *,
    after_s: float,
) -> None:
    """Machines of which nothing comes. name: of this machine; heard: keys of those of which something did.

    after_s: seconds that one has to be back.
    """
    expected = {
        machine.name: machine.public_key
        for machine in (inventory.machines if name == inventory.control else (inventory.control_node,))
        if machine.name != name and machine.state == "active"
    }
    silent = {*(link.public_key for link in links.silent), *links.quiet}

    def judge(key: Key) -> Absence:
        if key[1] not in expected:
            return "gone"
        return "ended" if expected[key[1]] in heard else "unknown"

    tracker.observe(
        "peer-silent",
        (Condition("peer-silent", machine) for machine, key in expected.items() if key in silent),
        patience_s=SILENT_S - QUIET_S,
        ended_s=after_s,
        judge=judge,
    )


def note_workers(
    tracker: ConditionTracker,
    inventory: Inventory,
    links: LinkReport,
    workers: Iterable[WorkerSample],
    *,
    after_s: float,
) -> None:
    """Workers that do not answer, by a new look at all; those of a machine that is silent say nothing."""
    unheard = list_undialled_machines(inventory, links)
    expected = {(each.machine, str(each.core)) for each in list_workers(inventory)}
    silent, alive = [], set()
    for sample in workers:
        worker = sample.machine, str(sample.core)
        if sample.seconds is not None:
            alive.add(worker)
        elif worker in expected and sample.machine not in unheard:
            is_there = sample.why in _ALIVE or sample.machine == inventory.control
            silent.append(
                Condition(
                    "worker-silent",
                    *worker,
                    detail=SILENCE_WORDS[sample.why],
                    least_s=0.0 if is_there else _UNSURE_S,
                )
            )

    def judge(key: Key) -> Absence:
        if key[1:] not in expected:
            return "gone"
        return "ended" if key[1:] in alive else "unknown"

    tracker.observe("worker-silent", silent, patience_s=after_s, judge=judge)


def forget_workers(tracker: ConditionTracker) -> None:
    """Have this machine tell of no workers any more: it is not the control node."""
    tracker.observe("worker-silent", (), patience_s=0.0, judge=lambda _: "gone")


def note_guard(tracker: ConditionTracker, name: str, *, is_whole: bool, after_s: float) -> None:
    """This machine's guard, by a new look at it."""
    broken = () if is_whole else (Condition("guard-not-whole", name),)
    tracker.observe("guard-not-whole", broken, patience_s=after_s)


def note_findings(
    tracker: ConditionTracker, name: str, findings: Iterable[Finding], *, after_s: float
) -> None:
    """What a new check of this machine found: told when the next one finds it too."""
    serious = sorted(
        (each for each in findings if each.severity != "info" and each.code not in TOLD_OTHERWISE),
        key=lambda each: (each.severity, each.code, each.subject),
    )
    conditions = {
        condition.key: condition for condition in (_build_condition(name, each) for each in serious)
    }
    tracker.observe(
        "finding",
        list(conditions.values())[:MOST_FINDINGS],
        patience_s=after_s,
        judge=lambda key: "unknown" if key in conditions else "ended",
    )


def _build_condition(name: str, finding: Finding) -> Condition:
    return Condition(
        "finding",
        name,
        subject=f"{finding.code} {cut_text(finding.subject)}",
        code=finding.code,
        severity=finding.severity,
        detail=cut_text(finding.seen),
        fix=cut_text(finding.cure),
    )


def list_membership_changes(events: Iterable[EventView], *, control: str) -> tuple[ToldChange, ...]:
    """What is told of these events."""
    return tuple(
        ToldChange(
            at=max(0, event.at),
            kind=kind,
            phase="happened",
            machine=event.machine or control,
            detail=_describe_origin(event),
        )
        for event in events
        for kind in TOLD_EVENTS
        if event.what == kind
    )


def _describe_origin(event: EventView) -> str:
    words = (event.address and f"at {event.address}", describe_author(event.command, event.user))
    return ", ".join(cut_text(each) for each in words if each)
