"""The control node's membership service, kept up: for the agent's loop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from qmesh.agent import control_role
from qmesh.agent.daemon.loop_events import LookRequests
from qmesh.agent.daemon.supervisor import RETIRING, AgentPart, Retries, Troubles, describe_error
from qmesh.agent.local import Local
from qmesh.errors import Busy, KernelRefused, QmeshError
from qmesh.host.log.events import report_event
from qmesh.host.network import links
from qmesh.host.pulse import Pulse
from qmesh.host.state.directory import State
from qmesh.host.system import agent_notify
from qmesh.mesh.audit.surroundings import SERVICE
from qmesh.mesh.protocol.member_note import MemberNote

if TYPE_CHECKING:  # see `_start`
    from qmesh.agent.daemon.membership.api import ControlNode
    from qmesh.host.api.server import Service

_ASK_S: Final = 0.1
"""Seconds between two questions to the next control node."""


class MembershipService:
    """All of it is of the loop's thread, but for `probe` and `pulse`, which are the monitor's.

    look: has a look at the machine come.
    turns: the agent's looks, for what waits for one.
    """

    def __init__(
        self, state: State, *, look: Callable[[], None], turns: LookRequests, troubles: Troubles
    ) -> None:
        self.serves = False
        """Whether it was seen to answer."""
        self.is_suspect = False
        """Whether it was seen not to, and another one is to take its place."""
        self._state = state
        self._look = look
        self._turns = turns
        self._troubles = troubles
        self._retries = Retries()
        self._running: tuple[object, Service, ControlNode] | None = None
        self._announced: int | None = None
        self._succeeded: Local | None = None
        self._answered: control_role.NewControlAnswer | None = None
        self.retiring = AgentPart(RETIRING, self._ask_new_control_node, troubles)
        """What asks the next control node, where the mesh has one; to be stopped with the agent."""

    @property
    def wait_s(self) -> float:
        """Seconds until it is to be tried again, where it has failed; else 0."""
        return self._retries.wait_s

    @property
    def is_starting(self) -> bool:
        """Whether it runs and was not seen to answer yet."""
        return self._running is not None and not self.serves

    @property
    def pulse(self) -> Pulse | None:
        """Of its thread, where it has one."""
        running = self._running
        return None if running is None else running[1].pulse

    @property
    def work_done(self) -> int:
        """As `Service.work_done`; 0 where none runs."""
        running = self._running
        return 0 if running is None else running[1].work_done

    @property
    def has_handed_over(self) -> bool:
        """Whether the mesh has another control node, and this one serves until that is heard."""
        return self._running is not None and self._running[2].has_handed_over

    def take_key_reports(self) -> dict[str, bytes]:
        """What members have reported of their nodes' keys since this was asked last. From any thread."""
        running = self._running
        return {} if running is None else running[2].take_key_reports()

    def take_facts(self) -> dict[str, bytes]:
        """As `ControlNode.take_facts`. From any thread."""
        running = self._running
        return {} if running is None else running[2].take_facts()

    def list_notes(self) -> tuple[tuple[str, MemberNote], ...]:
        """As `ControlNode.list_notes`. From any thread."""
        running = self._running
        return () if running is None else running[2].list_notes()

    def list_unasked(self) -> tuple[tuple[str, float], ...]:
        """As `ControlNode.list_unasked`. From any thread."""
        running = self._running
        return () if running is None else running[2].list_unasked()

    def list_unanswered(self) -> frozenset[str]:
        """As `ControlNode.list_unanswered`. From any thread."""
        running = self._running
        return frozenset() if running is None else running[2].list_unanswered()

    def list_revisions(self) -> dict[str, int]:
        """As `ControlNode.list_revisions`. From any thread."""
        running = self._running
        return {} if running is None else running[2].list_revisions()

    def update_service(self, here: Local, event: int | None) -> None:
        """See that it runs as the machine is, and that who waits hears of what is new. On a member none runs.

        event: the registry's last one.
        """
        if not here.settings.control:
            self.stop()
            self._succeeded = self._answered = None
            self._troubles.clear(SERVICE)
            return
        self._ensure_running(here)
        if self._running is not None:
            _, service, control_node = self._running
            with contextlib.suppress(Busy):  # then the next time
                control_node.write_acknowledgements()
            if event != self._announced or control_node.is_handover_public:
                self._announced = event
                service.announce_change()
        self._retire_if_answered(here)

    def _retire_if_answered(self, here: Local) -> None:
        """Where the mesh has another control node, be a member once that one has answered."""
        self._succeeded = here if self.has_handed_over else None
        if self._succeeded is None:
            self._answered = None
            return
        self.retiring.start()
        if self._answered is not None:
            control_role.become_member(self._state, self._answered)
            self.stop()  # before the tunnels to the members go: it tells them
            self._succeeded = self._answered = None
            self._look()

    def _ask_new_control_node(self) -> None:
        """Ask the new control node until it answers: in a thread of its own, as it may never end that."""
        while not self.retiring.stopped.wait(_ASK_S):
            self.retiring.pulse.beat()
            here = self._succeeded
            if here is not None and self._answered is None:
                self._answered = self._fetch_answer(here)
                if self._answered is not None:
                    self._look()

    def _fetch_answer(self, here: Local) -> control_role.NewControlAnswer | None:
        try:
            return control_role.ask_new_control_node(self._state, here)
        except QmeshError:
            if self._state.settings().control:
                raise
            return None  # a member by now, by `qmesh join`: what it was asked with is gone

    def _ensure_running(self, here: Local) -> None:
        """It is bound to the interface as it is: one that was made anew wants a new one."""
        link = links.read(here.settings.interface) if here.settings.up else None
        wanted = None if link is None else (link.index, here.machine.address, here.inventory.service_port)
        if self._running is not None:
            place, service, _ = self._running
            if not service.is_alive:
                self.stop()
                error = service.failure or KernelRefused("it ended by itself", hint="")
                self._note_failure(error)
                self._troubles.note_restart(SERVICE, describe_error(error))
            elif place != wanted or self.is_suspect:
                if self.is_suspect:
                    self._retries.note_failure()
                self.stop()
        if wanted is None:
            self._troubles.clear(SERVICE)
        elif self._running is None and not self._retries.wait_s:
            try:
                self._start(here, wanted)
            except Exception as error:  # noqa: BLE001 - the look at the machine goes on without it
                self._note_failure(error)

    def _start(self, here: Local, place: object) -> None:
        # A worker machine serves nobody.
        from qmesh.agent.audit.collection import Collector  # noqa: PLC0415
        from qmesh.agent.daemon.membership.api import ControlNode  # noqa: PLC0415
        from qmesh.host.api import collection  # noqa: PLC0415
        from qmesh.host.api.server import Collection, Service  # noqa: PLC0415

        control_node = ControlNode(self._state, changed=self._look, turns=self._turns)
        service = Service(
            control_node,
            address=here.machine.address,
            port=here.inventory.service_port,
            interface=here.settings.interface,
            told=agent_notify.listen(self._state.directory),
            collection=Collection(
                collection.listen(self._state.directory), Collector(self._state, own=here.settings.name)
            ),
            ended=self._look,
        )
        self._running = place, service, control_node
        service.start()
        self._retries.note_start()
        report_event(
            "members-served",
            "members are served at %s port %d",
            here.machine.address,
            here.inventory.service_port,
        )

    def _note_failure(self, error: BaseException) -> None:
        self._retries.note_failure()
        self._troubles.note_error(SERVICE, error)

    def stop(self) -> None:
        """End it, where it runs."""
        self.serves = self.is_suspect = False
        if self._running is not None:
            _, service, control_node = self._running
            control_node.publish_handover()
            service.stop()
            self._running = None

    def probe(self, *, wait_s: float) -> None:
        """Ask it as a member does whether it serves; where it does not run there is nothing to ask.

        Raises as `Service.probe` does.
        """
        running = self._running
        if running is None:
            return
        was_seen = self.serves
        try:
            running[1].probe(wait_s=wait_s)
        except QmeshError:
            if self._answered is not None or self._running is not running:
                return  # it is to end, or has ended meanwhile
            self.serves = False
            raise
        if self._running is not running:
            return
        self.serves = True
        self._troubles.clear(SERVICE)
        if not was_seen:
            self._look()
