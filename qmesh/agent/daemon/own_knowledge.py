"""What the agent knows by its looks and its parts, for who asks: `check`, metrics, notifications."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from qmesh import __version__
from qmesh.agent.daemon.change_follower import ChangeFollower
from qmesh.agent.daemon.claim_watch import ClaimWatch
from qmesh.agent.daemon.loop_events import LastLook
from qmesh.agent.daemon.membership.server import MembershipService
from qmesh.agent.daemon.observe import MachineWatch
from qmesh.agent.daemon.supervisor import Troubles
from qmesh.agent.metrics.collector import AgentKnowledge
from qmesh.host.system.agent_health import Health

if TYPE_CHECKING:  # few machines notify anybody
    from qmesh.agent.notifications.notifier import AgentFacts


class OwnKnowledge:
    """Asked from any thread. alterations: of the guard by others, in words; empty for none."""

    def __init__(
        self,
        last: LastLook,
        troubles: Troubles,
        *,
        watch: MachineWatch,
        service: MembershipService,
        follower: ChangeFollower,
        claims: ClaimWatch,
    ) -> None:
        self._last = last
        self._troubles = troubles
        self._watch = watch
        self._service = service
        self._follower = follower
        self._claims = claims
        self.alterations = ""

    def build_health(self) -> Health:
        """For `check`."""
        last = self._last.result
        return Health(
            process=os.getpid(),
            looked_s=None if last is None else time.monotonic() - last.at,
            troubles=self._troubles.list_troubles(),
            restarts=self._troubles.recent_restarts(),
            links=self._watch.links.report,
            unasked=self._service.list_unasked(),
            notes=self._service.list_notes(),
            facts=self._follower.list_facts(),
            version=__version__,
            proof=self._claims.find_proof(),
        )

    def collect_for_metrics(self) -> AgentKnowledge | None:
        """None before the first look."""
        last = self._last.result
        if last is None:
            return None
        is_control = last.here.settings.control
        return AgentKnowledge(
            last.here,
            looked_at=time.time() - (time.monotonic() - last.at),
            links=self._watch.links.report,
            counters=self._watch.counters,
            notes=self._service.list_notes(),
            unasked=dict(self._service.list_unasked()) if is_control else None,
            revisions=self._service.list_revisions() if is_control else None,
            facts={each.address: each for each in self._follower.list_facts()},
            proof=self._claims.find_proof(),
        )

    def collect_for_notifications(self) -> AgentFacts | None:
        """None before the first look."""
        from qmesh.agent.notifications.notifier import AgentFacts  # noqa: PLC0415 - see above

        here = self._last.here
        if here is None:
            return None
        return AgentFacts(
            here,
            self._watch.links.report,
            self._watch.links.list_heard(),
            self._watch.event,
            self.alterations,
        )
