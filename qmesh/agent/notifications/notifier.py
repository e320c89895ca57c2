"""Tells the operator what has changed: looks, decides, keeps that, and has it delivered.

Nothing here is waited for by what keeps the machine: it has a thread of its own, and each message another.
What is to be told is on the disk before it is sent: an agent that restarts loses none of it, and repeats only
what a receiver took in the moment before the agent was killed.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import msgspec

from qmesh.agent.daemon.supervisor import DELIVERY, NOTIFYING, AgentPart, Troubles
from qmesh.agent.local import Local
from qmesh.agent.metrics.collector import MachineCheck, MetricsCollector, WorkerLook, build_event_view
from qmesh.agent.notifications.delivery import Courier, describe_receiver
from qmesh.errors import Busy, QmeshError
from qmesh.host import files
from qmesh.host.firewall import holder_client
from qmesh.host.log.events import report_event
from qmesh.host.notifications import notify_socket
from qmesh.host.notifications.notify_socket import ReceiverResult, ReceiverResults
from qmesh.host.registry import Registry
from qmesh.host.state.directory import State
from qmesh.host.system.heartbeat import allow_wait
from qmesh.mesh.links.activity import LinkReport
from qmesh.mesh.notifications import outbox, sources
from qmesh.mesh.notifications.change import ToldChange
from qmesh.mesh.notifications.guard import note_alterations, parse_alterations
from qmesh.mesh.notifications.outbox import Batch
from qmesh.mesh.notifications.record import NotificationRecord
from qmesh.mesh.notifications.targets import NotifySettings
from qmesh.mesh.notifications.text import Sender
from qmesh.mesh.notifications.tracker import ConditionTracker
from qmesh.mesh.view.cluster_view import EventView

TICK_S: Final = 1.0
SENDING_S: Final = 0.1
"""Seconds between two ticks, and while a message is under way."""
LOOK_S: Final = 2.0
"""Seconds between two looks at what the agent knows, at least."""
_TIMES: Final = 50
"""How many times longer than a look takes nobody looks again."""
_HOLDER_S: Final = 1.0
_LOCK_S: Final = 5.0
FAILURES_SAID: Final = 3
"""Failures in a row after which `qmesh check` says that a receiver takes nothing."""


class AgentFacts(NamedTuple):
    """What an agent knows at one moment. heard: keys of peers of which something came lately.

    event: the registry's last event; None on a member. alterations: how often the agent's own part found the
    guard altered, as `parse_alterations` reads it.
    """

    here: Local
    links: LinkReport
    heard: frozenset[str]
    event: int | None
    alterations: str


class Notifier:
    """`run` is a part's. know: what its agent knows now; None before its first look."""

    def __init__(
        self,
        state: State,
        know: Callable[[], AgentFacts | None],
        metrics: MetricsCollector,
        troubles: Troubles,
    ) -> None:
        self._state = state
        self._know = know
        self._metrics = metrics
        self._troubles = troubles
        self._courier = Courier()
        self._settings = NotifySettings()
        self._stamp: object = None
        self._record: NotificationRecord | None = None
        self._kept: NotificationRecord | None = None
        self._tracker = ConditionTracker()
        self._look_due = 0.0
        self._look: WorkerLook | None = None
        self._check: MachineCheck | None = None
        self._failing: dict[str, str] = {}
        self._test: threading.Thread | None = None

    def run(self, part: AgentPart) -> None:
        """Tell what there is to tell, until the part should end."""
        with contextlib.closing(notify_socket.listen(self._state.directory)) as listening:
            while not part.stopped.is_set():
                part.pulse.beat()
                self._read_settings()
                self._update()
                # What was taken is noted soon: an agent that is killed before that sends it once more.
                listening.settimeout(SENDING_S if self._courier.is_under_way else TICK_S)
                with contextlib.suppress(TimeoutError):
                    caller, _ = listening.accept()
                    self._start_test(caller)

    def _read_settings(self) -> None:
        """Take them again where they are others. What is damaged is said, and what was known is kept."""
        document = self._state.notify_settings
        stamp = files.read_stamp(document.path)
        if stamp == self._stamp:
            return
        try:
            self._settings = document.read() or NotifySettings()
        except QmeshError as error:
            self._troubles.note_error(NOTIFYING, error)
        else:
            self._stamp = stamp
            self._kept = None  # the command that removed all receivers has removed the record
            self._troubles.clear(NOTIFYING)

    def _update(self) -> None:
        if not self._settings.receivers:
            self._forget()
            return
        facts = self._know()
        if facts is None:
            return
        record = self._open_record(facts.here)
        record = msgspec.structs.replace(
            record, outbox=outbox.set_receivers(record.outbox, self._settings.receivers)
        )
        record = self._take_ended(record)
        if time.monotonic() >= self._look_due:
            began = time.monotonic()
            record = self._look_for_changes(facts, record)
            ended = time.monotonic()
            self._look_due = ended + max(LOOK_S, _TIMES * (ended - began))
        self._record = record
        self._keep_record(record)
        self._send_waiting(facts.here, record)

    # What is told

    def _open_record(self, here: Local) -> NotificationRecord:
        """What was told before; nothing of it where this machine is in another mesh now."""
        if self._record is None:
            self._record = self._kept = self._state.notification_record.read_valid()
            self._tracker = ConditionTracker(() if self._record is None else self._record.told)
        if self._record is None or self._record.mesh != here.inventory.mesh:
            self._record = NotificationRecord(mesh=here.inventory.mesh, control=here.inventory.control)
            self._tracker = ConditionTracker()
        return self._record

    def _forget(self) -> None:
        """Forget what was told: there is no receiver, and a later one is told what is so then."""
        for _ in self._courier.take_ended():
            pass
        if self._record is not None:  # the receivers may have been removed by hand
            self._state.notification_record.remove()
        self._record = self._kept = None
        self._failing = {}
        self._troubles.clear(DELIVERY)

    def _look_for_changes(self, facts: AgentFacts, record: NotificationRecord) -> NotificationRecord:
        now, here = int(time.time()), facts.here
        changes: list[ToldChange] = []
        record, found = self._follow_cluster(facts, record)
        changes += found
        if here.settings.guarded:
            record, found = self._count_alterations(facts, record, now)
            changes += found
        self._observe(facts)
        changes += self._tracker.take_due(now)
        return msgspec.structs.replace(
            record, told=self._tracker.list_told(), outbox=outbox.add_changes(record.outbox, changes)
        )

    def _observe(self, facts: AgentFacts) -> None:
        here, after_s = facts.here, float(self._settings.after_s)
        self._metrics.refresh()
        look, check = self._metrics.last_look, self._metrics.last_check
        self._tracker.advance(time.monotonic())
        if here.settings.up and not here.settings.removed:
            sources.note_machines(
                self._tracker,
                here.inventory,
                here.settings.name,
                facts.links,
                facts.heard,
                after_s=after_s,
            )
        if look is not None and look is not self._look:
            self._look = look
            self._note_look(facts, look, after_s)
        if check is not None and check is not self._check:
            self._check = check
            sources.note_findings(self._tracker, here.settings.name, check.findings, after_s=after_s)

    def _note_look(self, facts: AgentFacts, look: WorkerLook, after_s: float) -> None:
        settings = facts.here.settings
        if not settings.control:
            sources.forget_workers(self._tracker)
        elif look.is_dialled and look.workers is not None and settings.up:
            sources.note_workers(
                self._tracker, facts.here.inventory, facts.links, look.workers, after_s=after_s
            )
        if look.guard_ok is not None:
            sources.note_guard(self._tracker, settings.name, is_whole=look.guard_ok, after_s=after_s)

    def _follow_cluster(
        self, facts: AgentFacts, record: NotificationRecord
    ) -> tuple[NotificationRecord, tuple[ToldChange, ...]]:
        """The control role's move away from here, and on the control node who came and went."""
        inventory, name = facts.here.inventory, facts.here.settings.name
        changes: tuple[ToldChange, ...] = ()
        if record.control != inventory.control:
            if record.control == name:
                changes = (
                    ToldChange(
                        at=int(time.time()),
                        kind="handed-over",
                        phase="happened",
                        machine=inventory.control,
                    ),
                )
            record = msgspec.structs.replace(record, control=inventory.control)
        if facts.event is None or not facts.here.settings.control:
            return msgspec.structs.replace(record, event=None), changes
        if facts.event == record.event:
            return record, changes
        event, events = self._read_events(record.event)
        record = msgspec.structs.replace(record, event=event)
        return record, changes + sources.list_membership_changes(events, control=inventory.control)

    def _read_events(self, since: int | None) -> tuple[int | None, tuple[EventView, ...]]:
        """The number of the registry's last event, and those after that one."""
        with contextlib.suppress(QmeshError), Registry(self._state.registry_file) as registry:
            number, found = registry.list_new_events(since)
            return number, tuple(map(build_event_view, found))
        return since, ()  # what is wrong with the registry, the agent's own look says

    def _count_alterations(
        self, facts: AgentFacts, record: NotificationRecord, now: int
    ) -> tuple[NotificationRecord, tuple[ToldChange, ...]]:
        told = ""
        with contextlib.suppress(QmeshError):  # which the monitor says
            told = holder_client.read_alterations(self._state, wait_s=_HOLDER_S)
        counts = (parse_alterations("holder", told), parse_alterations("agent", facts.alterations))
        memory, change = note_alterations(
            record.guard,
            [each for each in counts if each is not None],
            machine=facts.here.settings.name,
            now=now,
        )
        return msgspec.structs.replace(record, guard=memory), () if change is None else (change,)

    # What is kept

    def _keep_record(self, record: NotificationRecord) -> None:
        if record == self._kept:
            return
        try:
            with allow_wait(_LOCK_S), self._state.lock():
                # Who removes them removes the record as well.
                if self._state.has_settings() and self._state.notify_settings.exists():
                    self._state.notification_record.write(record)
            self._kept = record
        except Busy:  # another command is at work, and ends: at the next tick
            pass
        except (QmeshError, OSError) as error:  # it is tried again; what is told meanwhile may be told twice
            report_event(
                "notification-unkept", "what was sent could not be saved, and may be sent again: %s", error
            )

    # How it is told

    def _send_waiting(self, here: Local, record: NotificationRecord) -> None:
        now = int(time.time())
        for receiver in self._settings.receivers:
            if self._courier.is_busy(receiver):
                continue
            batch = outbox.find_batch(record.outbox, receiver, now)
            if batch is not None:
                self._courier.start(self._settings, receiver, _build_sender(here), batch)

    def _take_ended(self, record: NotificationRecord) -> NotificationRecord:
        now, box = int(time.time()), record.outbox
        for receiver, last, result in self._courier.take_ended():
            name = describe_receiver(self._settings, receiver)
            if result.is_delivered:
                box = outbox.note_delivered(box, receiver, last, now)
                report_event("notification-sent", "notification to %s: %s", name, result.text)
                self._failing.pop(receiver, None)
            else:
                box = outbox.note_failure(box, receiver, now)
                self._note_failure(receiver, name, result.text)
        self._report_failing(box)
        return msgspec.structs.replace(record, outbox=box)

    def _note_failure(self, receiver: str, name: str, reason: str) -> None:
        if self._failing.get(receiver) != f"{name}: {reason}":
            report_event("notification-failed", "notification to %s: %s", name, reason)
        self._failing[receiver] = f"{name}: {reason}"

    def _report_failing(self, box: outbox.Outbox) -> None:
        """Have `qmesh check` say which receivers take nothing again and again."""
        lasting = [
            self._failing[each.receiver]
            for each in box.deliveries
            if each.failures >= FAILURES_SAID and each.receiver in self._failing
        ]
        if lasting:
            self._troubles.note(
                DELIVERY, "; ".join(lasting), hint="`qmesh set --notify-test` tries it again, and says more"
            )
        else:
            self._troubles.clear(DELIVERY)

    # The test

    def _start_test(self, caller: socket.socket) -> None:
        facts = self._know()
        if facts is None or (self._test is not None and self._test.is_alive()):
            caller.close()
            return
        self._read_settings()
        settings, sender = self._settings, _build_sender(facts.here)
        change = ToldChange(at=int(time.time()), kind="test", phase="happened", machine=sender.machine)

        def run() -> None:
            results = send_test(settings, sender, Batch((change,)))
            notify_socket.send_results(caller, ReceiverResults(tuple(results)))

        self._test = threading.Thread(target=run, name="test of notifications", daemon=True)
        self._test.start()


def send_test(settings: NotifySettings, sender: Sender, batch: Batch) -> Iterable[ReceiverResult]:
    """Send a message to all receivers at once, and wait for what comes of it."""
    courier = Courier()
    for receiver in settings.receivers:
        courier.start(settings, receiver, sender, batch)
    waiting = {*settings.receivers}
    found: dict[str, ReceiverResult] = {}
    while waiting:
        ended = courier.wait_for_end()
        waiting.discard(ended.receiver)
        found[ended.receiver] = ReceiverResult(describe_receiver(settings, ended.receiver), ended.result)
    return [found[each] for each in settings.receivers]


def _build_sender(here: Local) -> Sender:
    return Sender(machine=here.settings.name, mesh=here.inventory.mesh)
