"""What the control node's agent answers to those who join and to members."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import msgspec

from qmesh.errors import EnrolmentRefused
from qmesh.host.registry import Registry
from qmesh.host.state import State
from qmesh.mesh.enrolment import read_redemption, sign_membership
from qmesh.mesh.inventory import Inventory


class Signed(msgspec.Struct, frozen=True):
    """A membership ready to be sent. addresses: of those who may have it."""

    revision: int
    octets: bytes
    addresses: frozenset[str]


class ControlNode:
    """Implements `qmesh.host.channel.Answers` from the registry.

    changed: called after a redemption was answered, from a thread of the service.
    """

    def __init__(self, state: State, *, changed: Callable[[], None]) -> None:
        self._state = state
        self._changed = changed
        self._signing_key = state.signing_key()
        self._signed: Signed | None = None
        self._lock = threading.Lock()
        # Whom SQLite lets wait, it lets look again at intervals: of many, some would never have their turn.
        self._turn = threading.Lock()

    def redeem(self, body: bytes, *, sender: str) -> bytes:
        """Admit a machine; answers with the membership that has it."""
        message = read_redemption(body)
        with self._turn, Registry(self._state.registry_file) as registry:
            inventory = registry.redeem(message, sender=sender, now=int(time.time()))
        return self._sign(inventory).octets

    def redeemed(self) -> None:
        self._changed()

    def membership(self, *, newer_than: int, sender: str) -> bytes | None:
        """The membership, for members only; None when the sender's is as new."""
        signed = self._current()
        if sender not in signed.addresses:
            raise EnrolmentRefused("this machine is no member of the mesh", hint="ask for an invitation")
        return signed.octets if signed.revision > newer_than else None

    def _current(self) -> Signed:
        with self._turn, Registry(self._state.registry_file) as registry:
            signed = self._signed
            if signed is not None and signed.revision == registry.revision():
                return signed
            return self._sign(registry.inventory())

    def _sign(self, inventory: Inventory) -> Signed:
        members = (machine for machine in inventory.machines if machine.state != "invited")
        signed = Signed(
            inventory.revision,
            msgspec.json.encode(sign_membership(inventory, self._signing_key)),
            frozenset(machine.address for machine in members),
        )
        with self._lock:
            if self._signed is None or signed.revision >= self._signed.revision:
                self._signed = signed
        return signed
