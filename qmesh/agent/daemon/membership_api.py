"""What the control node's agent answers to those who join and to members."""

from __future__ import annotations

import base64
import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from qmesh.agent.packet_origin import find_peer_endpoint
from qmesh.errors import EnrolmentRefused, MachineRefused, QmeshError
from qmesh.host.registry import Registry, load_image
from qmesh.host.state.directory import State
from qmesh.mesh.inventory import Inventory, list_members
from qmesh.mesh.protocol.aead import NONCE_OCTETS, decrypt_message, encrypt_message
from qmesh.mesh.protocol.enrolment import KEY_OFFER, read_key_offer, read_redemption
from qmesh.mesh.protocol.handover import ESTATE, PROGRESS, HandoverData, encode_handover_data, read_progress
from qmesh.mesh.protocol.membership import History, decrypt_held_revision, sign_membership
from qmesh.mesh.values import Secret

_TURN_S: Final = 8.0
_SOON_S: Final = 0.05
"""Seconds that the loop waits for another program that writes to the registry; then it tries again later."""
_ALONE_S: Final = 10.0
"""Seconds for which only the new control node is told that it is it: the others have none until it serves."""


class LookRequests:
    """The agent's looks at its machine, for other threads that need one more.

    ask: has one come.
    """

    def __init__(self, ask: Callable[[], None]) -> None:
        self._ask = ask
        self._begun = self._ended = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def track_look(self) -> Iterator[None]:
        """One that ends well when the block does."""
        with self._changed:
            self._begun += 1
        yield
        with self._changed:
            self._ended = self._begun
            self._changed.notify_all()

    def wait_for_look(self, seconds: float) -> bool:
        """Wait for one that begins from now on; whether it ended well in that time."""
        with self._changed:
            before = self._begun
            self._ask()
            return self._changed.wait_for(lambda: self._ended > before, seconds)


class ControlNode:
    """Implements `qmesh.host.api.server.MembershipHandler` from the registry.

    changed: called after a redemption was answered, from a thread of the service.
    turns: those of the agent, which sees to it that WireGuard knows what the registry says.
    """

    def __init__(self, state: State, *, changed: Callable[[], None], turns: LookRequests) -> None:
        self._state = state
        self._changed = changed
        self._turns = turns
        self._signing_key = state.signing_key()
        self._lock = threading.Lock()
        # Whom SQLite lets wait, it lets look again at intervals: of many, some would never have their turn.
        self._turn = threading.Lock()
        self._departed: frozenset[str] = frozenset()
        self._acknowledged: dict[str, int] = {}
        self._unread: dict[str, bytes] = {}
        self._offered: dict[str, str] = {}
        self._is_redeemed = False
        settings = state.settings()
        self._own, self._interface = settings.name, settings.interface
        self._first: str | None = None
        self._alone_until = 0.0
        with Registry(state.registry_file) as registry:
            inventory = registry.inventory()
        self._addresses = _list_member_addresses(inventory)
        self._note_handover(inventory)
        self._history = History(sign_membership(inventory, self._signing_key), inventory.revision)

    def redeem(self, body: bytes, *, sender: str) -> bytes:
        """Admit a machine; answers with the membership that has it."""
        message = read_redemption(body)
        with Registry(self._state.registry_file) as registry:
            # Said again, as by one whose answer was lost, it costs no more than to see that.
            known = registry.find_redeemed_revision(message)
            if known is None or known != self._history.revision:
                with self._turn:
                    inventory = registry.redeem(
                        message,
                        sender=sender,
                        now=int(time.time()),
                        endpoint=lambda: find_peer_endpoint(self._interface, sender),
                    )
                self._advance_history(inventory)
                self._is_redeemed = True
        with self._lock:
            return self._history.encode_update(None)

    def finish_redemption(self) -> None:
        if self._is_redeemed:
            self._is_redeemed = False
            self._changed()

    def offer_key(self, body: bytes, *, sender: str) -> None:
        """Remember the key, and have WireGuard know it. Raises MachineRefused where it does not."""
        with Registry(self._state.registry_file) as registry:
            shared = registry.find_preshared_key(sender)
            public_key = read_key_offer(decrypt_message(body, shared, about=KEY_OFFER))
            is_new = registry.offer_key(public_key, sender=sender, now=int(time.time()))
        if not is_new and self._offered.get(sender) == public_key:
            return  # said again: a look at all of the machine would show the same
        if not self._turns.wait_for_look(_TURN_S):
            raise MachineRefused("the agent is busy", hint="run the command again in a minute")
        self._offered[sender] = public_key

    def report_handover(self, body: bytes, *, sender: str) -> bytes | None:
        """Note how far the successor is; what it lacks."""
        with Registry(self._state.registry_file) as registry:
            shared = registry.find_successor_preshared_key(sender)
            said = read_progress(decrypt_message(body, shared, about=PROGRESS))
            self.write_acknowledgements()
            if registry.record_progress(said, sender=sender, now=int(time.time())):
                return None
        with load_image(self._state.registry_file) as image:
            event, octets = image.serialize_for_successor()
        key = self._signing_key.private_bytes_raw()
        handover_data = encode_handover_data(HandoverData(event=event, registry=octets, signing_key=key))
        return encrypt_message(handover_data, shared, about=ESTATE, nonce=secrets.token_bytes(NONCE_OCTETS))

    def find_membership_update(self, *, newer_than: int, whole: bool, sender: str) -> bytes | None:
        """An update, for members only, and for those who were until just now: they are to know."""
        with self._lock:
            if sender not in self._addresses and sender not in self._departed:
                raise EnrolmentRefused(
                    "this machine is not a member of the mesh",
                    hint="make an invitation for it on the control node: `qmesh invite NAME`",
                )
            if newer_than >= self._history.revision or self._is_withheld(sender):
                return None
            return self._history.encode_update(None if whole else newer_than)

    def record_acknowledgement(self, sealed: bytes, *, newer_than: int, sender: str) -> None:
        """Note it, where it is news, for `write_acknowledgements` to read."""
        with self._lock:
            if sender in self._addresses and self._acknowledged.get(sender) != newer_than:
                self._unread[sender] = sealed

    def refresh_membership(self) -> None:
        """See what the registry has."""
        with self._turn, Registry(self._state.registry_file) as registry:
            if registry.revision() == self._history.revision:
                return
            inventory = registry.inventory()
        self._advance_history(inventory)

    @property
    def has_handed_over(self) -> bool:
        """Whether another machine is the control node by now, and this one serves until that is heard."""
        return self._first is not None

    def _is_withheld(self, sender: str) -> bool:
        return self._first not in {None, sender} and time.monotonic() < self._alone_until

    @property
    def is_handover_public(self) -> bool:
        """Whether the others are to be told of it, though the new control node was not heard."""
        return self.has_handed_over and time.monotonic() >= self._alone_until

    def publish_handover(self) -> None:
        """Withhold nothing from anybody any more."""
        self._alone_until = 0.0

    def write_acknowledgements(self) -> None:
        """Have the registry know which revisions members have said, sealed, that they hold.

        What is not sealed counts for nothing, nor what is of a member that is none any more.
        """
        with self._lock:
            unread, self._unread = self._unread, {}
            newest = self._history.revision
        if not unread:
            return
        try:
            with Registry(self._state.registry_file, busy_s=_SOON_S) as registry:
                shared = registry.find_preshared_keys(unread)
                # None can hold one that there is not.
                known = {
                    at: min(held, newest) for at, held in _decrypt_held_revisions(unread, shared).items()
                }
                registry.record_acknowledgements(known)
        except QmeshError:
            with self._lock:
                self._unread = {**unread, **self._unread}
            raise
        with self._lock:
            self._acknowledged.update(known)

    def list_departed(self) -> frozenset[str]:
        """The addresses of those who were members since this service began, and are none now."""
        return self._departed

    def _advance_history(self, inventory: Inventory) -> None:
        signed, addresses = sign_membership(inventory, self._signing_key), _list_member_addresses(inventory)
        self._note_handover(inventory)
        with self._lock:
            if inventory.revision > self._history.revision:
                self._history.advance(signed, inventory.revision)
                self._departed = (self._departed | self._addresses) - addresses
                self._addresses = addresses
                for address in self._departed:
                    self._acknowledged.pop(address, None)

    def _note_handover(self, inventory: Inventory) -> None:
        if inventory.control != self._own and self._first is None:
            self._first = inventory.control_node.address
            self._alone_until = time.monotonic() + _ALONE_S
            self._changed()


def _decrypt_held_revisions(unread: Mapping[str, bytes], shared: Mapping[str, Secret]) -> dict[str, int]:
    """The revisions that members hold, by address, of what they have said, sealed and in base64."""
    found: dict[str, int] = {}
    for address, said in unread.items():
        with contextlib.suppress(EnrolmentRefused, ValueError, KeyError):
            found[address] = decrypt_held_revision(base64.b64decode(said), shared[address])
    return found


def _list_member_addresses(inventory: Inventory) -> frozenset[str]:
    return frozenset(machine.address for machine in list_members(inventory))
