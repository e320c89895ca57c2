"""What the control node's agent answers to those who join and to members."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from qmesh.errors import EnrolmentRefused, MachineRefused, QmeshError
from qmesh.host.registry import Registry, image_of
from qmesh.host.state import State
from qmesh.mesh.enrolment import KEY_OFFER, read_key_offer, read_redemption
from qmesh.mesh.inventory import Inventory, members
from qmesh.mesh.membership import History, sign_membership
from qmesh.mesh.sealing import NONCE_OCTETS, seal, unseal
from qmesh.mesh.succession import ESTATE, PROGRESS, Estate, packed, read_progress

_TURN_S: Final = 8.0
_ALONE_S: Final = 10.0
"""Seconds for which only the new control node is told that it is it: the others have none until it serves."""


class Turns:
    """The agent's looks at its machine, for other threads that need one more.

    ask: has one come.
    """

    def __init__(self, ask: Callable[[], None]) -> None:
        self._ask = ask
        self._begun = self._ended = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """One that ends well when the block does."""
        with self._changed:
            self._begun += 1
        yield
        with self._changed:
            self._ended = self._begun
            self._changed.notify_all()

    def wait_for_one(self, seconds: float) -> bool:
        """Wait for one that begins from now on; whether it ended well in that time."""
        with self._changed:
            before = self._begun
            self._ask()
            return self._changed.wait_for(lambda: self._ended > before, seconds)


class ControlNode:
    """Implements `qmesh.host.channel.service.Answers` from the registry.

    changed: called after a redemption was answered, from a thread of the service.
    turns: those of the agent, which sees to it that WireGuard knows what the registry says.
    """

    def __init__(self, state: State, *, changed: Callable[[], None], turns: Turns) -> None:
        self._state = state
        self._changed = changed
        self._turns = turns
        self._signing_key = state.signing_key()
        self._lock = threading.Lock()
        # Whom SQLite lets wait, it lets look again at intervals: of many, some would never have their turn.
        self._turn = threading.Lock()
        self._departed: frozenset[str] = frozenset()
        self._acknowledged: dict[str, int] = {}
        self._unwritten: dict[str, int] = {}
        self._own = state.settings().name
        self._first: str | None = None
        self._alone_until = 0.0
        with Registry(state.registry_file) as registry:
            inventory = registry.inventory()
        self._addresses = _addresses(inventory)
        self._note_succession(inventory)
        self._history = History(sign_membership(inventory, self._signing_key), inventory.revision)

    def redeem(self, body: bytes, *, sender: str) -> bytes:
        """Admit a machine; answers with the membership that has it."""
        message = read_redemption(body)
        with self._turn, Registry(self._state.registry_file) as registry:
            inventory = registry.redeem(message, sender=sender, now=int(time.time()))
        self._advance(inventory)
        with self._lock:
            return msgspec.msgpack.encode(self._history.update_for(None))

    def redeemed(self) -> None:
        self._changed()

    def offer_key(self, body: bytes, *, sender: str) -> None:
        """Remember the key, and have WireGuard know it. Raises MachineRefused where it does not."""
        with Registry(self._state.registry_file) as registry:
            shared = registry.shared_with(sender)
            public_key = read_key_offer(unseal(body, shared, about=KEY_OFFER))
            registry.offer_key(public_key, sender=sender, now=int(time.time()))
        if not self._turns.wait_for_one(_TURN_S):
            raise MachineRefused("the agent is busy", hint="try again")

    def succeed(self, body: bytes, *, sender: str) -> bytes | None:
        """Note how far the successor is; what it lacks."""
        self.write_acknowledged()
        with Registry(self._state.registry_file) as registry:
            shared = registry.shared_with_successor(sender)
            said = read_progress(unseal(body, shared, about=PROGRESS))
            if registry.note_progress(said, sender=sender, now=int(time.time())):
                return None
        with image_of(self._state.registry_file) as image:
            event, octets = image.bequeathed()
        key = self._signing_key.private_bytes_raw()
        estate = packed(Estate(event=event, registry=octets, signing_key=key))
        return seal(estate, shared, about=ESTATE, nonce=secrets.token_bytes(NONCE_OCTETS))

    def membership(self, *, newer_than: int, whole: bool, sender: str) -> bytes | None:
        """An update, for members only, and for those who were until just now: they are to know."""
        with self._lock:
            if sender not in self._addresses and sender not in self._departed:
                raise EnrolmentRefused("this machine is no member of the mesh", hint="ask for an invitation")
            if self._acknowledged.get(sender) != newer_than and sender in self._addresses:
                self._acknowledged[sender] = self._unwritten[sender] = newer_than
            if newer_than >= self._history.revision or self._is_withheld(sender):
                return None
            return msgspec.msgpack.encode(self._history.update_for(None if whole else newer_than))

    def refresh(self) -> None:
        """See what the registry has."""
        with self._turn, Registry(self._state.registry_file) as registry:
            if registry.revision() == self._history.revision:
                return
            inventory = registry.inventory()
        self._advance(inventory)

    @property
    def is_succeeded(self) -> bool:
        """Whether another machine is the control node by now, and this one serves until that is heard."""
        return self._first is not None

    def _is_withheld(self, sender: str) -> bool:
        return self._first not in {None, sender} and time.monotonic() < self._alone_until

    @property
    def is_due_to_all(self) -> bool:
        """Whether the others are to be told of it, though the new control node was not heard."""
        return self.is_succeeded and time.monotonic() >= self._alone_until

    def tell_all(self) -> None:
        """Withhold nothing from anybody any more."""
        self._alone_until = 0.0

    def write_acknowledged(self) -> None:
        """Have the registry know which revisions members have said that they hold."""
        with self._lock:
            unwritten, self._unwritten = self._unwritten, {}
            # None can hold one that there is not.
            known = {sender: min(held, self._history.revision) for sender, held in unwritten.items()}
        if not known:
            return
        try:
            with Registry(self._state.registry_file) as registry:
                registry.acknowledge(known)
        except QmeshError:
            with self._lock:
                self._unwritten = {**known, **self._unwritten}
            raise

    def departed(self) -> frozenset[str]:
        """The addresses of those who were members since this service began, and are none now."""
        return self._departed

    def _advance(self, inventory: Inventory) -> None:
        signed, addresses = sign_membership(inventory, self._signing_key), _addresses(inventory)
        self._note_succession(inventory)
        with self._lock:
            if inventory.revision > self._history.revision:
                self._history.advance(signed, inventory.revision)
                self._departed = (self._departed | self._addresses) - addresses
                self._addresses = addresses
                for address in self._departed:
                    self._acknowledged.pop(address, None)

    def _note_succession(self, inventory: Inventory) -> None:
        if inventory.control != self._own and self._first is None:
            self._first = inventory.control_node.address
            self._alone_until = time.monotonic() + _ALONE_S
            self._changed()


def _addresses(inventory: Inventory) -> frozenset[str]:
    return frozenset(machine.address for machine in members(inventory))
