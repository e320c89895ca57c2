"""Random sequences of commands and messages, compared after each step with a plain list of machines.

The commands are the real ones, on a real registry; the tunnel is down, so that no machine is touched.
To add a command: a rule that runs it, and says what becomes of `self.mesh`.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import itertools
import json
import logging
import os
import shutil
import signal
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from qmesh.agent import mesh_change
from qmesh.agent.commands import invite, pause, remove, resume
from qmesh.agent.commands.set import set_machine
from qmesh.agent.daemon.loop_events import LookRequests
from qmesh.agent.daemon.membership.api import ControlNode
from qmesh.errors import BadInput, EnrolmentRefused, QmeshError
from qmesh.host.api.handlers import SentRedemption
from qmesh.host.registry import Registry, sqlite
from qmesh.host.state.directory import State
from qmesh.host.state.documents import Settings
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.machine import Machine
from qmesh.mesh.protocol.admission import CLOCK_S
from qmesh.mesh.protocol.enrolment import build_redemption, compute_mesh_identifier, derive_invitation_keys
from qmesh.mesh.protocol.membership import SignedMembership, apply_update, read_update
from qmesh.mesh.protocol.membership_conflict import MembershipContent, read_membership_content

NAMES = ("machine-b", "machine-c", "machine-d", "machine-e")
BASE_PORT = 65518
MOST_WORKERS = 65535 - BASE_PORT + 1
"""So few that they run out."""
ADDRESSES = [f"10.77.0.{number}" for number in range(1, 7)]
KEYS = [base64.b64encode(bytes([number]) * 32).decode() for number in range(9, 15)]
WEAK = [base64.b64encode(number.to_bytes(32, "little")).decode() for number in (0, 1, 2**255 - 19)]
CONTROL_KEY = base64.b64encode(b"c" * 32).decode()


class Member(msgspec.Struct):
    """A machine as the plain model has it. workers: None while an invited one may still say."""

    name: str
    key: str
    address: str
    workers: int | None
    state: str


class Mesh(msgspec.Struct):
    """The plain model.

    members: in core order.
    replacing: by machine, the throwaway key and address of who is to take its place.
    offers: by machine, the key that it is about to change to.
    invited_at: by machine, when its newest invitation was made.
    resting: by address, the revision from which on nobody has it.
    acknowledged: by machine, the revision that it has said it holds.
    outcomes: of invitations, by identifier.
    """

    members: list[Member]
    invited: dict[str, tuple[Member, str, int]] = {}
    replacing: dict[str, tuple[Member, str, int]] = {}
    offers: dict[str, str] = {}
    offered_at: dict[str, int] = {}
    invited_at: dict[str, int] = {}
    resting: dict[str, int] = {}
    acknowledged: dict[str, int] = {}
    outcomes: dict[str, tuple[str, str]] = {}
    revision: int = 1
    events: list[tuple[str, str]] = []

    def taken(self) -> int:
        everyone = [*self.members, *(each[0] for each in self.invited.values())]
        return sum(each.workers or 0 for each in everyone)

    def member(self, name: str) -> Member | None:
        return next((each for each in self.members if each.name == name), None)

    def expire(self, now: int) -> None:
        for name in sorted(self.invited):
            _, identifier, until = self.invited[name]
            if until <= now:
                del self.invited[name]
                self.outcomes[identifier] = ("expired", "")
                self.events.append(("invitation-expired", name))

        for name in sorted(self.replacing):
            _, identifier, until = self.replacing[name]
            if until <= now:
                self.end(name, "expired")

    def end(self, name: str, outcome: str) -> None:
        """An invitation for a machine's place ends."""
        if name in self.replacing:
            _, identifier, _ = self.replacing.pop(name)
            self.outcomes[identifier] = (outcome, "")
            self.events.append(("replacement-ended", name))

    def withdraw(self, name: str) -> bool:
        if name in self.invited:
            _, identifier, _ = self.invited.pop(name)
            self.outcomes[identifier] = ("withdrawn", "")
            self.events.append(("invitation-withdrawn", name))
            return True
        was = name in self.replacing
        self.end(name, "withdrawn")
        return was

    def free(self) -> str | None:
        """The lowest address that can be given."""
        known = [self.acknowledged[each.name] for each in self.members if each.name != "control"]
        self.resting = {
            address: revision for address, revision in self.resting.items() if known and revision > min(known)
        }
        others = (*self.invited.values(), *self.replacing.values())
        used = {each.address for each in self.members} | {each[0].address for each in others}
        return next((each for each in ADDRESSES if each not in used | set(self.resting)), None)

    def change_key(self, name: str, key: str) -> None:
        found = self.member(name)
        assert found is not None
        found.key = key

    def known_keys(self) -> set[str]:
        others = (*self.invited.values(), *self.replacing.values())
        return (
            {each.key for each in self.members} | {each[0].key for each in others} | set(self.offers.values())
        )

    def cores(self) -> dict[str, tuple[int, int]]:
        """First core and count of each active machine."""
        found, first = {}, 1
        for each in self.members:
            if each.state == "active":
                assert each.workers is not None
                found[each.name] = (first, each.workers)
                first += each.workers
        return found


class Issued(msgspec.Struct):
    name: str
    secret: bytes
    address: str


def fewest_renumbered(sizes: list[int], gap: int) -> int:
    """The least number of machines behind a gap that get other numbers, by trying every order."""
    starts = list(itertools.accumulate(sizes, initial=gap))
    return min(
        sum(
            starts[machine] != at
            for machine, at in zip(
                order, itertools.accumulate((sizes[each] for each in order), initial=0), strict=False
            )
        )
        for order in itertools.permutations(range(len(sizes)))
    )


class Commands(RuleBasedStateMachine):
    """The rules, and what must hold after each."""

    issued = Bundle("issued")

    def __init__(self) -> None:
        super().__init__()
        logging.getLogger("qmesh").setLevel(logging.ERROR)
        self.directory = Path(tempfile.mkdtemp(dir="/dev/shm"))
        self.clock_s = 0.0
        self._removed_addresses: set[str] = set()
        self.contents: dict[int, MembershipContent] = {}
        self._real_time = time.time
        time.time = lambda: self._real_time() + self.clock_s

    def teardown(self) -> None:
        time.time = self._real_time
        logging.getLogger("qmesh").setLevel(logging.NOTSET)
        shutil.rmtree(self.directory)

    @initialize()
    def init(self) -> None:
        self.state = State(self.directory)
        key = self.state.keys.ensure_signing_key().public_key().public_bytes_raw()
        control = Machine(name="control", public_key=CONTROL_KEY, address=ADDRESSES[0], workers=3)
        inventory = Inventory(
            mesh=compute_mesh_identifier(key),
            network="10.77.0.0/29",
            control="control",
            node="2.0",
            base_port=BASE_PORT,
            service_port=51820,
            revision=1,
            machines=(control,),
        )
        Registry.create(self.state.registry_file, inventory, now=int(time.time()))
        self.state.save_settings(
            Settings(
                mesh=inventory.mesh,
                name="control",
                control=True,
                interface="qmesh0",
                listen_port=51820,
                verification_key=key,
                up=False,
                guarded=False,
            )
        )
        self.mesh = Mesh([Member("control", CONTROL_KEY, ADDRESSES[0], 3, "active")])
        self.mesh.events.append(("mesh-made", "control"))
        self.reopen()
        set_machine(self.state, "control", workers=None, endpoints=("203.0.113.5:51820",))
        self.mesh.revision += 1
        self.mesh.events.append(("machine-changed", "control"))

    def now(self) -> int:
        return int(time.time())

    # What others do to the control node.

    @rule()
    def reopen(self) -> None:
        """The agent is started anew: nothing of what it knew is left."""
        self.node = ControlNode(self.state, changed=lambda: None, turns=LookRequests(lambda: None))

    @rule(seconds=st.sampled_from([-7200.0, 30.0, 3500.0, 86400.0]))
    def clock_moves(self, seconds: float) -> None:
        self.clock_s += seconds

    @rule()
    def agent_looks(self) -> None:
        with Registry(self.state.registry_file) as registry:
            registry.expire_invitations(now=self.now())
        self.mesh.expire(self.now())

    # Commands and messages.

    @rule(target=issued, name=st.sampled_from((*NAMES, "control")), workers=st.sampled_from([None, 1, 2, 6]))
    def invite(self, name: str, workers: int | None) -> Any:
        wish = invite.InviteOptions(name=name, workers=workers, endpoint=None, expires="1h")
        after = copy.deepcopy(self.mesh)
        after.expire(self.now())
        after.withdraw(name)
        free = after.free()
        try:
            made = invite.invite(self.state, wish)
        except BadInput:
            assert after.member(name) or free is None or after.taken() + (workers or 0) > MOST_WORKERS
            return Issued("", b"", "")
        assert after.member(name) is None
        assert free is not None
        assert made.address == made.source_address == free
        derived = derive_invitation_keys(made.secret)
        member = Member(name, derived.public_key, free, workers, "invited")
        after.invited[name] = (member, derived.identifier, made.expires_at)
        after.events.append(("invited", name))
        after.invited_at[name] = self.now()
        assert after.taken() <= MOST_WORKERS
        self.mesh = after
        return Issued(name, made.secret, made.address)

    @rule(target=issued, name=st.sampled_from((*NAMES, "control")))
    def invite_to_replace(self, name: str) -> Any:
        wish = invite.InviteOptions(name=name, workers=None, endpoint=None, expires="1h", replace=True)
        after = copy.deepcopy(self.mesh)
        after.expire(self.now())
        after.withdraw(name)
        free, member = after.free(), after.member(name)
        try:
            made = invite.invite(self.state, wish)
        except BadInput:
            assert name == "control" or member is None or free is None
            return Issued("", b"", "")
        assert member is not None
        assert free is not None
        assert (made.address, made.source_address) == (member.address, free)
        derived = derive_invitation_keys(made.secret)
        after.offers.pop(name, None)
        stand_in = Member(name, derived.public_key, free, None, "stand-in")
        after.replacing[name] = (stand_in, derived.identifier, made.expires_at)
        after.events.append(("replacement-invited", name))
        after.invited_at[name] = self.now()
        self.mesh = after
        return Issued(name, made.secret, made.source_address)

    @rule(name=st.sampled_from((*NAMES, "control")))
    def withdraw(self, name: str) -> None:
        self.mesh.expire(self.now())
        if self.mesh.withdraw(name):
            invite.withdraw_invitation(self.state, name)
        else:
            with pytest.raises(BadInput):
                invite.withdraw_invitation(self.state, name)

    @rule(name=st.sampled_from(NAMES), key=st.sampled_from((*KEYS, CONTROL_KEY)))
    def offer_key(self, name: str, key: str) -> None:
        member = self.mesh.member(name)
        sender = "10.77.0.7" if member is None else member.address
        with Registry(self.state.registry_file) as registry:
            try:
                registry.offer_key(key, sender=sender, now=self.now())
            except EnrolmentRefused:
                too_soon = abs(self.now() - self.mesh.offered_at.get(name, -99)) < 11
                assert (
                    member is None or name in self.mesh.replacing or key in self.mesh.known_keys() or too_soon
                )
                return
        assert member is not None
        if key not in {member.key, self.mesh.offers.get(name)}:
            assert name not in self.mesh.replacing
            assert key not in self.mesh.known_keys()
            self.mesh.offers[name] = key
            self.mesh.offered_at[name] = self.now()
            offered = ("key-offered", name)
            self.mesh.events[:] = [each for each in self.mesh.events if each != offered] + [offered]

    @rule(key=st.sampled_from(KEYS))
    def comes_with_key(self, key: str) -> None:
        """The control node sees a handshake with it."""
        with Registry(self.state.registry_file) as registry:
            registry.activate_pending_key(key, now=self.now())
        for name in [name for name, offered in self.mesh.offers.items() if offered == key]:
            after = self._event("key-rotated", name)
            del after.offers[name]
            after.members = [
                msgspec.structs.replace(each, key=key) if each.name == name else each
                for each in after.members
            ]
            self.mesh = after

    @rule(name=st.sampled_from(NAMES))
    def acknowledge(self, name: str) -> None:
        member = self.mesh.member(name)
        if member is not None:
            with Registry(self.state.registry_file) as registry:
                registry.record_acknowledgements({member.address: self.mesh.revision})
            self.mesh.acknowledged[name] = self.mesh.revision

    @rule(
        issued=issued,
        key=st.sampled_from((*KEYS, CONTROL_KEY, *WEAK)),
        workers=st.integers(1, 5),
        forged=st.sampled_from(["", "", "", "proof", "sender", "workers"]),
    )
    def redeem(self, issued: Issued, key: str, workers: int, forged: str) -> None:
        """By whoever has the invitation: too early, in time or late, once or again, with any key."""
        if not issued.secret:
            return
        message = build_redemption(
            derive_invitation_keys(issued.secret), public_key=key, workers=workers, endpoint=None
        )
        if forged == "proof":
            message = msgspec.structs.replace(message, proof="0" * 64)
        if forged == "workers":
            message = msgspec.structs.replace(message, workers=workers + 1)
        sender = "10.77.0.7" if forged == "sender" else issued.address
        after = self._redeemed(issued, key, workers, is_forged=bool(forged))
        (answer,) = self.node.redeem_all([SentRedemption(msgspec.json.encode(message), sender)])
        if isinstance(answer, EnrolmentRefused):
            assert after is None
            return
        assert isinstance(answer, bytes)
        assert after is not None
        self.mesh = after
        self._is_membership(answer)

    def _redeemed(self, issued: Issued, key: str, workers: int, *, is_forged: bool) -> Mesh | None:
        """The mesh after a redemption; None when it is to be refused."""
        identifier = derive_invitation_keys(issued.secret).identifier
        found = self.mesh.member(issued.name)
        if self.mesh.outcomes.get(identifier) == ("redeemed", key):
            # The same again is the same membership, as long as that machine is a member.
            if found is None or found.key != key:
                return None
            after = copy.deepcopy(self.mesh)
            after.expire(self.now())
            return after
        after = copy.deepcopy(self.mesh)
        after.expire(self.now())
        entry = after.invited.get(issued.name) or after.replacing.get(issued.name)
        if is_forged or entry is None or entry[1] != identifier or key in after.known_keys() or key in WEAK:
            return None
        if self.now() < self.mesh.invited_at[issued.name] - CLOCK_S:
            return None
        if issued.name in after.replacing:
            return self._replaced(after, issued.name, identifier, key)
        del after.invited[issued.name]
        count = entry[0].workers or workers
        if after.taken() + count > MOST_WORKERS:
            return None
        after.members.append(Member(issued.name, key, issued.address, count, "active"))
        after.outcomes[identifier] = ("redeemed", key)
        after.revision += 1
        after.acknowledged[issued.name] = after.revision
        after.events.append(("joined", issued.name))
        return after

    @staticmethod
    def _replaced(after: Mesh, name: str, identifier: str, key: str) -> Mesh:
        del after.replacing[name]
        after.outcomes[identifier] = ("redeemed", key)
        after.change_key(name, key)
        after.revision += 1
        after.events.append(("replaced", name))
        return after

    @rule(name=st.sampled_from((*NAMES, "control")), count=st.integers(1, 7))
    def set_workers(self, name: str, count: int) -> None:
        self._change(
            lambda: set_machine(self.state, name, workers=count, endpoints=None),
            lambda: self._with_workers(name, count),
        )

    @rule(name=st.sampled_from(NAMES))
    def pause(self, name: str) -> None:
        self._change(lambda: pause.pause(self.state, name), lambda: self._paused(name))

    @rule(name=st.sampled_from(NAMES))
    def resume(self, name: str) -> None:
        self._change(lambda: resume.resume(self.state, name), lambda: self._resumed(name))

    @rule(name=st.sampled_from((*NAMES, "control")))
    def remove(self, name: str) -> None:
        self._change(lambda: remove.remove(self.state, name), lambda: self._removed(name))

    @rule(name=st.sampled_from(NAMES), at=st.integers(1, 12))
    def die_while_removing(self, name: str, at: int) -> None:
        """The process is killed before a statement: nothing of the change was done, or all of it."""
        died = killed_in(lambda: remove.remove(self.state, name), at)
        if not died:
            after = self._removed(name)
            if after is not None:
                self._adopt(after, self._order())

    @rule(name=st.sampled_from(NAMES), at=st.integers(1, 12))
    def die_while_setting(self, name: str, at: int) -> None:
        died = killed_in(lambda: set_machine(self.state, name, workers=2, endpoints=None), at)
        if not died:
            after = self._with_workers(name, 2)
            if after is not None:
                self._adopt(after, self._order())

    # The plain model of the changes: each gives the mesh after it, or None when it is to be refused.

    def _change(
        self, command: Callable[[], mesh_change.ChangeResult], model: Callable[[], Mesh | None]
    ) -> None:
        after = model()
        try:
            changed = command()
        except BadInput:
            assert after is None
            return
        assert after is not None
        assert changed.revision == after.revision
        self._adopt(after, self._order())

    def _order(self) -> list[str]:
        with Registry(self.state.registry_file) as registry:
            machines = registry.inventory().machines
        return [machine.name for machine in machines if machine.state != "invited"]

    def _adopt(self, after: Mesh, order: list[str]) -> None:
        """Take the order that was chosen, when no other would have renumbered fewer."""
        before = {name: first for name, (first, _) in self.mesh.cores().items()}
        assert sorted(order) == sorted(each.name for each in after.members)
        after.members.sort(key=lambda each: order.index(each.name))
        now = {name: first for name, (first, _) in after.cores().items()}
        moved = [name for name in now if name in before and now[name] != before[name]]
        assert len([name for name in moved if name != self._about]) <= self._most_moved
        self.mesh = after

    def _leave(self, name: str) -> None:
        """Remember how many others may be renumbered when a machine's cores fall out."""
        cores = self.mesh.cores()
        self._about, self._most_moved = name, 0
        if name in cores:
            names = list(cores)
            behind = [cores[other][1] for other in names[names.index(name) + 1 :]]
            self._most_moved = fewest_renumbered(behind, cores[name][1])

    def _event(self, what: str, name: str, before: Mesh | None = None) -> Mesh:
        after = copy.deepcopy(before or self.mesh)
        after.revision += 1
        after.events.append((what, name))
        return after

    def _removed(self, name: str) -> Mesh | None:
        if name == "control" or self.mesh.member(name) is None:
            return None
        self._leave(name)
        ended = copy.deepcopy(self.mesh)
        ended.withdraw(name)
        ended.offers.pop(name, None)
        found = self.mesh.member(name)
        assert found is not None
        after = self._event("removed", name, ended)
        after.resting[found.address] = after.revision
        self._removed_addresses.add(found.address)
        after.members = [each for each in after.members if each.name != name]
        return after

    def _paused(self, name: str) -> Mesh | None:
        found = self.mesh.member(name)
        if found is None or found.state != "active":
            return None
        self._leave(name)
        after = self._event("paused", name)
        after.members = [each for each in after.members if each.name != name]
        after.members.append(msgspec.structs.replace(found, state="paused"))
        return after

    def _resumed(self, name: str) -> Mesh | None:
        found = self.mesh.member(name)
        if found is None or found.state != "paused":
            return None
        self._about, self._most_moved = name, 0
        after = self._event("resumed", name)
        after.members = [each for each in after.members if each.name != name]
        after.members.append(msgspec.structs.replace(found, state="active"))
        return after

    def _with_workers(self, name: str, count: int) -> Mesh | None:
        found = self.mesh.member(name)
        if found is None:
            return self._invited_with_workers(name, count)
        assert found.workers is not None
        if self.mesh.taken() - found.workers + count > MOST_WORKERS:
            return None
        if found.workers == count:
            self._about, self._most_moved = name, 0
            return copy.deepcopy(self.mesh)
        self._leave(name)
        cores = self.mesh.cores()
        behind = len(cores) - list(cores).index(name) - 1 if name in cores else 0
        if count < found.workers:
            names = list(cores)
            sizes = [cores[other][1] for other in names[names.index(name) + 1 :]] if name in cores else []
            self._most_moved = fewest_renumbered(sizes, found.workers - count)
        else:
            self._most_moved = behind if name == "control" else min(behind, self._most_moved)
        after = self._event("machine-changed", name)
        changed = after.member(name)
        assert changed is not None
        changed.workers = count
        return after

    def _invited_with_workers(self, name: str, count: int) -> Mesh | None:
        if name not in self.mesh.invited:
            return None
        invited = self.mesh.invited[name][0]
        if self.mesh.taken() - (invited.workers or 0) + count > MOST_WORKERS:
            return None
        self._about, self._most_moved = name, 0
        if invited.workers == count:
            return copy.deepcopy(self.mesh)
        after = self._event("machine-changed", name)
        after.invited[name][0].workers = count
        return after

    # What holds after each step.

    def _is_membership(self, answer: bytes) -> None:
        signed: SignedMembership = apply_update(read_update(answer), None)
        content = read_membership_content(signed)
        assert self.contents.setdefault(content.revision, content) == content, "two of one revision"
        payload = json.loads(signed.payload)
        said = [(each["name"], each["public_key"], each["address"]) for each in payload["machines"]]
        assert said == [(each.name, each.key, each.address) for each in self.mesh.members]
        assert payload["revision"] == self.mesh.revision

    @invariant()
    def the_registry_is_as_the_model(self) -> None:
        with Registry(self.state.registry_file) as registry:
            inventory, events = registry.inventory(), registry.events()
        found = [Member(m.name, m.public_key, m.address, m.workers, m.state) for m in inventory.machines]
        assert [each for each in found if each.state != "invited"] == self.mesh.members
        stand_ins = {(each.machine, each.public_key, each.address) for each in inventory.stand_ins}
        assert stand_ins == {
            *((name, each.key, each.address) for name, (each, _, _) in self.mesh.replacing.items()),
            *((name, key, None) for name, key in self.mesh.offers.items()),
        }
        invited = sorted((each for each in found if each.state == "invited"), key=lambda each: each.name)
        assert invited == [self.mesh.invited[name][0] for name in sorted(self.mesh.invited)]
        assert inventory.revision == self.mesh.revision
        assert {
            name: (cores.first, cores.count) for name, cores in inventory.cores.items()
        } == self.mesh.cores()
        assert sorted_expiries([(event.what, event.machine or "") for event in events]) == sorted_expiries(
            self.mesh.events
        )
        revisions = [event.revision for event in events]
        assert revisions == sorted(revisions)

    @invariant()
    def spent_invitations_are_remembered(self) -> None:
        with contextlib.closing(sqlite3.connect(self.state.registry_file)) as connection:
            rows = connection.execute(
                "SELECT identifier, outcome, redeemed_by, secret FROM invitations"
            ).fetchall()
        spent = {row[0]: (row[1], row[2] or "") for row in rows if row[1] != "open"}
        assert spent == self.mesh.outcomes
        assert all(row[3] is None for row in rows if row[1] != "open")
        assert {row[0] for row in rows if row[1] == "open"} == {
            each[1] for each in (*self.mesh.invited.values(), *self.mesh.replacing.values())
        }

    @invariant()
    def members_and_nobody_else_are_told(self) -> None:
        self.node.refresh_membership()  # as when a command tells the agent
        for address in (*ADDRESSES, "10.77.0.7"):
            is_member = any(each.address == address for each in self.mesh.members)
            try:
                answer = self.node.find_membership_update(
                    newer_than=self.mesh.revision - 1, whole=True, sender=address
                )
            except EnrolmentRefused:
                assert not is_member
            else:
                # One that was removed while this node served it is to know.
                assert is_member or address in self._removed_addresses
                assert answer is not None
                self._is_membership(answer)


def sorted_expiries(events: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those that expire at once do so in no order."""
    found: list[tuple[str, str]] = []
    for is_expiry, group in itertools.groupby(events, key=_ends):
        together = list(group)
        found += sorted(together) if is_expiry else together
    return found


def _ends(event: tuple[str, str]) -> bool:
    return event[0] in {"invitation-expired", "replacement-ended"}


def killed_in(work: Callable[[], object], at: int) -> bool:
    """Do some work in a process that is killed before its statement of that number; whether it was."""
    identifier = os.fork()
    if identifier == 0:
        left = at
        connect = sqlite.connect

        def traced(path: Path, *, busy_s: float = sqlite.BUSY_S) -> sqlite3.Connection:
            connection = connect(path, busy_s=busy_s)

            def count(_: str) -> None:
                nonlocal left
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)

            connection.set_trace_callback(count)
            return connection

        sqlite.connect = traced
        with contextlib.suppress(QmeshError):
            work()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(identifier, 0)[1])


TestEveryCommand: Any = pytest.mark.lab(Commands.TestCase)
TestEveryCommand.settings = settings(max_examples=settings().max_examples // 2, stateful_step_count=40)
