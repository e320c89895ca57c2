"""What the control node's agent answers to those who join and to members."""

from __future__ import annotations

import base64
import contextlib
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from qmesh.agent.daemon.loop_events import LookRequests
from qmesh.agent.daemon.membership.unanswered import UnansweredMachines
from qmesh.agent.node.identity_files import read_files_for
from qmesh.agent.packet_origin import PeerEndpoints
from qmesh.errors import EnrolmentRefused, MachineRefused, QmeshError
from qmesh.host.api.handlers import SentRedemption
from qmesh.host.log.events import report_event
from qmesh.host.registry import RedemptionRequest, Registry, load_image
from qmesh.host.state.directory import State
from qmesh.mesh.inventory import Inventory, list_members
from qmesh.mesh.links.activity import SILENT_S
from qmesh.mesh.protocol.aead import NONCE_OCTETS, decrypt_message, encrypt_message
from qmesh.mesh.protocol.enrolment import KEY_OFFER, read_key_offer, read_redemption
from qmesh.mesh.protocol.facts_report import MOST_SEALED
from qmesh.mesh.protocol.handover import ESTATE, PROGRESS, HandoverData, encode_handover_data, read_progress
from qmesh.mesh.protocol.key_digests import decrypt_digests
from qmesh.mesh.protocol.member_note import MemberNote, decode_note
from qmesh.mesh.protocol.membership import History, decrypt_held_revision, sign_membership
from qmesh.mesh.protocol.membership_conflict import (
    MembershipConflict,
    read_membership_content,
    read_proof,
)
from qmesh.mesh.protocol.node_files import decrypt_request, encrypt_node_files
from qmesh.mesh.values import Secret

_TURN_S: Final = 8.0
_SOON_S: Final = 0.05
"""Seconds that the loop waits for another program that writes to the registry; then it tries again later."""
_ALONE_S: Final = 10.0
"""Seconds for which only the new control node is told that it is it: the others have none until it serves."""


_REPLY_KEYS: Final = 64
"""Of each member, the keys of so many requests are remembered: a request is answered once."""
_MOST_REPORT: Final = 1024
"""Octets of a report of keys: three digests and what encrypts them take some 140."""


class ControlNode:
    """Implements `qmesh.host.api.handlers.MembershipHandler` from the registry.

    changed: called after a redemption was answered, from a thread of the service.
    turns: those of the agent, which sees to it that WireGuard knows what the registry says.
    """

    def __init__(self, state: State, *, changed: Callable[[], None], turns: LookRequests) -> None:
        self._state = state
        self._changed = changed
        self._turns = turns
        self._signing_key = state.keys.read_signing_key()
        self._lock = threading.Lock()
        # Whom SQLite lets wait, it lets look again at intervals: of many, some would never have their turn.
        self._turn = threading.Lock()
        self._departed: frozenset[str] = frozenset()
        self._acknowledged: dict[str, int] = {}
        self._unread: dict[str, bytes] = {}
        self._offered: dict[str, str] = {}
        self._reply_keys: dict[str, deque[bytes]] = {}
        self._key_reports: dict[str, bytes] = {}
        self._facts: dict[str, bytes] = {}
        self._notes: dict[str, MemberNote] = {}
        self._verified_reports: dict[str, bytes] = {}
        self._unanswered = UnansweredMachines()
        settings = state.settings()
        self._own, self._interface = settings.name, settings.interface
        self._verification_key = settings.verification_key
        self._first: str | None = None
        self._alone_until = 0.0
        with Registry(state.registry_file) as registry:
            inventory = registry.inventory()
        self._addresses = _list_member_addresses(inventory)
        self._asked = dict.fromkeys(self._addresses, time.monotonic())
        self._note_handover(inventory)
        signed = sign_membership(inventory, self._signing_key)
        self._history = History(signed, inventory.revision)
        self._inventory, self._digest = inventory, read_membership_content(signed).digest
        self._conflict = state.membership_conflict.read()

    def redeem_all(self, sent: Sequence[SentRedemption]) -> list[bytes | QmeshError]:
        """Admit machines; each is answered with the membership that has all of them, or refused."""
        if self._conflict is not None:
            raise _build_conflict_error(self._conflict)
        refused: dict[SentRedemption, QmeshError | None] = {}
        with Registry(self._state.registry_file) as registry:
            wanted = self._find_unredeemed(registry, sent, refused)
            if wanted:
                find_endpoint = PeerEndpoints(self._interface).find
                senders = {each.sender for each in wanted}
                self._unanswered.add(senders)
                with self._turn:
                    inventory, refusals = registry.redeem_all(
                        list(wanted.values()), now=int(time.time()), find_endpoint=find_endpoint
                    )
                    if inventory.revision != self._history.revision:
                        self._advance_history(inventory)  # by then who looks has nothing to do
                refused.update(zip(wanted, refusals, strict=True))
                self._unanswered.discard(senders - {each.sender for each in wanted if refused[each] is None})
        with self._lock:
            whole = self._history.encode_update(None)
        return [refused.get(each) or whole for each in sent]

    def _find_unredeemed(
        self,
        registry: Registry,
        sent: Sequence[SentRedemption],
        refused: dict[SentRedemption, QmeshError | None],
    ) -> dict[SentRedemption, RedemptionRequest]:
        """Those that are not members in the newest membership. Others cost no more than to see that."""
        wanted = {}
        for each in sent:
            try:
                message = read_redemption(each.body)
                known = registry.find_redeemed_revision(message)
            except EnrolmentRefused as error:
                refused[each] = error
                continue
            if known is None or known != self._history.revision:
                wanted[each] = RedemptionRequest(message, each.sender)
        return wanted

    def list_unanswered(self) -> frozenset[str]:
        """The addresses of machines whose answer to a redemption is under way."""
        return self._unanswered.list_addresses()

    def finish_redemption(self, *, sender: str) -> None:
        if self._unanswered.discard([sender]):
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

    def fetch_node_files(self, body: bytes, *, sender: str) -> bytes:
        """The node's least config.yml for that member, and keys.yml, as they are now."""
        with Registry(self._state.registry_file) as registry:
            shared = registry.find_preshared_key(sender)
            asked = decrypt_request(body, shared)  # before anything is read that grows with the mesh
            found = registry.find_file_requester(sender)
        machine = found.machine
        if asked.name != machine.name:
            raise EnrolmentRefused(
                f"this machine is {machine.name}, and may not fetch the node's files for another name",
                hint=f"run `qmesh node-files --write` on the machine that should have them, or join it as"
                f" {machine.name}",
            )
        self._refuse_repeated(machine.name, asked.reply_key)
        files = read_files_for(
            self._state.settings().node_directory, found.inventory, machine.name, key_store=asked.key_store
        )
        answer = encrypt_node_files(
            files,
            asked,
            member_key=machine.public_key,
            shared=found.preshared_key,
            private_key=secrets.token_bytes(32),
        )
        with Registry(self._state.registry_file) as registry:
            endpoint = PeerEndpoints(self._interface).find(sender)
            registry.record_files_fetched(machine, now=int(time.time()), endpoint=endpoint)
        report_event(
            "node-files-fetched", "%s has fetched the node's files", machine.name, machine=machine.name
        )
        return answer

    def _refuse_repeated(self, name: str, reply_key: bytes) -> None:
        """Raise EnrolmentRefused for a request that came before: it is another program's that recorded it."""
        with self._lock:
            known = self._reply_keys.setdefault(name, deque(maxlen=_REPLY_KEYS))
            if reply_key in known:
                raise EnrolmentRefused(
                    "this request for the node's files was answered already",
                    hint="run `qmesh node-files --write` again: it makes a new one",
                )
            known.append(reply_key)

    def report_keys(self, body: bytes, *, sender: str) -> None:
        """Keep it for `take_key_reports`, and have a look come where it says something new."""
        with Registry(self._state.registry_file) as registry:
            decrypt_digests(body, registry.find_preshared_key(sender))
        with self._lock:
            is_new = self._verified_reports.get(sender) != body
            self._verified_reports[sender] = body
        if is_new:
            self._changed()

    def record_key_report(self, sealed: bytes, *, sender: str) -> None:
        """Keep it for `take_key_reports`, whoever on that machine has sent it."""
        with self._lock:
            if sender in self._addresses and len(sealed) <= _MOST_REPORT:
                self._key_reports[sender] = sealed

    def take_key_reports(self) -> dict[str, bytes]:
        """What members have reported of their nodes' keys since this was asked last, by tunnel address.

        What came to `report_keys` is of root there, and nothing that a user of a machine sends hides it.
        """
        with self._lock:
            taken, self._key_reports = self._key_reports, {}
            verified, self._verified_reports = self._verified_reports, {}
        return {**taken, **verified}

    def record_facts(self, sealed: bytes, *, sender: str) -> None:
        """Keep it for `take_facts`, whoever on that machine has sent it."""
        with self._lock:
            if sender in self._addresses and len(sealed) <= MOST_SEALED:
                self._facts[sender] = sealed

    def take_facts(self) -> dict[str, bytes]:
        """What members have told of their machines since this was asked last, by tunnel address."""
        with self._lock:
            taken, self._facts = self._facts, {}
        return taken

    def find_membership_update(
        self, *, newer_than: int, whole: bool, sender: str, digest: str = ""
    ) -> bytes | None:
        """An update, for members only, and for those who were until just now: they are to know."""
        with self._lock:
            if sender not in self._addresses and sender not in self._departed:
                raise EnrolmentRefused(
                    "this machine is not a member of the mesh",
                    hint="make an invitation for it on the control node: `qmesh invite NAME`",
                )
            if self._is_withheld(sender):
                return None
            is_other = newer_than == self._history.revision and digest not in {"", self._digest}
            if self._conflict is not None:
                if newer_than > self._history.revision or is_other:
                    raise _build_conflict_error(self._conflict)
                return None  # nothing that might take the place of what is newer
            if newer_than > self._history.revision or is_other:
                return self._history.encode_update(None)  # so that it sees that, and shows what it holds
            if newer_than == self._history.revision:
                return None
            return self._history.encode_update(None if whole else newer_than)

    def record_acknowledgement(self, sealed: bytes, *, newer_than: int, sender: str) -> None:
        """Note it, where it is news, for `write_acknowledgements` to read."""
        self.record_question(sender=sender)
        with self._lock:
            if sender in self._addresses and self._acknowledged.get(sender) != newer_than:
                self._unread[sender] = sealed

    def record_question(self, *, sender: str) -> None:
        """Note for `list_unasked` that this one's agent asks, whatever it is answered."""
        with self._lock:
            if sender in self._addresses:
                self._asked[sender] = time.monotonic()

    def record_note(self, line: str, *, sender: str) -> None:
        """Keep it until the next question of its agent."""
        note = decode_note(line)
        with self._lock:
            self._notes.pop(sender, None)
            if sender in self._addresses and note != MemberNote():
                self._notes[sender] = note

    def list_notes(self) -> tuple[tuple[str, MemberNote], ...]:
        """What members note of themselves, by their addresses: of those that note something.

        That workers stand still is nothing that is known of one that asks no more.
        """
        now = time.monotonic()
        with self._lock:
            return tuple(
                (at, note)
                for at, note in self._notes.items()
                if at in self._addresses and not (note.stopped and now - self._asked.get(at, now) >= SILENT_S)
            )

    def list_unasked(self) -> tuple[tuple[str, float], ...]:
        """The addresses of members that have not asked for `SILENT_S`, and the seconds since they did.

        One that never did counts from when it was a member first, or this service began.
        """
        now = time.monotonic()
        with self._lock:
            ages = [(address, now - asked) for address, asked in self._asked.items()]
        return tuple((address, age_s) for address, age_s in ages if age_s >= SILENT_S)

    def list_revisions(self) -> dict[str, int]:
        """Which revision members have said, sealed, that they hold, by address; since this service began."""
        with self._lock:
            return {at: held for at, held in self._acknowledged.items() if at in self._addresses}

    def report_conflict(self, body: bytes, *, sender: str) -> None:
        """Note it: from now on no membership is given out, until this registry is restored."""
        self.refresh_membership()  # a command may have given out what this service has not seen yet
        with self._lock:
            if sender not in self._addresses:
                raise EnrolmentRefused("this machine is not a member of the mesh", hint="")
            if self.has_handed_over:
                # That one's memberships come after this one's, and any member can show them.
                raise EnrolmentRefused("another machine is the control node", hint="ask that one")
            own, inventory = self._history.signed, self._inventory
        shown = read_proof(body, own, self._verification_key, inventory)
        names = {machine.address: machine.name for machine in inventory.machines}
        conflict = MembershipConflict(inventory.revision, shown.revision, names[sender], int(time.time()))
        with self._lock:
            conflict = self._conflict = self._conflict or conflict
        if self._state.membership_conflict.exists():
            return  # whoever is first is enough: the others cost no writing to the disk
        self._state.membership_conflict.write(conflict)
        report_event("membership-conflict", "%s", _build_conflict_error(conflict).message)

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
        digest = read_membership_content(signed).digest
        self._note_handover(inventory)
        with self._lock:
            if inventory.revision > self._history.revision:
                self._history.advance(signed, inventory.revision)
                self._inventory, self._digest = inventory, digest
                self._departed = (self._departed | self._addresses) - addresses
                self._addresses = addresses
                now = time.monotonic()
                self._asked = {address: self._asked.get(address, now) for address in addresses}
                for address in self._departed:
                    self._acknowledged.pop(address, None)

    def _note_handover(self, inventory: Inventory) -> None:
        if inventory.control != self._own and self._first is None:
            self._first = inventory.control_node.address
            self._alone_until = time.monotonic() + _ALONE_S
            self._changed()


def _build_conflict_error(conflict: MembershipConflict) -> EnrolmentRefused:
    return EnrolmentRefused(
        f"this control node's registry is an older copy: {conflict.machine} holds revision"
        f" {conflict.revision}, which was signed by this mesh and contradicts revision {conflict.own} here",
        hint="run `qmesh check` on the control node: it names the way out",
    )


def _decrypt_held_revisions(unread: Mapping[str, bytes], shared: Mapping[str, Secret]) -> dict[str, int]:
    """The revisions that members hold, by address, of what they have said, sealed and in base64."""
    found: dict[str, int] = {}
    for address, said in unread.items():
        with contextlib.suppress(EnrolmentRefused, ValueError, KeyError):
            found[address] = decrypt_held_revision(base64.b64decode(said), shared[address])
    return found


def _list_member_addresses(inventory: Inventory) -> frozenset[str]:
    return frozenset(machine.address for machine in list_members(inventory))
