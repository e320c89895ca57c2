"""The one place that gathers what metrics are made of.

What the agent knows by its looks is taken from it. For metrics alone the workers and the guard are looked at,
and this machine is checked; not when somebody asks, but at intervals, while anybody does.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from qmesh import __version__
from qmesh.agent.audit.reporter import run_check
from qmesh.agent.converge import desired_and_observed_guard
from qmesh.agent.local import Local, load_local, with_tunnel_and_guard
from qmesh.agent.machine_facts.gatherer import gather_facts
from qmesh.agent.node.other_nodes import FindOtherNodes, OtherNodeWatch
from qmesh.agent.node.worker_status import probe_answers
from qmesh.errors import QmeshError
from qmesh.host.linux import Linux
from qmesh.host.log.events import report_event
from qmesh.host.network import links
from qmesh.host.registry_access import open_registry
from qmesh.host.state.directory import State
from qmesh.host.system.heartbeat import allow_wait
from qmesh.mesh.audit.findings import Finding
from qmesh.mesh.links.activity import LinkReport
from qmesh.mesh.machine_facts.facts import ToldFacts
from qmesh.mesh.metrics.families import build_families
from qmesh.mesh.metrics.snapshot import Snapshot, WorkerSample, is_guard_whole
from qmesh.mesh.metrics.text_format import render_metrics
from qmesh.mesh.node_processes.answers import list_undialled_machines
from qmesh.mesh.protocol.member_note import MemberNote
from qmesh.mesh.standing_proof.record import StandingProof
from qmesh.mesh.state import Counters
from qmesh.mesh.view.builder import MOST_EVENTS, build_cluster_view
from qmesh.mesh.view.cluster_view import ClusterView, EventView

if TYPE_CHECKING:  # a worker machine has no registry
    from qmesh.host.registry import Event

FRESH_S: Final = 2.0
"""Seconds for which a text is handed out again, to however many who ask."""
LOOK_S: Final = 15.0
"""Seconds between two looks at workers and guard, at least."""
VIEW_LOOK_S: Final = 5.0
"""The same while somebody looks at a view."""
CHECK_S: Final = 300.0
"""Seconds between two checks of this machine, at least."""
VIEW_CHECK_S: Final = 60.0
"""The same while somebody looks at a view."""
_TIMES: Final = 20
"""How many times longer than a look takes nobody looks again: of thousands of workers many may be away."""
_LOOKING_S: Final = 20.0
"""Seconds for which another thread may be looking at workers."""
OTHERS_S: Final = 1.0
"""Seconds that a look waits to be told which sockets here are another node's."""
WANTED_S: Final = 600.0
"""Seconds for which one who has asked is expected to ask again."""


class AgentKnowledge(NamedTuple):
    """What an agent knows at one moment; nothing but `here` where none runs.

    looked_at, counters: as of `Snapshot`; notes: as of `probe_answers`; unasked and revisions: on the control
        node; facts, proof: as of `Snapshot`.
    """

    here: Local
    looked_at: float | None = None
    links: LinkReport | None = None
    counters: Mapping[str, Counters] | None = None
    notes: tuple[tuple[str, MemberNote], ...] = ()
    unasked: Mapping[str, float] | None = None
    revisions: Mapping[str, int] | None = None
    facts: Mapping[str, ToldFacts] = {}
    proof: StandingProof | None = None


class WorkerLook(NamedTuple):
    """A look at workers and guard. is_dialled: whether all workers were dialled, by the control node.

    revision: of the mesh looked at. workers, guard_ok: None where that could not be looked at.
    """

    is_dialled: bool
    revision: int
    workers: tuple[WorkerSample, ...] | None
    guard_ok: bool | None


class MachineCheck(NamedTuple):
    """A check of this machine. at: Unix time in seconds."""

    findings: tuple[Finding, ...]
    at: float


class MetricsCollector:
    """Of one machine. From any thread.

    know: what its agent knows now; None before its first look.
    """

    def __init__(self, state: State, know: Callable[[], AgentKnowledge | None]) -> None:
        self._state = state
        self._know = know
        self._looking = threading.Lock()
        self._checking = threading.Lock()
        self._rendering = threading.Lock()
        self._look: WorkerLook | None = None
        self._looked = -math.inf, 0.0
        """When the last look ended, on the monotonic clock, and the seconds that it took."""
        self._checked = -math.inf
        """When the last check ended, likewise."""
        self._check: MachineCheck | None = None
        self._other_nodes = OtherNodeWatch(wait_s=OTHERS_S)
        self._answered: dict[tuple[str, int], float] = {}
        """When each worker answered last, on the monotonic clock, by machine and core."""
        self._asked_at: float | None = None
        self._text: tuple[bytes, float] | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether somebody has asked lately."""
        asked = self._asked_at
        return asked is not None and time.monotonic() < asked + WANTED_S

    @property
    def last_look(self) -> WorkerLook | None:
        """The last look at workers and guard; another object after each."""
        return self._look

    @property
    def last_check(self) -> MachineCheck | None:
        """The last check of this machine; another object after each."""
        return self._check

    def refresh(self) -> None:
        """Look again at what is looked at for metrics, where that is due; a check in a thread of its own."""
        knowledge = self._know()
        if knowledge is not None:
            self._look_if_due(knowledge)
            self._begin_check_if_due()

    def _begin_check_if_due(self, *, least_s: float = CHECK_S) -> None:
        if time.monotonic() >= self._checked + least_s and not self._checking.locked():
            work = partial(self._ensure_check, least_s=least_s)
            threading.Thread(target=work, name="check for metrics", daemon=True).start()

    def render(self) -> bytes:
        """The text, of what is known by now; empty before the agent's first look."""
        self._asked_at = time.monotonic()
        with self._rendering:
            if self._text is None or time.monotonic() >= self._text[1]:
                knowledge = self._know()
                text = b"" if knowledge is None else self._render(knowledge)
                self._text = text, time.monotonic() + FRESH_S
            return self._text[0]

    def render_all(self) -> bytes:
        """What is so now, all of it looked at: it may take half a minute. Empty before the first look."""
        self._asked_at = time.monotonic()
        self._ensure_check()
        knowledge = self._know()
        if knowledge is None:
            return b""
        knowledge = self._freshen(knowledge)
        self._look_if_due(knowledge)
        return self._render(knowledge)

    def build_view(self) -> ClusterView | None:
        """The same for readers and the page, who look often: only the first one waits for workers to answer.

        None before the first look.
        """
        self._asked_at = time.monotonic()
        knowledge = self._know()
        if knowledge is None:
            return None
        self._begin_check_if_due(least_s=VIEW_CHECK_S)
        knowledge = self._freshen(knowledge)
        look = partial(self._look_if_due, knowledge, least_s=VIEW_LOOK_S)
        if self._find_look(knowledge.here) is None:
            look()
        elif self._is_look_due(VIEW_LOOK_S) and not self._looking.locked():
            threading.Thread(target=look, name="look for a view", daemon=True).start()
        events = _read_events(self._state, knowledge.here)
        return build_cluster_view(self._build_snapshot(knowledge), events, at=time.time())

    def _freshen(self, knowledge: AgentKnowledge) -> AgentKnowledge:
        """The same with what the kernel and the registry say now."""
        # A control node's agent may know of the newest machines only by its next look at everything.
        with contextlib.suppress(QmeshError):
            knowledge = knowledge._replace(here=load_local(self._state))
        counters = _read_counters(self._state, knowledge.here.settings.interface)
        return knowledge._replace(counters=counters)

    def _look_if_due(self, knowledge: AgentKnowledge, *, least_s: float = LOOK_S) -> None:
        with allow_wait(_LOOKING_S):
            self._looking.acquire()
        try:
            if self._is_look_due(least_s) or self._find_look(knowledge.here) is None:
                self._look_again(knowledge)
        finally:
            self._looking.release()

    def _is_look_due(self, least_s: float) -> bool:
        ended, took_s = self._looked
        return time.monotonic() >= ended + max(least_s, _TIMES * took_s)

    def _find_look(self, here: Local) -> WorkerLook | None:
        """The last one; None where it was at other workers: before a change of the mesh, or of this role."""
        look = self._look
        if look is None or look.is_dialled != here.settings.control:
            return None
        return None if look.revision < here.inventory.revision else look

    def _look_again(self, knowledge: AgentKnowledge) -> None:
        began = time.monotonic()
        here = knowledge.here
        workers = self._note_answers(_find_workers(knowledge, self._other_nodes.find))
        self._look = WorkerLook(
            here.settings.control, here.inventory.revision, workers, self._find_guard(here)
        )
        ended = time.monotonic()
        self._looked = ended, ended - began

    def _note_answers(self, workers: tuple[WorkerSample, ...] | None) -> tuple[WorkerSample, ...] | None:
        """The same, each with how long ago it answered last."""
        if workers is None:
            return None
        now, before = time.monotonic(), self._answered
        self._answered = {
            (each.machine, each.core): now if each.seconds is not None else before[each.machine, each.core]
            for each in workers
            if each.seconds is not None or (each.machine, each.core) in before
        }
        return tuple(
            each._replace(answered_s=now - self._answered[each.machine, each.core])
            if (each.machine, each.core) in self._answered
            else each
            for each in workers
        )

    def _ensure_check(self, *, least_s: float = CHECK_S) -> None:
        """Check this machine, where that is due."""
        with self._checking:
            if time.monotonic() < self._checked + least_s:
                return
            try:
                self._check = MachineCheck(run_check(self._state).findings, time.time())
            except OSError as error:
                report_event(
                    "metrics-incomplete", "this machine could not be checked for its metrics: %s", error
                )
            finally:
                self._checked = time.monotonic()

    def _find_guard(self, here: Local) -> bool | None:
        """Whether it is whole; None where that can't be seen, which is no word on the guard."""
        try:
            linux = Linux(self._state, here.settings.interface, [])
            return is_guard_whole(*desired_and_observed_guard(with_tunnel_and_guard(here), linux))
        except QmeshError as error:
            report_event("metrics-incomplete", "metrics: the guard could not be looked at: %s", error.message)
            return None

    def _render(self, knowledge: AgentKnowledge) -> bytes:
        return render_metrics(build_families(self._build_snapshot(knowledge)))

    def _build_snapshot(self, knowledge: AgentKnowledge) -> Snapshot:
        here, check = knowledge.here, self._check
        look = self._find_look(here)
        return Snapshot(
            name=here.settings.name,
            version=__version__,
            inventory=here.inventory,
            interface=here.settings.interface,
            looked_at=knowledge.looked_at,
            guard_ok=None if look is None else look.guard_ok,
            dropped=_read_drops(),
            counters=knowledge.counters,
            links=knowledge.links,
            unasked=knowledge.unasked,
            revisions=knowledge.revisions,
            facts=knowledge.facts,
            proof=knowledge.proof,
            workers=None if look is None else look.workers,
            is_dialled=here.settings.control,
            findings=None if check is None else check.findings,
            checked_at=None if check is None else check.at,
        )


def gather_metrics(state: State) -> bytes:
    """The text on a machine without an agent: all of it is looked at now."""
    return MetricsCollector(state, lambda: _know_without_agent(load_local(state))).render_all()


def _know_without_agent(here: Local) -> AgentKnowledge:
    facts = gather_facts(here, (), (), seen={}, nft="")
    own = ToldFacts(here.machine.address, time.time(), facts)
    return AgentKnowledge(here, facts={own.address: own})


def _find_workers(
    knowledge: AgentKnowledge, find_other_nodes: FindOtherNodes
) -> tuple[WorkerSample, ...] | None:
    here = knowledge.here
    unheard = list_undialled_machines(here.inventory, knowledge.links or LinkReport())
    try:
        found = probe_answers(here, unheard=unheard, notes=knowledge.notes, find_other_nodes=find_other_nodes)
    except QmeshError as error:
        report_event("metrics-incomplete", "metrics: the workers could not be looked at: %s", error.message)
        return None
    return tuple(
        WorkerSample(worker.machine, worker.core, answer.seconds, answer.why)
        for answers in found.values()
        for worker, answer in answers
    )


def _read_events(state: State, here: Local) -> tuple[EventView, ...] | None:
    """The newest; None where this machine has no registry, or it can't be read, which the agent says."""
    if not here.settings.control:
        return None
    with contextlib.suppress(QmeshError), open_registry(state.registry_file) as registry:
        return tuple(map(build_event_view, registry.events()[-MOST_EVENTS:]))
    return None


def build_event_view(event: Event) -> EventView:
    """An event of the registry, without what readers may not see."""
    return EventView(
        at=event.at,
        what=event.what,
        machine=event.machine,
        revision=event.revision,
        command=event.command,
        user=event.user,
        address=event.address,
    )


def _read_drops() -> Mapping[str, int] | None:
    from qmesh.host.firewall.drop_counters import read_dropped_packets  # noqa: PLC0415 - an agent that nobody asks has no use for it

    with contextlib.suppress(QmeshError):
        return read_dropped_packets()
    return None


def _read_counters(state: State, interface: str) -> Mapping[str, Counters] | None:
    """Of the tunnel's peers; None where there is no tunnel, or it can't be seen, which the agent says."""
    with contextlib.suppress(QmeshError):
        if links.read(interface) is not None:
            return Linux(state, interface, []).backend.read(interface).counters
    return None
