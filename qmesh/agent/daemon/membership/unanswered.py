"""Machines that have become members, and whose answer is under way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Final

TAKEN_S: Final = 2.0
"""Seconds that a new member has to take its answer, while its own key has to wait for that."""


class UnansweredMachines:
    """Their tunnel addresses, each for a short time at most. From any thread.

    The answer goes by the peer that the machine is until then, which must not make way for another before.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until: dict[str, float] = {}

    def add(self, addresses: Iterable[str]) -> None:
        """Wait for these to take their answers."""
        until = time.monotonic() + TAKEN_S
        with self._lock:
            self._until.update(dict.fromkeys(addresses, until))

    def discard(self, addresses: Iterable[str]) -> bool:
        """Wait for these no more; whether any was waited for."""
        with self._lock:
            waited = [self._until.pop(address, None) for address in addresses]
        return waited.count(None) < len(waited)

    def list_addresses(self) -> frozenset[str]:
        """Those that are waited for."""
        now = time.monotonic()
        with self._lock:
            self._until = {address: until for address, until in self._until.items() if until > now}
            return frozenset(self._until)
