"""The part of the agent that follows what a look has seen: the node's files and processes, other machines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from qmesh.agent import control_role
from qmesh.agent.daemon import supervisor
from qmesh.agent.daemon.endpoint_failover import EndpointFailover
from qmesh.agent.daemon.event_log import RegistryEventLog
from qmesh.agent.daemon.loop_events import LOOK_S, LastLook
from qmesh.agent.daemon.membership.server import MembershipService
from qmesh.agent.daemon.observe import MachineWatch
from qmesh.agent.daemon.supervisor import AgentPart, Troubles
from qmesh.agent.machine_facts.gatherer import FactsGatherer, read_report_key
from qmesh.agent.machine_facts.keeper import FactsKeeper, with_own_facts
from qmesh.agent.machine_facts.teller import FactsTeller
from qmesh.agent.node.node_keys import KeyComparer, KeyReporter
from qmesh.agent.node.node_restarts import NodeConfigFollower
from qmesh.agent.node.process_watch import ProcessWatch
from qmesh.agent.node.program_watch import ProgramWatch
from qmesh.errors import Busy, QmeshError
from qmesh.host.state.directory import State
from qmesh.mesh.machine_facts.facts import ToldFacts

SOON_S: Final = 1.0
"""Seconds between two looks at what follows the node's files, after one was written."""


class ChangeFollower:
    """`run` is a part's.

    last: the loop's last look. request_look: has another one come.
    key_reporter, teller: what a member tells the control node with its questions.
    """

    def __init__(
        self,
        state: State,
        service: MembershipService,
        watch: MachineWatch,
        troubles: Troubles,
        *,
        last: LastLook,
        request_look: Callable[[], None],
    ) -> None:
        self._state = state
        self._service = service
        self._watch = watch
        self._troubles = troubles
        self._last = last
        self._request_look = request_look
        self._facts = FactsGatherer(lambda: read_report_key(state))
        self._keeper = FactsKeeper(service.take_facts)
        self.key_reporter = KeyReporter()
        self.teller = FactsTeller(lambda: self._facts.told)

    def run(self, part: AgentPart) -> None:
        """After each look: config.yml, the node's processes, and on a member the way to the control node."""
        follower, reach = NodeConfigFollower(self._state), EndpointFailover(self._state)
        watch, programs = ProcessWatch(self._state), ProgramWatch()
        events = RegistryEventLog(self._state)
        comparer = KeyComparer(self._state, take_reports=self._service.take_key_reports)
        while not part.stopped.is_set():
            part.pulse.beat(allowed_s=LOOK_S)
            self._last.wait(SOON_S if self.key_reporter.is_waiting or comparer.is_waiting else LOOK_S)
            here = self._last.here
            if here is None:
                continue
            part.pulse.beat()
            try:
                watch.note_config(here)
                follower.follow_changes(here)
                watch.look(here)
                self.key_reporter.look(here)
                comparer.look(here)
                programs.look(here)
                self._facts.look(here, watch.workers, programs.programs)
                self._keeper.look(here)
                events.look(here, self._watch.event)
                if not here.settings.control and here.settings.up and reach.check_control_node(here):
                    self._request_look()
            except Busy:
                pass  # the next time, then
            except (QmeshError, OSError) as error:
                if control_role.is_role_unchanged(self._state, here):
                    self._troubles.note_error(supervisor.FOLLOWING, error)
            else:
                self._troubles.clear(supervisor.FOLLOWING)

    def list_facts(self) -> tuple[ToldFacts, ...]:
        """Of this machine and, on the control node, what members have told. From any thread."""
        return with_own_facts(self._keeper.list_facts(), self._facts.told)
