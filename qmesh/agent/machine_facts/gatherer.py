"""What this machine has and runs: for the agent from one look to the next, and for a command at once."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

from qmesh import __version__
from qmesh.agent.local import Local
from qmesh.errors import QmeshError
from qmesh.host.config_directory import ConfigDirectory, DiskSpace, read_disk_space
from qmesh.host.machine_facts import hardware
from qmesh.host.machine_facts.core_speed import measure_core_speed
from qmesh.host.machine_facts.program_digest import ProgramDigest
from qmesh.host.state.directory import State
from qmesh.mesh.machine_facts.facts import MachineFacts, ToldFacts, WorkerFacts, clean_text
from qmesh.mesh.machine_facts.restarts import SeenWorker, update_seen_workers
from qmesh.mesh.node_processes.workers import WorkerProcess
from qmesh.mesh.nodeconfig.program_version import NodeProgram
from qmesh.mesh.proof_report.report_keys import derive_report_keys
from qmesh.mesh.protocol.versions import OWN

LOOK_S: Final = 30.0
"""Seconds between two looks, at least."""
SOON_S: Final = 5.0
"""The same where other processes are the workers than before."""
REST: Final = 200
"""Times of the processor time that a look took, until the next."""
SPEED_FIRST_S: Final = 300.0
"""Seconds from the agent's start until the speed of a core is measured: a machine that starts is busy."""
SPEED_AGAIN_S: Final = 6 * 3600.0
_SLICE_S: Final = 0.02
_SLICES: Final = 11
"""It is measured in so many pieces of so much processor time, one a look, and the middle one counts: a worker
waits for it no longer than for any other program."""


class SpeedMeter:
    """The speed of one core, measured at long intervals in small pieces. begun: by the monotonic clock."""

    def __init__(self, begun: float) -> None:
        self.value: int | None = None
        """As of `measure_core_speed`; None before the first time."""
        self._due = begun + SPEED_FIRST_S
        self._pieces: list[int] = []

    def take_step(self, now: float) -> None:
        """Measure a piece, where it is time for that."""
        if now < self._due:
            return
        self._pieces.append(measure_core_speed(_SLICE_S))
        if len(self._pieces) == _SLICES:
            self.value = round(statistics.median(self._pieces))
            self._pieces, self._due = [], now + SPEED_AGAIN_S


class FactsGatherer:
    """For the agent: it looks in the thread that follows the node, and any thread may read `told`."""

    def __init__(self, read_key: Callable[[], str] = str) -> None:
        """read_key: the fingerprint of the machine's key for reports; empty where it is not known."""
        self._read_key = read_key
        self.told: ToldFacts | None = None
        """As of the last look; None before the first, and where this machine is in the mesh no more."""
        self._due = self._soonest = 0.0
        self._nft: str | None = None
        self._digest = ProgramDigest()
        self._speed = SpeedMeter(time.monotonic())
        self._seen: dict[int, SeenWorker] = {}

    def look(
        self, here: Local, workers: tuple[WorkerProcess, ...], programs: tuple[NodeProgram, ...]
    ) -> None:
        """Look, where it is time for that.

        workers: those of this machine, as they were seen last. programs: those of its node.
        """
        now, begun = time.monotonic(), time.thread_time()
        before, self._seen = self._seen, update_seen_workers(self._seen, workers)
        if self._seen != before:
            self._due = min(self._due, self._soonest)
        self._speed.take_step(now)
        if self._digest.is_partial or now >= self._due:
            _take_digest_step(self._digest, programs, here.settings.node_directory)
        if now < self._due:
            return
        if self._nft is None:
            self._nft = hardware.read_nft_version()
        self.told = None if here.settings.removed else self._gather(here, workers, programs)
        taken_s = time.thread_time() - begun
        self._due = now + max(LOOK_S, REST * taken_s)
        self._soonest = now + max(SOON_S, REST * taken_s)

    def _gather(
        self, here: Local, workers: tuple[WorkerProcess, ...], programs: tuple[NodeProgram, ...]
    ) -> ToldFacts:
        facts = gather_facts(
            here,
            workers,
            programs,
            seen=self._seen,
            nft=self._nft or "",
            digest=self._digest.value if programs else "",
            core_speed=self._speed.value,
            report_key=self._read_key(),
        )
        return ToldFacts(here.machine.address, round(time.time(), 1), facts)


def gather_facts(
    here: Local,
    workers: tuple[WorkerProcess, ...],
    programs: tuple[NodeProgram, ...],
    *,
    seen: dict[int, SeenWorker],
    nft: str,
    digest: str = "",
    core_speed: int | None = None,
    report_key: str = "",
) -> MachineFacts:
    """The facts of this machine now. seen: how often which workers were started again."""
    memory, available = hardware.read_memory()
    disk = _read_disk(here.settings.node_directory)
    version = programs[0].version.number if programs else None
    return MachineFacts(
        qmesh=clean_text(__version__),
        node=clean_text(version or ""),
        node_digest=digest,
        kernel=hardware.read_kernel_release(),
        architecture=hardware.read_architecture(),
        nft=nft,
        cpu=hardware.read_cpu_model(),
        cores=hardware.count_cores(),
        memory_bytes=memory,
        memory_available_bytes=available,
        disk_bytes=None if disk is None else disk.size,
        disk_free_bytes=None if disk is None else disk.free,
        load=hardware.read_load(),
        core_speed=core_speed,
        workers=_gather_worker_facts(workers, seen),
        protocol=OWN.newest,
        oldest_protocol=OWN.oldest,
        report_key=report_key,
    )


def read_report_key(state: State) -> str:
    """The fingerprint of this machine's key for reports; empty where there is none."""
    with contextlib.suppress(QmeshError):  # `check` says what it is
        key = state.keys.read_private_key()
        return "" if key is None else derive_report_keys(key).fingerprint
    return ""


def _take_digest_step(
    digest: ProgramDigest, programs: tuple[NodeProgram, ...], directory: ConfigDirectory | None
) -> None:
    if programs and directory is not None:
        digest.take_step(Path(programs[0].place or programs[0].path), directory.owner or 0)


def _read_disk(directory: ConfigDirectory | None) -> DiskSpace | None:
    with contextlib.suppress(QmeshError):  # `check` says what it is
        return None if directory is None else read_disk_space(directory)
    return None


def _gather_worker_facts(
    workers: tuple[WorkerProcess, ...], seen: dict[int, SeenWorker]
) -> tuple[WorkerFacts, ...]:
    """A process that is the worker of several cores has its memory for all of them."""
    numbers = [each.process.number for each in workers if each.process is not None]
    cores = Counter(numbers)
    memory = {number: hardware.read_own_memory(number) for number in cores}
    found = []
    for each in workers:
        number = 0 if each.process is None else each.process.number
        octets = memory.get(number)
        restarts = seen[each.core].restarts if each.core in seen else 0
        found.append(WorkerFacts(each.core, None if octets is None else octets // cores[number], restarts))
    return tuple(found)
