"""What the control node's agent answers to those who join and to members."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import msgspec

from qmesh.errors import EnrolmentRefused
from qmesh.host.registry import Registry
from qmesh.host.state import State
from qmesh.mesh.enrolment import read_redemption
from qmesh.mesh.inventory import Inventory, members
from qmesh.mesh.membership import History, sign_membership, whole


class ControlNode:
    """Implements `qmesh.host.channel.Answers` from the registry.

    changed: called after a redemption was answered, from a thread of the service.
    """

    def __init__(self, state: State, *, changed: Callable[[], None]) -> None:
        self._state = state
        self._changed = changed
        self._signing_key = state.signing_key()
        self._lock = threading.Lock()
        self._departed: frozenset[str] = frozenset()
        with Registry(state.registry_file) as registry:
            inventory = registry.inventory()
        self._addresses = _addresses(inventory)
        self._history = History(sign_membership(inventory, self._signing_key), inventory.revision)

    def redeem(self, body: bytes, *, sender: str) -> bytes:
        """Admit a machine; answers with the membership that has it."""
        message = read_redemption(body)
        with Registry(self._state.registry_file) as registry:
            inventory = registry.redeem(message, sender=sender, now=int(time.time()))
        self._advance(inventory)
        with self._lock:
            return msgspec.msgpack.encode(whole(self._history.signed))

    def redeemed(self) -> None:
        self._changed()

    def membership(self, *, newer_than: int, whole: bool, sender: str) -> bytes | None:
        """An update, for members only, and for those who were until just now: they are to know."""
        with self._lock:
            if sender not in self._addresses and sender not in self._departed:
                raise EnrolmentRefused("this machine is no member of the mesh", hint="ask for an invitation")
            if newer_than >= self._history.revision:
                return None
            return msgspec.msgpack.encode(self._history.update_for(None if whole else newer_than))

    def refresh(self) -> None:
        """See what the registry has."""
        with Registry(self._state.registry_file) as registry:
            if registry.revision() == self._history.revision:
                return
            inventory = registry.inventory()
        self._advance(inventory)

    def departed(self) -> frozenset[str]:
        """The addresses of those who were members since this service began, and are none now."""
        return self._departed

    def _advance(self, inventory: Inventory) -> None:
        signed, addresses = sign_membership(inventory, self._signing_key), _addresses(inventory)
        with self._lock:
            if inventory.revision > self._history.revision:
                self._history.advance(signed, inventory.revision)
                self._departed = (self._departed | self._addresses) - addresses
                self._addresses = addresses


def _addresses(inventory: Inventory) -> frozenset[str]:
    return frozenset(machine.address for machine in members(inventory))
