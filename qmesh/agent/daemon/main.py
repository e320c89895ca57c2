"""The agent: observe, plan, apply, for ever; and, on the control node, serve those who join.

The loop does all that is done to the machine. What waits for others is done beside it, in parts of
their own (`qmesh.agent.daemon.supervisor`), none of which ends or hangs without being noticed. So is
what must not wait for the loop: that the guard's table is as it is written.
"""

from __future__ import annotations

import contextlib
import gc
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from qmesh.agent import control_role
from qmesh.agent.audit.reporter import FindingsReporter
from qmesh.agent.daemon import late_imports, supervisor
from qmesh.agent.daemon.change_follower import ChangeFollower
from qmesh.agent.daemon.claim_watch import ClaimWatch
from qmesh.agent.daemon.detour_log import DetourLog
from qmesh.agent.daemon.guard_watch import keep_guard
from qmesh.agent.daemon.loop_events import LOOK_S, LastLook, LookRequests, LoopEvents
from qmesh.agent.daemon.membership.poll import MembershipPoller
from qmesh.agent.daemon.membership.server import MembershipService
from qmesh.agent.daemon.monitor import Monitor
from qmesh.agent.daemon.observe import MachineWatch, audit_interval_s
from qmesh.agent.daemon.own_knowledge import OwnKnowledge
from qmesh.agent.daemon.supervisor import AgentPart, Troubles
from qmesh.agent.local import Local
from qmesh.agent.metrics.collector import MetricsCollector
from qmesh.agent.metrics.outlets import MetricsOutlets
from qmesh.agent.preconditions import check_user
from qmesh.agent.readers.answers import ReaderAnswers
from qmesh.agent.readers.service import ReaderService
from qmesh.agent.rollback import roll_back_if_due
from qmesh.errors import Busy, MachineRefused, QmeshError, StateUnreadable
from qmesh.host.lean import service_notice
from qmesh.host.log.events import report_event
from qmesh.host.pulse import Pulse
from qmesh.host.state.directory import State
from qmesh.host.system import agent_health, leftover_processes, processes, single_agent
from qmesh.mesh.audit.surroundings import SERVICE
from qmesh.mesh.plan.describe import describe_step
from qmesh.mesh.plan.steps import LoadGuard, Step

CHANGING_S: Final = 0.1
"""Seconds between two looks while a machine changes its key, as what it sends until that is seen is lost; and
while another machine is about to be heard as the control node."""
MOST_STEPS_TOLD: Final = 20
"""Of one look; a first apply has one for each peer."""
PATIENCE_S: Final = 3.0
"""Seconds to wait for another command of qmesh on this machine; then the look is tried again."""
BUSY_S: Final = 10.0
"""Seconds of that after which it is said, before `check` takes the agent for silent: commands end."""


def run_agent(directory: Path) -> None:
    """Be the agent of a state directory until SIGTERM or SIGINT; tunnel and guard stay as they are then.

    Raises MachineRefused when there is one already, BadInput when the machine is in no mesh.
    """
    check_user("agent")
    state = State(directory, patience_s=PATIENCE_S)
    with contextlib.suppress(StateUnreadable):  # then it keeps the ports closed at least
        state.settings()
    with (
        single_agent.acquire_agent_lock() as only,
        processes.acquire_process_lock(state.agent_lock_file) as alone,
    ):
        if not (only and alone):
            raise MachineRefused(
                f"this machine's agent runs already{leftover_processes.describe_process('agent')}",
                hint="leave it running; `qmesh status` and `qmesh check` work beside it",
            )
        if not processes.can_see_descriptors():
            report_event(
                "agent-blind",
                "the agent may not see whose sockets are: it knows neither the node's processes nor SSH's"
                " ports (hint: `qmesh apply` writes its unit again; a container needs CAP_SYS_PTRACE)",
            )
        Agent(state).run()


class Agent:
    """The loop. All that it does to the machine, it does from the thread that calls `run_agent`."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._calls = LoopEvents(lambda: self._watch.notices.sockets)
        self._turns = LookRequests(self._calls.request_look)
        self._last = LastLook()
        self._busy_since: float | None = None
        self._told: tuple[tuple[bool, list[str]], float] = ((False, []), 0.0)
        self._pulse = Pulse()
        self._troubles = Troubles(self._notify_status)
        self._service = MembershipService(
            state, look=self._calls.request_look, turns=self._turns, troubles=self._troubles
        )
        self._watch = MachineWatch(state, list_unanswered=self._service.list_unanswered)
        self._monitor = Monitor(
            state,
            self._service,
            pulses=self._collect_pulses,
            troubles=self._troubles,
            look=self._calls.request_look,
            begin_anew=self._restart_agent,
        )
        self._detours = DetourLog(audit_interval_s)
        self._findings = FindingsReporter(state)
        self._claims = ClaimWatch(
            state, self._troubles, know=lambda: self._last.here, listen=lambda: self._watch.notices
        )
        self._follower = ChangeFollower(
            state,
            self._service,
            self._watch,
            self._troubles,
            last=self._last,
            request_look=self._calls.request_look,
        )
        self._knowledge = OwnKnowledge(
            self._last,
            self._troubles,
            watch=self._watch,
            service=self._service,
            follower=self._follower,
            claims=self._claims,
        )
        self._metrics = MetricsCollector(state, self._knowledge.collect_for_metrics)
        self._outlets = MetricsOutlets(self._metrics, lambda: self._last.here, self._troubles)
        self._answers = ReaderAnswers(state, self._metrics)
        self._asking = AgentPart(supervisor.ASKING, self._poll_membership, self._troubles)
        self._notifying = AgentPart(supervisor.NOTIFYING, self._notify_operator, self._troubles)
        self._parts = {
            supervisor.MONITOR: AgentPart(supervisor.MONITOR, self._run_monitor, self._troubles),
            supervisor.ANSWERING: AgentPart(supervisor.ANSWERING, self._serve_health, self._troubles),
            supervisor.FOLLOWING: AgentPart(
                supervisor.FOLLOWING,
                lambda: self._follower.run(self._parts[supervisor.FOLLOWING]),
                self._troubles,
            ),
            supervisor.GUARD: AgentPart(supervisor.GUARD, self._keep_guard, self._troubles),
            supervisor.METRICS: AgentPart(supervisor.METRICS, self._keep_outlets, self._troubles),
            supervisor.READERS: AgentPart(supervisor.READERS, self._answer_readers, self._troubles),
            supervisor.PROVING: AgentPart(
                supervisor.PROVING, lambda: self._claims.run(self._parts[supervisor.PROVING]), self._troubles
            ),
        }

    def run(self) -> None:
        """Go on until a signal says stop. Raises StateUnreadable once the state is gone; the guard stays."""
        home = self._state.read_directory_id()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._calls.stop())
        with contextlib.suppress(QmeshError), self._state.lock():
            self._state.remove_temporary_files()
        late_imports.load_needed_modules(
            self._state,
            begin_anew=lambda: supervisor.exec_agent(self._troubles, self._state.directory),
        )
        # What is loaded by now lives as long as this process: no collection need look at it again.
        gc.freeze()
        report_event("agent-started", "the agent has started")
        self._pulse.attach_thread()
        with contextlib.closing(self._calls), contextlib.closing(self._detours), self._watch:
            try:
                while self._wait_for_look() and not self._state.is_gone(home):
                    self._run_iteration()
            finally:
                service_notice.notify("STOPPING=1")
                for part in (
                    *self._parts.values(),
                    self._asking,
                    self._notifying,
                    self._service.retiring,
                ):
                    part.stop()
                self._service.stop()
        report_event("agent-stopped", "the agent has stopped; tunnel and guard stay as they are")
        if self._state.is_gone(home):
            raise StateUnreadable(
                f"{self._state.directory} is gone or was replaced: this machine's state is lost",
                hint="restore that directory, and run `qmesh apply`; or use `qmesh join` or `qmesh restore`"
                " with --take-over",
            )

    def _wait_for_look(self) -> bool:
        """Wait until the next look is due; False when there is to be none."""
        is_near = self._watch.is_key_changing or self._service.has_handed_over
        seconds = CHANGING_S if is_near else min(LOOK_S, self._service.wait_s or LOOK_S)
        self._pulse.beat(allowed_s=seconds)
        try:
            goes_on = self._calls.wait(seconds, self._monitor.note_rest)
        except (OSError, ValueError) as error:  # one of the kernel's sockets is none any more
            self._reopen_notices(error)
            goes_on = self._calls.wait(0.0, self._monitor.note_rest)
        self._pulse.beat()
        return goes_on

    def _run_iteration(self) -> None:
        """One look, whatever comes of it; systemd's watchdog hears when it has come to its end."""
        began = time.monotonic()
        for part in self._parts.values():
            part.start()
        try:
            with self._turns.track_look():
                here = self._look_at_machine()
        except Busy as error:
            self._note_busy(error)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the next look may succeed
            self._note_failure(error)
        else:
            self._busy_since = None
            self._troubles.clear(supervisor.LOOK)
            self._last.note(here)
            if not here.settings.control:
                self._asking.start()
            if self._state.notify_settings.exists():
                self._notifying.start()
            self._notify_ready(here)
        self._troubles.report_status()
        self._monitor.feed_watchdog(time.monotonic() - began)

    def _note_busy(self, error: Busy) -> None:
        """Another command changes this machine; its guard is a concern of others."""
        now = time.monotonic()
        if self._busy_since is None:
            self._busy_since = now
        elif now - self._busy_since > BUSY_S:
            self._troubles.note_error(supervisor.LOOK, error)

    def _note_failure(self, error: BaseException) -> None:
        self._troubles.note_error(supervisor.LOOK, error)
        if not isinstance(error, QmeshError | OSError):
            self._troubles.note_restart(supervisor.LOOK, supervisor.describe_error(error))
        try:
            self._watch.notices.take_notice()  # a look that failed early has not; the next is at everything
        except (OSError, ValueError) as broken:
            self._reopen_notices(broken)

    def _reopen_notices(self, error: Exception) -> None:
        """Where that fails as well, a look every few seconds sees what the kernel would have told."""
        self._troubles.note_error(supervisor.NOTICES, error)
        with contextlib.suppress(MachineRefused):
            self._watch.reopen_notices()
            self._troubles.clear(supervisor.NOTICES)

    def _look_at_machine(self) -> Local:
        with self._state.lock():
            roll_back_if_due(self._state)  # whoever else should have is gone
            control_role.resume_handover(self._state)
            here, steps = self._watch.converge_machine()
        self._log_steps(steps)
        self._service.update_service(here, self._watch.event)
        self._detours.ask_kernel(here)
        return here

    def _log_steps(self, steps: tuple[Step, ...]) -> None:
        """Log what was done, and who made it necessary; the same again and again but every few seconds."""
        noticed = self._watch.noticed
        lines = [f"{step.kind} {step.subject}: {describe_step(step)}" for step in steps[:MOST_STEPS_TOLD]]
        by = (
            noticed.changed_by
            if noticed is not None and any(isinstance(step, LoadGuard) for step in steps)
            else None
        )
        if len(steps) > MOST_STEPS_TOLD:
            lines.append(f"and {len(steps) - MOST_STEPS_TOLD} more steps")
        what = bool(by), [step.kind for step in steps]  # who it was may be known of the next one only
        if not lines or (self._told[0] == what and time.monotonic() < self._told[1]):
            return
        self._told = what, time.monotonic() + LOOK_S
        if by:
            report_event("guard-changed", "the guard's table was changed by %s", by)
        for line in lines:
            report_event("step-taken", "%s", line)

    def _notify_ready(self, here: Local) -> None:
        """To whoever started it, once: a control node's service serves by then."""
        is_served = self._service.serves or not (here.settings.control and here.settings.up)
        if is_served and not self._monitor.is_ready:
            self._monitor.is_ready = True
            service_notice.notify("READY=1")

    def _notify_status(self, text: str) -> None:
        service_notice.notify(f"STATUS={text}")
        if text == supervisor.WELL:
            report_event("agent-well", "%s", text)

    # Beside the loop, each in a thread of its own

    def _poll_membership(self) -> None:
        MembershipPoller(
            self._state,
            arrived=self._calls.request_look,
            troubles=self._troubles,
            stopped=self._asking.stopped,
            key_reporter=self._follower.key_reporter,
            teller=self._follower.teller,
            answer_request=self._findings.answer_request,
        ).run()

    def _run_monitor(self) -> None:
        self._monitor.run(self._parts[supervisor.MONITOR].stopped)

    def _keep_guard(self) -> None:
        keep_guard(
            self._state,
            self._parts[supervisor.GUARD],
            self._troubles,
            note_alterations=self._note_alterations,
        )

    def _note_alterations(self, text: str) -> None:
        self._knowledge.alterations = text

    def _serve_health(self) -> None:
        """Say how this agent is, to whoever asks at its socket."""
        part, monitor = self._parts[supervisor.ANSWERING], self._parts[supervisor.MONITOR]
        with contextlib.closing(agent_health.listen(self._state.directory)) as listening:
            listening.settimeout(1.0)
            while not part.stopped.is_set():
                part.pulse.beat()
                if monitor.pulse.is_stuck:  # which sees to all others
                    self._restart_agent(monitor.name, monitor.pulse)
                with contextlib.suppress(TimeoutError):
                    caller, _ = listening.accept()
                    agent_health.send_health(caller, self._knowledge.build_health())

    def _keep_outlets(self) -> None:
        self._outlets.run(self._parts[supervisor.METRICS])

    def _answer_readers(self) -> None:
        service = ReaderService(self._answers, self._read_readers, self._troubles)
        service.run(self._parts[supervisor.READERS], self._state.directory)

    def _notify_operator(self) -> None:
        from qmesh.agent.notifications.notifier import Notifier  # noqa: PLC0415 - few machines notify

        Notifier(self._state, self._knowledge.collect_for_notifications, self._metrics, self._troubles).run(
            self._notifying
        )

    def _read_readers(self) -> str | None:
        """The group of readers; none where this machine does not remember one that can be read."""
        with contextlib.suppress(QmeshError, OSError):
            return self._state.settings().readers
        return None

    def _restart_agent(self, part: str, pulse: Pulse) -> None:
        supervisor.restart_agent_process(part, pulse, self._troubles, self._state.directory)

    def _collect_pulses(self) -> Mapping[str, Pulse]:
        # The monitor's own is seen to by who answers `check`.
        others = (part for name, part in self._parts.items() if name != supervisor.MONITOR)
        parts = (self._asking, self._notifying, self._service.retiring, *others)
        pulses = {supervisor.LOOK: self._pulse, **{part.name: part.pulse for part in parts}}
        servers = {SERVICE: self._service.pulse, supervisor.METRICS_PORT: self._outlets.pulse}
        return {**pulses, **{name: pulse for name, pulse in servers.items() if pulse is not None}}
