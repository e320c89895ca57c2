"""What a node runner should know of a cluster that is as desired: one line each, only when it applies.

Source of the numbers: the node's published sources and what its runners go by; see docs/operating.md.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from qmesh.mesh.inventory import Inventory, worker_ports
from qmesh.mesh.ports.port_ranges import format_port_ranges
from qmesh.mesh.reachability.announcements import list_missing_announcements
from qmesh.mesh.reachability.unsupported_options import list_unsupported_options
from qmesh.mesh.values import name_cores

STEPS: Final = (128, 1024, 2048)
"""Workers above which each proof costs the cluster more (PolySize), before node 2.1."""
NEAR: Final = 16
"""Workers that are few enough to think of adding or leaving out."""
MEMORY_A_WORKER: Final = 2 * 10**9
DISK_A_WORKER: Final = 4 * 10**9
SLOW_S: Final = 0.1
UNLIKE: Final = 4
FEWEST_LIVE: Final = 3
"""Workers that answer, below which node 2.0 proves nothing."""


class AdviceInputs(msgspec.Struct, frozen=True, kw_only=True):
    """What this machine knows at the moment.

    has_handed_over: whether another machine is the control node, and has not answered here as that yet.
    memory, disk: its own, in octets, used or free; None where it is not known.
    latencies: seconds that a machine's workers take to answer, by name; alive: how many of all answer, or
        None where that was not measured: only the control node does.
    ephemeral: the first and last port that the kernel gives away, but for `reserved`.
    uncalled: cores whose workers answer, and that the control process has not called since it was started.
    """

    name: str
    has_handed_over: bool = False
    memory: int | None = None
    disk: int | None = None
    latencies: Mapping[str, float] = {}
    alive: int | None = None
    ephemeral: tuple[int, int] = (32768, 60999)
    reserved: frozenset[int] = frozenset()
    uncalled: tuple[int, ...] = ()


def list_advice(inventory: Inventory, here: AdviceInputs) -> tuple[str, ...]:
    """The lines, those about the whole cluster first."""
    return (
        *_advise_on_handover(inventory, here),
        *_advise_on_unsupported_options(inventory),
        *_advise_on_announcements(inventory),
        *_advise_on_worker_count(inventory),
        *_advise_on_live_workers(inventory, here),
        *_advise_on_uneven_machines(inventory),
        *_advise_on_slow_machines(here),
        *_advise_on_uncalled_workers(here),
        *_advise_on_this_machine(inventory, here),
    )


def _advise_on_handover(inventory: Inventory, here: AdviceInputs) -> Iterator[str]:
    if here.has_handed_over:
        yield (
            f"{inventory.successor} is the control node since revision {inventory.revision}, and has not"
            " answered here yet; if a different machine is the control node now, run"
            f" `qmesh invite {here.name} --replace` there"
        )
    elif inventory.successor is not None:
        yield (
            f"the control role is being handed over to {inventory.successor}, and the mesh can't be changed"
            f" until then; `qmesh handover {inventory.successor}` continues it, `qmesh handover --cancel`"
            " cancels it"
        )


def _advise_on_unsupported_options(inventory: Inventory) -> Iterator[str]:
    for each in list_unsupported_options(inventory):
        yield f"node {inventory.node} does not support {each.option}: {each.reason}; {each.hint}"


def _advise_on_announcements(inventory: Inventory) -> Iterator[str]:
    names = [each.machine for each in list_missing_announcements(inventory)]
    if names:
        shown = " and ".join((*names[:2], *([f"{len(names) - 2} more"] if len(names) > 2 else ())))
        yield (
            f"no other node can call the workers of {shown}: run `qmesh set {names[0]} --announce ADDRESS` on"
            f" {inventory.control}, with the address at which the internet reaches it"
        )


def _advise_on_worker_count(inventory: Inventory) -> Iterator[str]:
    if inventory.node not in {"1.4", "2.0"}:
        return
    count = sum(cores.count for cores in inventory.cores.values())
    if count > STEPS[-1]:
        yield (f"{count} workers: above {STEPS[-1]} performance falls steeply; run {count - STEPS[-1]} fewer")
        return
    top = next(step for step in STEPS if count <= step)
    below = max((step for step in STEPS if step < count), default=0)
    if below:
        yield (
            f"{count} workers: above {below} each proof costs more; {count - below} fewer avoid that, and"
            f" {top - count} more fit before the next rise"
        )
    elif 0 < top - count <= NEAR:
        yield f"{count} workers: above {top} each proof costs more; {top - count} more fit before that"


def _advise_on_live_workers(inventory: Inventory, here: AdviceInputs) -> Iterator[str]:
    if inventory.node == "2.0" and here.alive is not None and here.alive < FEWEST_LIVE:
        yield f"{here.alive} workers answer: node 2.0 proves nothing with fewer than {FEWEST_LIVE}"


def _advise_on_uneven_machines(inventory: Inventory) -> Iterator[str]:
    counts = {name: cores.count for name, cores in inventory.cores.items() if name != inventory.control}
    if len(counts) > 1:
        most, fewest = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
        if counts[most] >= UNLIKE * counts[fewest]:
            yield (
                f"{most} has {counts[most]} workers, {fewest} {counts[fewest]}:"
                " machines of a cluster should be alike, because the slowest core slows down all others"
            )


def _advise_on_slow_machines(here: AdviceInputs) -> Iterator[str]:
    slow = {name: latency for name, latency in here.latencies.items() if latency >= SLOW_S}
    if slow:
        said = ", ".join(f"{name} {latency * 1000:.0f} ms" for name, latency in sorted(slow.items()))
        usual = statistics.median(here.latencies.values()) * 1000
        yield (
            f"slow connection: {said} (the median is {usual:.0f} ms); above 100 ms a worker's answers come"
            " late"
        )


def _advise_on_uncalled_workers(here: AdviceInputs) -> Iterator[str]:
    if here.uncalled:
        yield (
            "since it was started, the control process was not seen connected to the workers of"
            f" {name_cores(here.uncalled)}:"
            " some builds of node 2.1 never call workers, newer ones do it every few seconds"
        )


def _advise_on_this_machine(inventory: Inventory, here: AdviceInputs) -> Iterator[str]:
    count = len(inventory.core_numbers(here.name))
    for what, there, each in (("memory", here.memory, MEMORY_A_WORKER), ("disk", here.disk, DISK_A_WORKER)):
        if there is not None and there < count * each:
            yield (
                f"{here.name} has {there / 10**9:.0f} GB of {what} for {count} workers: each needs"
                f" {each // 10**9} GB"
            )
    first, last = here.ephemeral
    loose = tuple(
        port
        for port in worker_ports(inventory, here.name)
        if first <= port <= last and port not in here.reserved
    )
    if loose:
        ports = format_port_ranges(loose)
        yield (
            f"an outgoing connection of {here.name} may take port {ports}: run `qmesh apply` there, which"
            " reserves it"
        )
