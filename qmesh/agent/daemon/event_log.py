"""On the control node, what changes the mesh is logged, whichever command or machine has done it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from qmesh.agent.local import Local
from qmesh.errors import QmeshError
from qmesh.host import files
from qmesh.host.log.events import report_event
from qmesh.host.registry_access import open_registry
from qmesh.host.state.directory import State

if TYPE_CHECKING:  # a worker machine has no registry
    from qmesh.host.registry import Event

_SAID_ELSEWHERE: Final = frozenset({"node-files-fetched", "handed-over"})
"""Events that the agent logs itself, when it makes them."""


class RegistryEventLog:
    """Logs the registry's events with their own codes, from when the agent was started on."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._last: int | None = None
        with contextlib.suppress(QmeshError):  # which the next look says
            if files.read_mode(state.registry_file) is not None:
                self._take_new_events()

    def look(self, here: Local, newest: int | None) -> None:
        """Log what is new. Raises QmeshError where the registry cannot be read.

        newest: the registry's last event, as far as the agent's loop knows it.
        """
        if not here.settings.control:
            self._last = None
            return
        if newest is not None and newest == self._last:
            return
        for event in self._take_new_events():
            if event.what not in _SAID_ELSEWHERE:
                _report(event)

    def _take_new_events(self) -> tuple[Event, ...]:
        with open_registry(self._state.registry_file) as registry:
            self._last, events = registry.list_new_events(self._last)
        return events


def _report(event: Event) -> None:
    what = f"{event.what} {event.machine}" if event.machine else event.what
    report_event(
        event.what,
        "%s (%s), revision %d",
        what,
        event.describe_author(),
        event.revision,
        machine=event.machine,
    )
