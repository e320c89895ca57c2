"""The agent's part that answers root, and readers where the settings name a group of them."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from qmesh.agent.daemon.supervisor import READERS_PLACE, AgentPart, Troubles
from qmesh.agent.readers.answers import ReaderAnswers
from qmesh.errors import BadInput, QmeshError
from qmesh.host.log.events import report_event
from qmesh.host.readers.group import find_group_number
from qmesh.host.readers.place import SOCKET, ReaderPlace, remove_place
from qmesh.host.readers.server import ReaderServer
from qmesh.host.system import unix_socket
from qmesh.mesh.view.questions import ROOT, Caller, may_ask

GROUP_S: Final = 10.0
"""Seconds between two looks at who the group is now."""
_TICK_S: Final = 1.0


class ReaderService:
    """`run` is a part's.

    read_group: the name of the group that the settings name now; None for none.
    """

    def __init__(
        self, answers: ReaderAnswers, read_group: Callable[[], str | None], troubles: Troubles
    ) -> None:
        self._answers = answers
        self._read_group = read_group
        self._troubles = troubles
        self._server = ReaderServer(self._may_ask, answers.find_answer)
        self._place: ReaderPlace | None = None
        self._group: int | None = None
        self._name: str | None = None
        self._group_due = 0.0
        self._is_tidy = False

    def run(self, part: AgentPart, directory: Path) -> None:
        """Answer root in the state directory, and readers as the settings say, until the part should end."""
        own = unix_socket.listen(directory, SOCKET)
        try:
            while not part.stopped.is_set():
                part.pulse.beat()
                self.update_place(self._read_group())
                self._answers.forget_old()
                self._accept_callers(own)
        finally:
            own.close()
            self._close_place()

    def update_place(self, name: str | None) -> None:
        """Have the socket be as it should. name: the group of readers; None for none."""
        if name is None:
            self._name = None
            self._close_place()
            self._troubles.clear(READERS_PLACE)
            if not self._is_tidy:
                self._is_tidy = True
                remove_place()
            return
        self._is_tidy = False
        is_due = name != self._name or time.monotonic() >= self._group_due
        if not is_due and self._place is not None and self._place.is_whole:
            return
        if is_due:
            self._name, self._group_due = name, time.monotonic() + GROUP_S
        try:
            self._open_place(name)
        except QmeshError as error:
            self._troubles.note_error(READERS_PLACE, error)
        else:
            self._troubles.clear(READERS_PLACE)

    def _open_place(self, name: str) -> None:
        """Raises BadInput where there is no such group: then nobody is answered. Raises MachineRefused."""
        try:
            group = find_group_number(name)
        except BadInput:
            self._close_place()
            raise
        if self._place is not None and (group != self._group or not self._place.is_whole):
            self._close_place()
        if self._place is None:
            self._place = ReaderPlace(group)
            self._group = group
            report_event(
                "readers-served", "members of group %s may look by `qmesh status` and other commands", name
            )

    def _accept_callers(self, own: socket.socket) -> None:
        """Those who call within a moment, one of each kind."""
        places = {each.fileno(): each for each in (own, self._place and self._place.listening) if each}
        poll = select.poll()  # select(2) knows no descriptor beyond 1023
        for descriptor in places:
            poll.register(descriptor, select.POLLIN)
        for descriptor, _ in poll.poll(_TICK_S * 1000):
            listening = places[descriptor]
            listening.settimeout(0)
            with contextlib.suppress(BlockingIOError):
                connection, _ = listening.accept()
                self._server.take_caller(connection)

    def _may_ask(self, caller: Caller) -> bool:
        if caller.user == ROOT:
            return True
        group, name = self._group, self._name
        # Read anew, so that nobody is answered after a command that ends that.
        return group is not None and may_ask(caller, group) and self._read_group() == name

    def _close_place(self) -> None:
        self._group = None
        if self._place is not None:
            self._place.close()
            self._place = None
