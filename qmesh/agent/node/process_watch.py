"""The agent's watch of the node's processes on its machine: it remembers, cuts off, and says what lasts.

A process that a user runs can make none of this wait: only the kernel is asked, a user's config.yml is read
as `config_directory` reads, with a limit of time, and which node a process is of, in a thread of its own.
"""

from __future__ import annotations

import time
from typing import Final

import msgspec

from qmesh.agent.local import Local
from qmesh.agent.node.node_host import find_node_host
from qmesh.agent.node.node_processes import NodeLook, look_at_node, read_readings
from qmesh.agent.node.other_nodes import OtherNodeWatch
from qmesh.errors import QmeshError
from qmesh.host.log.events import report_finding
from qmesh.host.network.sockets import tcp_connections
from qmesh.host.network.sockets.node_sockets import SocketObserver
from qmesh.host.state.directory import State
from qmesh.host.system import boot_clock
from qmesh.mesh.audit.node.processes import foreign_worker_findings, own_process_findings
from qmesh.mesh.node_processes.control import list_called_cores
from qmesh.mesh.node_processes.reading_record import ReadingRecord
from qmesh.mesh.node_processes.record import ProcessRecord, update_absences, update_calls
from qmesh.mesh.node_processes.unconnected import update_unconnected
from qmesh.mesh.node_processes.workers import WorkerProcess, list_foreign_connections

LOOK_S: Final = 4.0
"""Seconds between two looks, at least."""
REST: Final = 40
"""Times of the processor time that a look took, until the next."""
LASTS_S: Final = 15.0
"""Seconds that something is wrong before it is said: processes that are being restarted are so for less."""


class ProcessWatch:
    """For the agent's loop: what is seen of the node's processes, from one look to the next."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.workers: tuple[WorkerProcess, ...] = ()
        """This machine's, as they were seen last."""
        self._observer = SocketObserver()
        self._other_nodes = OtherNodeWatch()
        self._record: ProcessRecord | None = None
        self._written: ProcessRecord | None = None
        self._look_at = 0.0
        self._wrong: dict[str, float] = {}
        self._told: set[str] = set()

    def look(self, here: Local) -> None:
        """Look, where it is time for that. Raises Busy, MachineRefused."""
        now = time.monotonic()
        if now < self._look_at:
            return
        begun = time.thread_time()
        try:
            self._look(here)
        finally:
            self._look_at = now + max(LOOK_S, REST * (time.thread_time() - begun))

    def note_config(self, here: Local) -> None:
        """Remember what config.yml has before it is changed: a process may have been started with that."""
        if self._record is not None:
            self._record = msgspec.structs.replace(self._record, readings=self._read_readings(here))

    def _look(self, here: Local) -> NodeLook:
        noted = self._state.process_record.read_valid()
        if self._record is None:
            self._record = self._written = noted
        elif noted is not None and noted != self._written:  # by a command that wrote the file
            self._record = msgspec.structs.replace(self._record, readings=noted.readings)
        seen = look_at_node(
            self._state,
            here,
            record=self._record,
            readings=self._read_readings(here),
            observer=self._observer,
            find_other_nodes=self._other_nodes.find,
        )
        self.workers = seen.report.workers
        self._cut_off_foreign_workers(seen)
        self._say_what_lasts(here, seen)
        self._remember(here, seen)
        return seen

    def _read_readings(self, here: Local) -> ReadingRecord | None:
        """What the processes read; as it was where the file cannot be read, which its follower says."""
        before = None if self._record is None else self._record.readings
        try:
            return read_readings(here, self._record)
        except QmeshError:
            return before if before is not None and before.boot == boot_clock.now().boot else None

    def _remember(self, here: Local, seen: NodeLook) -> None:
        """Keep what later looks and commands need; on the disk where it is something else than before."""
        before = self._record
        timed = before if before is not None and before.is_of(seen.now) else None
        unconnected = {
            each.core: each.process
            for each in seen.report.workers
            if each.state in {"connecting", "cut-off"} and each.process is not None
        }
        control = seen.report.control
        self._record = ProcessRecord(
            boot=seen.now.boot,
            readings=seen.readings,
            absent=update_absences({} if timed is None else timed.absent, unconnected, seen.now.at_s),
            called=update_calls(
                None if timed is None else timed.called,
                None if control is None else control.process,
                list_called_cores(control, seen.seen, here.inventory),
                seen.now.at_s,
            ),
            unconnected=update_unconnected(
                {} if timed is None else timed.unconnected, here.inventory, seen.stream_peers, seen.now.at_s
            )
            if control is not None and control.state == "alive"
            else {},
        )
        if self._record != self._written and (self._written or seen.readings or self._record.called):
            with self._state.lock():
                if self._state.has_settings():
                    self._state.process_record.write(self._record)
            self._written = self._record

    def _cut_off_foreign_workers(self, seen: NodeLook) -> None:
        """End the connections through the tunnel of workers whose cores are another machine's."""
        foreign = seen.report.foreign
        tcp_connections.close_connections(list_foreign_connections(seen.expected, seen.every, foreign))
        findings = {
            f"{each.seen}: its connections through the tunnel are cut; {each.cure}": each
            for each in foreign_worker_findings(seen.report)
        }
        for line in sorted(findings.keys() - self._told):
            report_finding(findings[line], "%s", line)
        self._told = set(findings)

    def _say_what_lasts(self, here: Local, seen: NodeLook) -> None:
        now = time.monotonic()
        host = find_node_host(here.settings)
        findings = own_process_findings(seen.report, host) if seen.is_begun else ()
        lines = {f"{each.subject}: {each.seen} (hint: {each.cure})": each for each in findings}
        self._wrong = {line: self._wrong.get(line, now + LASTS_S) for line in lines}
        for line, due in self._wrong.items():
            if due <= now:
                report_finding(lines[line], "%s", line)
                self._wrong[line] = float("inf")
