"""Machines whose handshakes WireGuard takes for old ones, as their clocks went back: let in again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping
from typing import Final

from qmesh.agent.local import Local
from qmesh.host.linux import Linux
from qmesh.host.log.events import report_event
from qmesh.host.wireguard.initiations import InitiationReceiver
from qmesh.mesh.links.activity import LinkReport
from qmesh.mesh.links.handshakes import Initiation, read_initiation

AGAIN_S: Final = 300.0
"""Seconds after which a peer is made anew once more. Who has recorded an old handshake can cause it, and
gains nothing: there is no packet that he could read or send."""
_LAST_TIME: Final = 253_402_300_799
"""The end of the year 9999: the time is what another machine says."""


class RefusedHandshakes:
    """For the agent's loop, once in each look at everything.

    While a link is silent, it hears what begins a handshake. What comes of that machine and is not counted by
    WireGuard was refused. WireGuard keeps the newest time that it has seen with the peer: one that is made
    anew has seen none. Of a silent one nothing is lost by that.
    """

    def __init__(self) -> None:
        self._receiver: InitiationReceiver | None = None
        self._port = 0
        self._received: dict[str, int] = {}
        self._renewed: dict[str, float] = {}

    def close(self) -> None:
        """Hear nothing more."""
        if self._receiver is not None:
            self._receiver.close()
        self._receiver = None

    def renew_refused_peers(self, here: Local, linux: Linux, report: LinkReport) -> None:
        """Make those anew. Raises MachineRefused."""
        silent = frozenset(link.public_key for link in report.silent)
        if not silent or not here.settings.up:
            self.close()
            self._received = {}
            return
        if self._receiver is None or self._port != here.settings.listen_port:
            self.close()
            with contextlib.suppress(OSError):  # then they stay as they are
                self._receiver, self._port = (
                    InitiationReceiver(here.settings.listen_port),
                    here.settings.listen_port,
                )
        before, self._received = (
            self._received,
            {key: linux.counters[key].rx_bytes for key in silent if key in linux.counters},
        )
        for call in self._list_refused(here, linux, before):
            self._renew_peer(here, linux, call)

    def _list_refused(self, here: Local, linux: Linux, before: Mapping[str, int]) -> Iterable[Initiation]:
        """The last call of each silent machine of which WireGuard has counted nothing since the last look."""
        if self._receiver is None or not linux.has_key(here.machine.public_key):
            return ()
        own = linux.private_key(here.machine.public_key)
        calls = (read_initiation(message, own) for message in self._receiver.receive_messages())
        last = {call.public_key: call for call in calls if call is not None}
        now = time.monotonic()
        return [
            call
            for key, call in last.items()
            if before.get(key) == self._received.get(key, -1)
            and now >= self._renewed.get(key, -AGAIN_S) + AGAIN_S
        ]

    def _renew_peer(self, here: Local, linux: Linux, call: Initiation) -> None:
        key, interface = call.public_key, here.settings.interface
        peer = next((each for each in linux.backend.read(interface).peers if each.public_key == key), None)
        if peer is None:
            return
        self._renewed[key] = time.monotonic()
        linux.backend.reset_session(interface, peer)
        name = next((each.name for each in here.inventory.machines if each.public_key == key), key)
        dated = time.strftime("%Y-%m-%d %H:%M", time.gmtime(min(max(0.0, call.at), _LAST_TIME)))
        report_event(
            "clock",
            "WireGuard refused the handshakes of %s, which are dated %s UTC, as older than what it had seen:"
            " its clock went back. It takes them from now on (hint: set the clock of %s)",
            *(name, dated, name),
            machine=name,
        )
