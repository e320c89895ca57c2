"""What members have told the control node of their machines: the latest of each, in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from qmesh.agent.local import Local
from qmesh.errors import EnrolmentRefused
from qmesh.mesh.inventory import list_members
from qmesh.mesh.machine_facts.facts import HeldFacts, ToldFacts, hold_labels
from qmesh.mesh.protocol.facts_report import decode_facts, decrypt_facts, encode_facts

REREAD_S: Final = 60.0
"""Seconds for which a report is read again with each newer membership. What the agent knows of the mesh may
be older than the report of a machine that has just joined, or has another key; and that machine does not tell
it again for minutes."""


class _SealedReport(NamedTuple):
    """sealed: as it came. at: when, by the monotonic clock. revision: of the mesh it was read with last."""

    sealed: bytes
    at: float
    revision: int = 0


class _KeptFacts(NamedTuple):
    """of: the public key of who told them. packed: as they travel, which is a tenth of what they are else.

    at: when they came, by the monotonic clock. relabelled: as of `HeldFacts`, by the same.
    """

    of: str
    packed: bytes
    at: float
    relabelled: tuple[float, ...] = ()


class FactsKeeper:
    """take_reports: gives what came since it was called last, encrypted, by tunnel address."""

    def __init__(self, take_reports: Callable[[], Mapping[str, bytes]]) -> None:
        self._take_reports = take_reports
        self._lock = threading.Lock()
        self._kept: dict[str, _KeptFacts] = {}
        self._reports: dict[str, _SealedReport] = {}

    def look(self, here: Local) -> None:
        """Read what came. Of the thread that follows the node."""
        now, revision = time.monotonic(), here.inventory.revision
        came = self._take_reports() if here.settings.control else {}
        self._reports.update((address, _SealedReport(sealed, now)) for address, sealed in came.items())
        self._reports = {
            address: each
            for address, each in self._reports.items()
            if here.settings.control and now - each.at < REREAD_S
        }
        members = {each.address: each for each in list_members(here.inventory)}
        unread = {at: each for at, each in self._reports.items() if each.revision != revision}
        mesh_cores = here.inventory.cores if unread else {}
        cores = {name: frozenset(each.numbers) for name, each in mesh_cores.items()}
        for address, report in unread.items():
            self._reports[address] = report._replace(revision=revision)
            machine = members.get(address)
            shared = None if machine is None else here.preshared.get(machine.public_key)
            if machine is None or shared is None:
                continue
            try:
                facts = decrypt_facts(report.sealed, shared, cores=cores.get(machine.name, frozenset()))
            except EnrolmentRefused:  # another program's of that machine, or none that it should tell
                continue
            known = self._kept.get(address)
            before = None
            if known is not None and known.of == machine.public_key:
                before = HeldFacts(decode_facts(known.packed), known.relabelled)
            held = hold_labels(before, facts, now_s=now)
            kept = _KeptFacts(machine.public_key, encode_facts(held.facts), report.at, held.relabelled)
            with self._lock:
                self._kept[address] = kept
        with self._lock:
            self._kept = {
                address: each
                for address, each in self._kept.items()
                if here.settings.control and address in members and members[address].public_key == each.of
            }

    def list_facts(self) -> tuple[ToldFacts, ...]:
        """The latest of each member that has told any. From any thread."""
        began = time.time() - time.monotonic()
        with self._lock:
            kept = dict(self._kept)
        return tuple(
            ToldFacts(address, round(began + each.at, 1), decode_facts(each.packed))
            for address, each in kept.items()
        )


def with_own_facts(told: tuple[ToldFacts, ...], own: ToldFacts | None) -> tuple[ToldFacts, ...]:
    """The same with this machine's own."""
    if own is None:
        return told
    return (own, *(each for each in told if each.address != own.address))
