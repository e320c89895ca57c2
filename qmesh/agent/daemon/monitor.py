"""The part of the agent that watches the others: that none hangs, and that what serves answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from qmesh.agent.daemon.membership.server import MembershipService
from qmesh.agent.daemon.supervisor import DISK, HOLDER, Troubles, Watchdog, describe_error
from qmesh.errors import KernelRefused, MachineRefused
from qmesh.host.api.messages import ServiceUnresponsive
from qmesh.host.firewall import holder_client
from qmesh.host.lean import service_notice
from qmesh.host.log.events import report_event
from qmesh.host.pulse import Pulse
from qmesh.host.state.directory import State
from qmesh.host.system import disk_reserve, heartbeat
from qmesh.mesh.audit.surroundings import SERVICE
from qmesh.mesh.systemd.units import WATCHDOG_S

PROBE_S: Final = 2.5
"""Seconds between two questions to the service, and to the holder of the guard."""
PROBED_S: Final = 2.0
"""Seconds that each has for an answer. Who gives none twice in a row is begun anew."""
_HOLDER_AGAIN_S: Final = 3.0
"""The same, of the holder the second time: on a machine that is too busy it would be replaced for nothing."""
_STARTABLE_S: Final = 60
"""Seconds that systemd gives an agent more, again and again, that is starting and finds nothing wrong."""
SLOWEST_S: Final = 60.0
"""Seconds after its last answer for which a service that works for others may be too slow to answer."""
STARTING_S: Final = 0.1
"""Seconds between two questions to a service that has just begun, as who started the agent waits for it; and
between those to one that gave no answer."""
SLOW_S: Final = 3.0
"""Seconds without a word of the loop after which systemd's watchdog is told to bear with the next look: the
loop waits for what has an end, or works. One that hangs the monitor itself finds."""
_LOOKS: Final = 5
"""By how many looks like the longest of late the watchdog waits longer: on a machine that is so busy, this
part comes too late to ask for more time."""


class Monitor:
    """`run` is a part's; all else belongs to the loop.

    pulses: of the agent's threads, by their parts' names; the loop's as `LOOK`.
    look: has a look at the machine come.
    begin_anew: called with the name and the pulse of a thread that hangs.
    """

    def __init__(
        self,
        state: State,
        service: MembershipService,
        *,
        pulses: Callable[[], Mapping[str, Pulse]],
        troubles: Troubles,
        look: Callable[[], None],
        begin_anew: Callable[[str, Pulse], None],
    ) -> None:
        self._state = state
        self._service = service
        self._troubles = troubles
        self._look = look
        self._watchdog = Watchdog(pulses, troubles, begin_anew)
        self._silent: dict[str, int] = {}
        self._probe_at = 0.0
        self._hangs = False
        self._work_done = 0
        self._answered_at = time.monotonic()
        self._watchdog_s = 0
        self._longest_s = 0.0
        self._loop_heard = time.monotonic()
        self.is_ready = False
        """Whether who started the agent was told that it serves."""

    def run(self, stopped: threading.Event) -> None:
        """Watch until that is set."""
        while not stopped.wait(self._get_pause_s()):
            heartbeat.beat()
            self._watchdog.check_pulses()
            self._extend_watchdog_if_slow()
            if not self.is_ready and not self._troubles.list_troubles():  # slow, and nothing else
                service_notice.notify(f"EXTEND_TIMEOUT_USEC={_STARTABLE_S * 1_000_000}")
            if self._service.is_starting or time.monotonic() >= self._probe_at:
                self._probe_at = time.monotonic() + PROBE_S
                self._hangs = False
                self._probe_service()
                self._probe_holder()
                self._keep_disk_reserve()

    def _get_pause_s(self) -> float:
        if self._service.is_starting or self._hangs:
            return STARTING_S
        until_slow_s = self._loop_heard + SLOW_S - time.monotonic()
        return min(Watchdog.EVERY_S, until_slow_s) if until_slow_s > 0 else Watchdog.EVERY_S

    def feed_watchdog(self, took_s: float) -> None:
        """Feed systemd's watchdog: the loop has come to the end of a look. took_s: seconds that it took."""
        self._longest_s = max(took_s, 0.9 * self._longest_s)
        service_notice.notify("WATCHDOG=1")
        self._set_watchdog_timeout(WATCHDOG_S + int(_LOOKS * self._longest_s))
        self._loop_heard = time.monotonic()

    def note_rest(self) -> None:
        """Feed it between two looks as well: the loop waits for the next one."""
        service_notice.notify("WATCHDOG=1")
        self._loop_heard = time.monotonic()

    def _extend_watchdog_if_slow(self) -> None:
        if time.monotonic() > self._loop_heard + SLOW_S:
            self._set_watchdog_timeout(10 * WATCHDOG_S)

    def _set_watchdog_timeout(self, seconds: int) -> None:
        """Have systemd wait so long for the end of the next look."""
        if seconds != self._watchdog_s:
            self._watchdog_s = seconds
            service_notice.notify(f"WATCHDOG_USEC={seconds * 1_000_000}")

    def _probe_service(self) -> None:
        try:
            self._service.probe(wait_s=PROBED_S)
        except ServiceUnresponsive as error:
            self._hangs = True
            if not self._is_service_slow() and self._note_silence(SERVICE, error):
                self._service.is_suspect = True
                self._look()
        except MachineRefused as error:  # another one would not mend that
            self._troubles.note_error(SERVICE, error)
        except OSError:
            pass  # it was just ended
        else:
            self._silent.pop(SERVICE, None)
            self._answered_at = time.monotonic()

    def _is_service_slow(self) -> bool:
        """Whether it got something done for others since it was asked last, who would lose it."""
        before, self._work_done = self._work_done, self._service.work_done
        return self._work_done > before and time.monotonic() < self._answered_at + SLOWEST_S

    def _probe_holder(self) -> None:
        """Not by way of the loop: whatever that waits for, the guard is held."""
        wait_s = _HOLDER_AGAIN_S if HOLDER in self._silent else PROBED_S
        try:
            if holder_client.is_responding(self._state, wait_s=wait_s) or not holder_client.is_wanted(
                self._state
            ):
                self._silent.pop(HOLDER, None)
                self._troubles.clear(HOLDER)
                return
            if holder_client.is_starting(self._state):  # by a command
                return
            error = KernelRefused(
                "the process that holds the guard has ended", hint="the agent starts another one"
            )
        except KernelRefused as refused:
            error = refused
            self._hangs = True
        if self._note_silence(HOLDER, error):
            report_event("holder-restarted", "%s: starting another one", error.message)
            try:
                with heartbeat.allow_wait(holder_client.STARTED_S):
                    holder_client.replace_holder(self._state)
                self._probe_at = 0.0
            except MachineRefused as refused:
                self._troubles.note_error(HOLDER, refused)

    def _keep_disk_reserve(self) -> None:
        """Say where the disk is full; have the reserve again where it is not any more."""
        directory = self._state.directory
        try:
            if disk_reserve.create_reserve(directory):
                self._troubles.clear(DISK)
            else:
                self._troubles.note(
                    DISK,
                    f"it is full or nearly full: {directory} has no room for the reserve",
                    hint=f"free {disk_reserve.ROOM_OCTETS >> 20} MiB there;"
                    f" see `df -h {directory}` and `df -i {directory}`",
                )
        except OSError as error:
            self._troubles.note_error(DISK, error)

    def _note_silence(self, part: str, error: Exception) -> bool:
        """Whether it gave no answer the second time; that is said then."""
        self._silent[part] = self._silent.get(part, 0) + 1
        if self._silent[part] < 2:
            self._probe_at = 0.0
            return False
        del self._silent[part]
        self._troubles.note_error(part, error)
        self._troubles.note_restart(part, describe_error(error))
        return True
