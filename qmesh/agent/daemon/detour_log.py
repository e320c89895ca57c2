"""What the agent says of packets to members that go elsewhere: once when it is so, once when it has ended.

It changes nothing about them: rules and routes of others are theirs.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from qmesh.agent.detours import find_detours
from qmesh.agent.local import Local
from qmesh.errors import MachineRefused
from qmesh.host.log.events import report_event
from qmesh.mesh.routes.detours import Detour, describe_machines


class DetourLog:
    """Of one agent. interval_s: seconds between two questions, by the number of machines."""

    def __init__(self, interval_s: Callable[[int], float]) -> None:
        self._interval_s = interval_s
        self._due = 0.0
        self._told: frozenset[Detour] = frozenset()

    def ask_kernel(self, here: Local) -> None:
        """Ask for the way to each member, where it is time to, and log what is news."""
        if not here.settings.up or here.settings.removed or time.monotonic() < self._due:
            return
        self._due = time.monotonic() + self._interval_s(len(here.inventory.machines))
        with contextlib.suppress(MachineRefused):  # `check` says why
            self._report(frozenset(find_detours(here)), here.machine.address)

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
