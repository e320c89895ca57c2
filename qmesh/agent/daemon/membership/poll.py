"""A worker machine's agent asks for newer memberships; it waits nearly always."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable
from typing import Final

from qmesh.agent.control_role import report_handover_progress
from qmesh.agent.daemon.membership.retirements import RetirementListener
from qmesh.agent.daemon.supervisor import Troubles
from qmesh.agent.local import load_local
from qmesh.agent.machine_facts.teller import FactsTeller
from qmesh.agent.membership import mark_removed, update_membership
from qmesh.agent.node.node_keys import KeyReporter
from qmesh.agent.node.other_nodes import OtherNodeWatch
from qmesh.agent.node.worker_status import find_worker_note
from qmesh.errors import EnrolmentRefused, QmeshError, RemovedFromMesh
from qmesh.host.api.messages import ControlNodeUnavailable
from qmesh.host.log.events import report_event
from qmesh.host.state.directory import State
from qmesh.host.system import heartbeat
from qmesh.mesh.audit.surroundings import CONTROL_NODE

WAIT_S: Final = 50
"""Seconds that the control node keeps the question waiting for something new."""
NOTED_S: Final = 5
"""The same while workers stand still here, so that it is soon known when they go on; and until this machine's
facts were told, which are not known before the agent has looked."""
PROGRESS_S: Final = 1
"""The same for the successor of the control node, which says each time how far it is."""
CONNECT_S: Final = 2.0
AGAIN_S: Final = (0.5, 2.0, 5.0, 15.0)
"""Seconds until the next try, on average, after so many that failed."""
OTHERS_S: Final = 1.0
"""Seconds that it waits to be told which sockets here are another node's."""
REST_S: Final = 5.0
"""Seconds between two looks at a machine that has nothing to ask, as its tunnel is down."""
_SEE_CONTROL: Final = "run `qmesh check` on the control node"
SPREAD_S: Final = 0.5
"""Seconds over which members ask anew that were told at once."""


class MembershipPoller:
    """Asks again and again, in `run`. It changes no more than files; what they ask for, the agent does.

    arrived: called when there is a newer membership, or when this machine was removed.
    troubles: where it says what stands in the way of an answer.
    stopped: set when it is to ask no more.
    key_reporter: what is reported of the node's keys.
    teller: what tells this machine's facts.
    answer_request: called where the control node asks for this machine's findings; it does not wait.
    """

    def __init__(
        self,
        state: State,
        *,
        arrived: Callable[[], None],
        troubles: Troubles,
        stopped: threading.Event,
        key_reporter: KeyReporter,
        teller: FactsTeller,
        answer_request: Callable[[str], None],
    ) -> None:
        self._state = state
        self._arrived = arrived
        self._troubles = troubles
        self._stopped = stopped
        self._key_reporter = key_reporter
        self._teller = teller
        self._answer_request = answer_request
        self._failed = 0
        self._listener = RetirementListener()
        self._other_nodes = OtherNodeWatch(wait_s=OTHERS_S)

    def run(self) -> None:
        """Ask until it is stopped. Raises what nobody has foreseen."""
        pause_s = 0.0
        while not self._wait_for_stop(pause_s):
            pause_s = self._poll_once()
            self._troubles.report_status()

    def _wait_for_stop(self, seconds: float) -> bool:
        with heartbeat.allow_wait(seconds):
            return self._stopped.wait(seconds)

    def _poll_once(self) -> float:
        """Ask once; seconds until the next time."""
        try:
            settings = self._state.settings()
            if settings.control or not settings.up:
                self._troubles.clear(CONTROL_NODE)
                return REST_S
            here = load_local(self._state)
            if here.inventory.control == here.settings.name:
                return REST_S  # the agent's own look takes over
            is_successor = here.inventory.successor == here.settings.name
            note = find_worker_note(here, self._other_nodes.find)
            is_near = bool(note.stopped) or self._teller.is_waiting
            wait_s = PROGRESS_S if is_successor else NOTED_S if is_near else WAIT_S
            arrived = update_membership(
                self._state,
                here,
                connect_s=CONNECT_S,
                wait_s=wait_s,
                key_reports=self._key_reporter.reports,
                note=note,
                teller=self._teller,
                answer_request=self._answer_request,
            )
            if is_successor and not arrived and report_handover_progress(self._state, here):
                self._arrived()
        except RemovedFromMesh as error:
            report_event("removed", "%s (hint: %s)", error.message, error.hint)
            self._arrived()
            return REST_S
        except (ControlNodeUnavailable, EnrolmentRefused) as error:
            self._teller.note_failure()
            with contextlib.suppress(QmeshError, OSError):  # then the next notice: it is sent again
                if self._take_notice():
                    return REST_S
            self._troubles.note(CONTROL_NODE, str(error), hint=getattr(error, "hint", _SEE_CONTROL))
        except (QmeshError, OSError):  # the agent's own look says what is wrong
            pass
        else:
            self._failed = 0
            self._teller.note_answer()
            self._listener.close()
            self._state.key_retirement.remove()
            self._troubles.clear(CONTROL_NODE)
            if not arrived:
                return 0.0
            report_event("membership-arrived", "a newer membership has arrived")
            self._arrived()
            return random.uniform(0, SPREAD_S)  # noqa: S311 - no secret depends on it
        pause_s = AGAIN_S[min(self._failed, len(AGAIN_S) - 1)]
        self._failed += 1
        return pause_s * random.uniform(0.7, 1.3)  # noqa: S311 - as above

    def _take_notice(self) -> bool:
        """Hear whether the mesh has this machine's key no more; whether it was removed, and now knows it."""
        said = self._listener.find_notice(load_local(self._state))
        if said is None:
            return False
        if said.reason == "replaced":
            if self._state.key_retirement.read_valid() != said:
                self._state.key_retirement.write(said)
            return False
        with self._state.lock():
            mark_removed(self._state)
        error = RemovedFromMesh()
        report_event("removed", "%s (hint: %s)", error.message, error.hint)
        self._listener.close()
        self._troubles.clear(CONTROL_NODE)
        self._arrived()
        return True
