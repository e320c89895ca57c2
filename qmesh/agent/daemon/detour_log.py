"""What the agent says of packets to members that go elsewhere: once when it is so, once when it has ended.

It changes nothing about them: rules and routes of others are theirs. Where nothing of them has changed, the
answers are what they were, and the kernel is not asked for thousands of members.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from qmesh.agent.detours import find_detours
from qmesh.agent.local import Local
from qmesh.errors import MachineRefused
from qmesh.host.log.events import report_event
from qmesh.host.network.kernel_routes.route_notices import RouteNotices
from qmesh.mesh.routes.detours import Detour, describe_machines

ANYWAY: Final = 10
"""Each so many times the kernel is asked though it told of no change."""


class DetourLog:
    """Of one agent. interval_s: seconds between two questions, by the number of machines."""

    def __init__(self, interval_s: Callable[[int], float]) -> None:
        self._interval_s = interval_s
        self._due = 0.0
        self._told: frozenset[Detour] = frozenset()
        self._notices: RouteNotices | None = None
        self._asked: tuple[int, int] = 0, 0
        """For whom it was asked last, and how often that was left out since."""

    def close(self) -> None:
        """Ask no more."""
        if self._notices is not None:
            self._notices.close()
            self._notices = None

    def ask_kernel(self, here: Local) -> None:
        """Ask for the way to each member, where it is time to, and log what is news."""
        if not here.settings.up or here.settings.removed or time.monotonic() < self._due:
            return
        self._due = time.monotonic() + self._interval_s(len(here.inventory.machines))
        if not self._may_have_changed(here):
            return
        try:
            self._report(frozenset(find_detours(here)), here.machine.address)
        except MachineRefused:  # `check` says why
            self._asked = 0, ANYWAY

    def _may_have_changed(self, here: Local) -> bool:
        """Whether an answer may be another than the last time."""
        machines = hash((here.settings, here.inventory.hubs, here.inventory.machines))
        before, left_out = self._asked
        if self._has_notice() or machines != before or left_out >= ANYWAY:
            self._asked = machines, 0
            return True
        self._asked = machines, left_out + 1
        return False

    def _has_notice(self) -> bool:
        """Whether the kernel told of a change; so too where it tells nothing, as the first time."""
        try:
            if self._notices is not None:
                return self._notices.take()
            self._notices = RouteNotices()
        except OSError:
            self.close()
        return True

    def _report(self, found: frozenset[Detour], own: str) -> None:
        for each in sorted(found - self._told, key=lambda each: each.machines):
            report_event(
                "detour-found",
                "packets for %s (%s) do not %s: %s; to fix it: %s",
                *(describe_machines(each.machines), each.address),
                "stay here" if each.address == own else "go into the tunnel",
                *(each.reason, each.cure),
            )
        if self._told and not found:
            report_event("detours-gone", "packets for all members go into the tunnel again")
        self._told = found
