"""In what the machines of a mesh are unlike, and which of their workers need more memory than they should."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from qmesh.mesh.inventory import Inventory
from qmesh.mesh.machine_facts.facts import MachineFacts, ToldFacts, WorkerFacts
from qmesh.mesh.protocol.versions import rank_version

SLOW: Final = 0.67
"""Of what is usual for the others: a slower core holds back more than unlike measurements are apart."""
FULL: Final = 0.9
"""Of a machine's memory: with so much in its workers the kernel soon ends one of them."""
LARGE: Final = 3.0
"""Times the memory of the machine's usual worker."""
LEAST_LARGE: Final = 2 * 10**9
"""Bytes that a worker may have in any case."""
_FEWEST: Final = 3
"""Workers of which one is unlike the others."""


FRESH_S: Final = 900.0
"""Seconds for which what a machine told is how it is: it tells that every five minutes."""


class MachineGroup(NamedTuple):
    """Machines that are alike in something. value: what they have."""

    value: str
    machines: tuple[str, ...]


class SlowMachine(NamedTuple):
    """A machine with a slow core. usual: the median of the others; both as of `core_speed`."""

    machine: str
    cpu: str
    speed: int
    usual: int


def list_fresh_facts(inventory: Inventory, told: Iterable[ToldFacts]) -> dict[str, MachineFacts]:
    """By machine what is known that is not older than `FRESH_S`, in the order of the mesh.

    This machine's own are among them, and always new.
    """
    known = {each.address: each for each in told}
    newest = max((each.at for each in known.values()), default=0.0)
    machines = ((each.name, known.get(each.address)) for each in inventory.machines)
    return {name: each.facts for name, each in machines if each is not None and newest - each.at < FRESH_S}


def group_versions(facts: Mapping[str, MachineFacts]) -> tuple[MachineGroup, ...]:
    """Which version of qmesh which machines have, the newest first; none where all known are the same."""
    return _group({name: each.qmesh for name, each in facts.items()}, rank_version)


def group_node_versions(facts: Mapping[str, MachineFacts]) -> tuple[MachineGroup, ...]:
    """The same of the node's program."""
    return _group({name: each.node for name, each in facts.items()}, _rank_node_version)


def group_node_files(facts: Mapping[str, MachineFacts]) -> tuple[MachineGroup, ...]:
    """Where programs of the node are of one version and processor, and other files all the same: by digest.

    For other processors the same version is another file.
    """
    kinds: dict[tuple[str, str], dict[str, str]] = {}
    for name, each in facts.items():
        if each.node and each.architecture:
            kinds.setdefault((each.node, each.architecture), {})[name] = each.node_digest
    return tuple(group for digests in kinds.values() for group in _group(digests, str))


def _group(values: Mapping[str, str], rank: Callable[[str], Any]) -> tuple[MachineGroup, ...]:
    found: dict[str, list[str]] = {}
    for name, value in sorted(values.items()):
        if value:
            found.setdefault(value, []).append(name)
    newest_first = sorted(found, key=rank, reverse=True)
    return tuple(MachineGroup(each, tuple(found[each])) for each in newest_first) if len(found) > 1 else ()


def _rank_node_version(text: str) -> tuple[list[int], str]:
    return [int(number) for number in re.findall("[0-9]{1,9}", text)], text


def find_slow_machines(facts: Mapping[str, MachineFacts]) -> Iterator[SlowMachine]:
    """The machines that run workers on slow cores: the work of all ends with the slowest."""
    speeds = {name: each.core_speed for name, each in facts.items() if each.core_speed and each.workers}
    for name, speed in speeds.items():
        others = [other for each, other in speeds.items() if each != name]
        usual = statistics.median_low(others) if others else 0
        if speed < SLOW * usual:
            yield SlowMachine(name, facts[name].cpu, speed, usual)


def sum_worker_memory(facts: MachineFacts) -> int | None:
    """Bytes of all workers, where that is nearly all that the machine has; else None."""
    total = sum(each.memory_bytes or 0 for each in facts.workers)
    return total if facts.memory_bytes and total > FULL * facts.memory_bytes else None


def find_large_workers(facts: MachineFacts) -> tuple[tuple[WorkerFacts, ...], int]:
    """The workers that have several times the memory of this machine's usual one; and what that one has."""
    known = [each.memory_bytes for each in facts.workers if each.memory_bytes]
    usual = round(statistics.median(known)) if len(known) >= _FEWEST else 0
    limit = max(LARGE * usual, LEAST_LARGE)
    return tuple(each for each in facts.workers if usual and (each.memory_bytes or 0) > limit), usual
