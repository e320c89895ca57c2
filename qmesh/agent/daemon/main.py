"""The agent: observe, plan, apply, for ever; and, on the control node, serve those who join.

The loop does all that is done to the machine. What waits for others is done beside it, in parts of
their own (`qmesh.agent.daemon.supervisor`), none of which ends or hangs without being noticed. So is
what must not wait for the loop: that the guard's table is as it is written.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from qmesh import __version__
from qmesh.agent import control_role
from qmesh.agent.audit.reporter import FindingsReporter
from qmesh.agent.daemon import late_imports, supervisor
from qmesh.agent.daemon.claim_watch import ClaimWatch
from qmesh.agent.daemon.detour_log import DetourLog
from qmesh.agent.daemon.endpoint_failover import EndpointFailover
from qmesh.agent.daemon.event_log import RegistryEventLog
from qmesh.agent.daemon.guard_watch import keep_guard
from qmesh.agent.daemon.loop_events import LOOK_S, LookRequests, LoopEvents
from qmesh.agent.daemon.membership_poll import MembershipPoller
from qmesh.agent.daemon.membership_server import MembershipService
from qmesh.agent.daemon.monitor import Monitor
from qmesh.agent.daemon.observe import MachineWatch, audit_interval_s
from qmesh.agent.daemon.supervisor import AgentPart, Troubles
from qmesh.agent.local import Local
from qmesh.agent.machine_facts.gatherer import FactsGatherer, read_report_key
from qmesh.agent.machine_facts.keeper import FactsKeeper, with_own_facts
from qmesh.agent.machine_facts.teller import FactsTeller
from qmesh.agent.metrics.collector import AgentKnowledge, MetricsCollector
from qmesh.agent.metrics.outlets import MetricsOutlets
from qmesh.agent.node.node_keys import KeyComparer, KeyReporter
from qmesh.agent.node.node_restarts import NodeConfigFollower
from qmesh.agent.node.process_watch import ProcessWatch
from qmesh.agent.node.program_watch import ProgramWatch
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
from qmesh.mesh.machine_facts.facts import ToldFacts
from qmesh.mesh.plan.describe import describe_step
from qmesh.mesh.plan.steps import LoadGuard, Step

if TYPE_CHECKING:  # few machines notify anybody
    from qmesh.agent.notifications.notifier import AgentFacts

CHANGING_S: Final = 0.1
"""The same, while a machine changes its key: what it sends before that is seen is lost; and while another
machine is about to be heard as the control node."""
SOON_S: Final = 1.0
"""The same of what follows the node's files, after one was written."""
MOST_STEPS_TOLD: Final = 20
"""Of one look; a first apply has one for each peer."""
PATIENCE_S: Final = 3.0
"""Seconds to wait for another command of qmesh on this machine; then the look is tried again."""
BUSY_S: Final = 60.0
"""Seconds of that after which something is wrong: commands end."""


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
        self._here: Local | None = None
        self._looked_at: float | None = None
        self._looked = threading.Event()
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
        self._reporter = KeyReporter()
        self._facts = FactsGatherer(lambda: read_report_key(state))
        self._teller = FactsTeller(lambda: self._facts.told)
        self._keeper = FactsKeeper(self._service.take_facts)
        self._detours = DetourLog(audit_interval_s)
        self._findings = FindingsReporter(state)
        self._metrics = MetricsCollector(state, self._collect_knowledge)
        self._outlets = MetricsOutlets(self._metrics, lambda: self._here, self._troubles)
        self._answers = ReaderAnswers(state, self._metrics)
        self._alterations = ""
        self._claims = ClaimWatch(
            state, self._troubles, know=lambda: self._here, listen=lambda: self._watch.notices
        )
        self._asking = AgentPart(supervisor.ASKING, self._poll_membership, self._troubles)
        self._notifying = AgentPart(supervisor.NOTIFYING, self._notify_operator, self._troubles)
        self._parts = {
            supervisor.MONITOR: AgentPart(supervisor.MONITOR, self._run_monitor, self._troubles),
            supervisor.ANSWERING: AgentPart(supervisor.ANSWERING, self._serve_health, self._troubles),
            supervisor.FOLLOWING: AgentPart(supervisor.FOLLOWING, self._follow_changes, self._troubles),
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
            self._looked_at = time.monotonic()
            self._troubles.clear(supervisor.LOOK)
            self._here = here
            self._looked.set()
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
            key_reporter=self._reporter,
            teller=self._teller,
            answer_request=self._findings.answer_request,
        ).run()

    def _run_monitor(self) -> None:
        self._monitor.run(self._parts[supervisor.MONITOR].stopped)

    def _follow_changes(self) -> None:
        """After each look: config.yml, the node's processes, and on a member the way to the control node."""
        part = self._parts[supervisor.FOLLOWING]
        follower, reach = NodeConfigFollower(self._state), EndpointFailover(self._state)
        watch, programs = ProcessWatch(self._state), ProgramWatch()
        events = RegistryEventLog(self._state)
        comparer = KeyComparer(self._state, take_reports=self._service.take_key_reports)
        while not part.stopped.is_set():
            part.pulse.beat(allowed_s=LOOK_S)
            self._looked.wait(SOON_S if self._reporter.is_waiting or comparer.is_waiting else LOOK_S)
            self._looked.clear()
            here = self._here
            if here is None:
                continue
            part.pulse.beat()
            try:
                watch.note_config(here)
                follower.follow_changes(here)
                watch.look(here)
                self._reporter.look(here)
                comparer.look(here)
                programs.look(here)
                self._facts.look(here, watch.workers, programs.programs)
                self._keeper.look(here)
                events.look(here, self._watch.event)
                if not here.settings.control and here.settings.up and reach.check_control_node(here):
                    self._calls.request_look()
            except Busy:
                pass  # the next time, then
            except (QmeshError, OSError) as error:
                if control_role.is_role_unchanged(self._state, here):
                    self._troubles.note_error(supervisor.FOLLOWING, error)
            else:
                self._troubles.clear(supervisor.FOLLOWING)

    def _keep_guard(self) -> None:
        keep_guard(
            self._state,
            self._parts[supervisor.GUARD],
            self._troubles,
            note_alterations=self._note_alterations,
        )

    def _note_alterations(self, text: str) -> None:
        self._alterations = text

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
                    agent_health.send_health(caller, self._build_health())

    def _keep_outlets(self) -> None:
        self._outlets.run(self._parts[supervisor.METRICS])

    def _answer_readers(self) -> None:
        service = ReaderService(self._answers, self._read_readers, self._troubles)
        service.run(self._parts[supervisor.READERS], self._state.directory)

    def _notify_operator(self) -> None:
        from qmesh.agent.notifications.notifier import Notifier  # noqa: PLC0415 - see above

        Notifier(self._state, self._collect_facts, self._metrics, self._troubles).run(self._notifying)

    def _collect_facts(self) -> AgentFacts | None:
        """For notifications; None before the first look."""
        from qmesh.agent.notifications.notifier import AgentFacts  # noqa: PLC0415 - see above

        here = self._here
        if here is None:
            return None
        return AgentFacts(
            here,
            self._watch.links.report,
            self._watch.links.list_heard(),
            self._watch.event,
            self._alterations,
        )

    def _read_readers(self) -> str | None:
        """The group of readers; none where this machine does not remember one that can be read."""
        with contextlib.suppress(QmeshError, OSError):
            return self._state.settings().readers
        return None

    def _collect_knowledge(self) -> AgentKnowledge | None:
        """For metrics; None before the first look."""
        here, looked_at = self._here, self._looked_at
        if here is None or looked_at is None:
            return None
        is_control = here.settings.control
        return AgentKnowledge(
            here,
            looked_at=time.time() - (time.monotonic() - looked_at),
            links=self._watch.links.report,
            counters=self._watch.counters,
            notes=self._service.list_notes(),
            unasked=dict(self._service.list_unasked()) if is_control else None,
            revisions=self._service.list_revisions() if is_control else None,
            facts={each.address: each for each in self._list_facts()},
            proof=self._claims.find_proof(),
        )

    def _build_health(self) -> agent_health.Health:
        looked_s = None if self._looked_at is None else time.monotonic() - self._looked_at
        return agent_health.Health(
            process=os.getpid(),
            looked_s=looked_s,
            troubles=self._troubles.list_troubles(),
            restarts=self._troubles.recent_restarts(),
            links=self._watch.links.report,
            unasked=self._service.list_unasked(),
            notes=self._service.list_notes(),
            facts=self._list_facts(),
            version=__version__,
            proof=self._claims.find_proof(),
        )

    def _list_facts(self) -> tuple[ToldFacts, ...]:
        """This machine's own and, on the control node, what members have told."""
        return with_own_facts(self._keeper.list_facts(), self._facts.told)

    def _restart_agent(self, part: str, pulse: Pulse) -> None:
        supervisor.restart_agent_process(part, pulse, self._troubles, self._state.directory)

    def _collect_pulses(self) -> Mapping[str, Pulse]:
        # The monitor's own is seen to by who answers `check`.
        others = (part for name, part in self._parts.items() if name != supervisor.MONITOR)
        parts = (self._asking, self._notifying, self._service.retiring, *others)
        pulses = {supervisor.LOOK: self._pulse, **{part.name: part.pulse for part in parts}}
        servers = {SERVICE: self._service.pulse, supervisor.METRICS_PORT: self._outlets.pulse}
        return {**pulses, **{name: pulse for name, pulse in servers.items() if pulse is not None}}
