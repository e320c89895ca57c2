"""The control node's registry: SQLite, every change one durable transaction with its event.

The rules are the inventory's (`qmesh.mesh.inventory`); the database refuses besides, by `UNIQUE`
and `CHECK`, what must never be: two machines with one name, address, key or place (E5).
"""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, Self, TypeVar

from qmesh.errors import RESTORE, BadInput, EnrolmentRefused, NeedsRoot, StateUnreadable
from qmesh.host import files
from qmesh.host.registry import (
    handover,
    invitations,
    key_rotation,
    node_files,
    retired_keys,
    rows,
    schema,
    sqlite,
)
from qmesh.host.registry.events import (
    find_last_time,
    list_events,
    list_new_events,
    record_event,
    set_event_user,
)
from qmesh.host.registry.invitations import OpenInvitation, RedemptionRequest
from qmesh.host.registry.sqlite import select, select_one
from qmesh.host.registry.upgrade_backup import describe_way_back, write_upgrade_backup
from qmesh.host.system import disk_reserve
from qmesh.mesh.events.mesh_events import EventKind
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.machine import Machine
from qmesh.mesh.protocol.enrolment import Redemption
from qmesh.mesh.values import Secret, SecretStruct

P = ParamSpec("P")
T = TypeVar("T")

_OF_PEERS: Final = frozenset(
    {"invited", "invitation-withdrawn", "invitation-expired", "joined", "node-files-fetched"}
)
"""Events after which nothing of the control node is another but its peers, if that: who joins, comes last."""


class KeyedMachine(SecretStruct, frozen=True):
    """A machine with the preshared key that the control node shares with it."""

    machine: Machine
    preshared_key: Secret | None


class RegistryNews(SecretStruct, frozen=True):
    """What became of machines, by name; None for one that is gone. event: the last that is told of."""

    event: int
    machines: dict[str, KeyedMachine | None]


def as_reading(
    function: Callable[Concatenate[sqlite3.Connection, P], T],
) -> Callable[Concatenate[Registry, P], T]:
    """The method that has a function read the registry as of one moment."""

    @functools.wraps(function)
    def read(self: Registry, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self._open_snapshot() as connection:
            return function(connection, *args, **kwargs)

    return read


def as_change(
    function: Callable[Concatenate[sqlite3.Connection, P], T],
) -> Callable[Concatenate[Registry, P], T]:
    """The method that has a function change the registry, in one transaction."""

    @functools.wraps(function)
    def change(self: Registry, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self._open_transaction() as connection:
            return function(connection, *args, **kwargs)

    return change


class Registry:
    """An open registry. Use as a context manager; every method is one transaction.

    user: the user that is noted for its changes; None for none, as for the agent.
    busy_s: seconds that what changes it waits for another program that writes; then it raises Busy.
    Raises StateUnreadable when the file is not there, damaged, or of a newer qmesh.
    """

    def __init__(self, path: Path, *, user: str | None = None, busy_s: float = sqlite.BUSY_S) -> None:
        self._path = path
        self._user = user
        mode = files.read_mode(path)
        if mode is None:
            raise StateUnreadable(f"{path}, the control node's registry, is missing", hint=RESTORE)
        if not os.access(path, os.R_OK | os.W_OK):
            raise NeedsRoot(f"{path} cannot be read by this user", hint="run the command as root")
        disk_reserve.release_if_full(path.parent)
        self._connection = sqlite.connect(path, busy_s=busy_s)
        try:
            self._refuse_unreadable()
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    @classmethod
    def create(cls, path: Path, inventory: Inventory, *, now: int, user: str | None = None) -> None:
        """Make a registry that holds `inventory`, whole or not at all.

        now: Unix time in seconds; user: as the registry's.
        """
        building = path.with_name(path.name + ".new")
        with sqlite.translate_errors(path):
            sqlite.remove_database(building)
            sqlite.remove_database(path)
            os.close(os.open(building, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, files.PRIVATE_MODE))
            with contextlib.closing(sqlite.connect(building)) as connection:
                schema.create_tables(connection)
                with sqlite.transaction(connection):
                    rows.insert_mesh(connection, inventory)
                    record_event(connection, now, "init", "mesh-made", inventory.control, inventory.revision)
                    if user is not None:
                        set_event_user(connection, user, since=0)
                # Lasts in the file. Set when it is opened, it would fail where another process writes.
                connection.execute("PRAGMA journal_mode = WAL")
            building.replace(path)
            files.sync_directory(path.parent)

    def _refuse_unreadable(self) -> None:
        with sqlite.translate_errors(self._path):
            (application,) = select_one(self._connection, tuple[int], "PRAGMA application_id")
            (version,) = select_one(self._connection, tuple[int], "PRAGMA user_version")
        if application != schema.APPLICATION:
            raise StateUnreadable(f"{self._path} is not a qmesh registry", hint=RESTORE)
        if version > schema.VERSION:
            raise StateUnreadable(
                f"{self._path} was written by a newer qmesh", hint=describe_way_back(self._path)
            )
        if version < schema.OLDEST:
            raise StateUnreadable(
                f"{self._path} is damaged: it is of version {version}, which was never released", hint=RESTORE
            )
        if version < schema.VERSION:
            with sqlite.translate_errors(self._path), sqlite.transaction(self._connection):
                self._keep_way_back()
                schema.migrate(self._connection)

    def _keep_way_back(self) -> None:
        """Keep what there is before it is brought to a newer version, unless another process has done so."""
        (version,) = select_one(self._connection, tuple[int], "PRAGMA user_version")
        if version < schema.VERSION:
            write_upgrade_backup(self._path)

    @contextlib.contextmanager
    def _open_transaction(self) -> Iterator[sqlite3.Connection]:
        with sqlite.translate_errors(self._path), sqlite.transaction(self._connection):
            before = None if self._user is None else handover.last_event_number(self._connection)
            yield self._connection
            if self._user is not None and before is not None:
                set_event_user(self._connection, self._user, since=before)

    def require_write_access(self) -> None:
        """Raise Busy or MachineRefused where it takes no change now."""
        with sqlite.translate_errors(self._path), sqlite.transaction(self._connection):
            pass

    @contextlib.contextmanager
    def _open_snapshot(self) -> Iterator[sqlite3.Connection]:
        """As of one moment; no writer is waited for."""
        with sqlite.translate_errors(self._path), sqlite.snapshot(self._connection):
            yield self._connection

    def inventory(self) -> Inventory:
        """The whole mesh, invited machines included. Looks for damage of the file as well."""
        with self._open_snapshot() as connection:
            # Of a truncated file SQLite reads rows still; the check costs less than reading them does.
            (verdict,) = select_one(connection, tuple[str], "PRAGMA quick_check(1)")
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)
            return rows.read_inventory(connection)

    revision = as_reading(rows.read_revision)
    successor = as_reading(rows.read_successor)
    last_event_number = as_reading(handover.last_event_number)
    events = as_reading(list_events)
    list_new_events = as_reading(list_new_events)
    find_last_time = as_reading(find_last_time)
    find_spent_invitation = as_reading(invitations.find_spent_invitation)
    find_preshared_key = as_reading(key_rotation.find_preshared_key)
    find_preshared_keys = as_reading(key_rotation.find_preshared_keys)
    find_successor_preshared_key = as_reading(handover.find_successor_preshared_key)
    check_readiness = as_reading(handover.check_readiness)
    find_file_requester = as_reading(node_files.find_file_requester)
    list_retired_keys = as_reading(retired_keys.list_retired_keys)

    invite = as_change(invitations.create_invitation)
    activate_pending_key = as_change(key_rotation.activate_pending_key)
    begin_handover = as_change(handover.begin_handover)
    end_handover = as_change(handover.end_handover)
    record_files_fetched = as_change(node_files.record_files_fetched)
    record_progress = as_change(handover.record_progress)
    complete_handover = as_change(handover.complete_handover)

    def preshared_keys(self) -> dict[str, Secret]:
        """The preshared key of each machine, throwaway ones included, by public key."""
        with self._open_snapshot() as connection:
            found = select(
                connection,
                tuple[str, str],
                "SELECT public_key, preshared_key FROM machines WHERE preshared_key IS NOT NULL"
                " UNION ALL SELECT public_key, preshared_key FROM stand_ins WHERE preshared_key IS NOT NULL",
            )
            return {public_key: rows.parse_preshared_key(text) for public_key, text in found}

    def read_news(self, *, since: int) -> RegistryNews | None:
        """What became of machines after the event of this number.

        None when more has changed than who is a peer, when one came and went that nothing tells of now, as
        the key of an invitation that was used, or when this registry has no such event.
        """
        with self._open_snapshot() as connection:
            found = select(
                connection,
                tuple[int, str, str | None],
                "SELECT number, what, machine FROM events WHERE number >= ? ORDER BY number",
                (since,),
            )
            if (
                not found
                or found[0][0] != since
                or not _OF_PEERS.issuperset(what for _, what, _ in found[1:])
            ):
                return None
            last = {name: what for _, what, name in found[1:] if name is not None}
            if any(what == "invited" != last.get(name or "") for _, what, name in found[1:]):
                return None
            names = set(last)
            return RegistryNews(found[-1][0], {name: _find_machine(connection, name) for name in names})

    def withdraw_invitation(self, name: str, *, now: int) -> bool:
        """End the invitation that is open for that name; whether there was one."""
        with self._open_transaction() as connection:
            invitations.expire_invitations(connection, now)
            return invitations.withdraw_invitation(connection, name, now, command="invite")

    def list_open_invitations(self, *, now: int) -> tuple[OpenInvitation, ...]:
        """Those that can still be used, by name."""
        self.expire_invitations(now=now)
        with self._open_snapshot() as connection:
            return invitations.list_open_invitations(connection)

    def record_acknowledgements(self, revisions: Mapping[str, int]) -> None:
        """Remember which revision members have, by tunnel address; it only grows."""
        with self._open_transaction() as connection:
            connection.executemany(
                "UPDATE machines SET acknowledged = ? WHERE address = ? AND acknowledged < ?",
                [(revision, address, revision) for address, revision in revisions.items()],
            )

    def find_redeemed_revision(self, message: Redemption) -> int | None:
        """The membership's revision where the sender has redeemed that already; None where it may do so now.

        One SELECT, beside writers. Raises EnrolmentRefused where it is to do neither.
        """
        with sqlite.translate_errors(self._path):
            return invitations.find_redeemed_revision(self._connection, message)

    def redeem_all(
        self,
        requests: Sequence[RedemptionRequest],
        *,
        now: int,
        find_endpoint: Callable[[str], str | None] = lambda _: None,
    ) -> tuple[Inventory, list[EnrolmentRefused | None]]:
        """Make members of those who ask, in one durable write for all; what each is refused with, or None.

        One that is a member already is found to be one: the same message twice is once (E4).

        find_endpoint: where packets from a tunnel address come from; asked only of who becomes a member now.
        An unknown, used, withdrawn, expired or unproven invitation is refused.
        """
        noted = invitations.Admitting(now, self._user, find_endpoint)
        with self._open_transaction() as connection:
            return invitations.redeem_all(connection, requests, noted)

    def redeem(self, message: Redemption, *, sender: str | None, now: int) -> Inventory:
        """The same of one. Raises EnrolmentRefused."""
        inventory, (refusal,) = self.redeem_all([RedemptionRequest(message, sender)], now=now)
        if refusal is not None:
            raise refusal
        return inventory

    def offer_key(self, public_key: str, *, sender: str, now: int) -> bool:
        """Know the key that the member at that tunnel address is about to change to; whether that is new.

        Raises EnrolmentRefused where the sender is no member, the key is another's, or another machine is
        invited to take the sender's place: then its key may be in wrong hands, and must not last.
        """
        try:
            with self._open_transaction() as connection:
                return key_rotation.offer_key(connection, public_key, sender=sender, now=now)
        except BadInput as error:
            raise EnrolmentRefused(
                error.message, hint="wait a minute, then run the same command again"
            ) from None
        except sqlite.Conflict:
            raise EnrolmentRefused(
                "that key is in use",
                hint="remove next.key from the state directory, then run the same command again",
            ) from None

    def change_mesh(
        self,
        after: Callable[[Inventory], Inventory],
        *,
        command: str,
        what: EventKind,
        machine: str,
        now: int,
    ) -> tuple[Inventory, Inventory]:
        """Make of the mesh what `after` makes of it; the mesh before and after.

        `after` may raise BadInput, and changes no key, address or name. machine: what it is about.
        """
        with self._open_transaction() as connection:
            rows.refuse_during_handover(connection)
            old = rows.read_inventory(connection)
            new = after(old)
            if new != old:
                kept = {each.name for each in new.machines}
                for name in (each.name for each in old.machines if each.name not in kept):
                    invitations.withdraw_invitation(connection, name, now, command=command)
                rows.update_inventory(connection, old, new, now=now)
                record_event(connection, now, command, what, machine, new.revision)
        return old, new

    def copy_database(self) -> bytes:
        """The database's octets as of one moment, whatever others write meanwhile."""
        with sqlite.translate_errors(self._path), contextlib.closing(sqlite3.connect(":memory:")) as copy:
            self._connection.backup(copy)  # all pages in one step, which is one transaction
            return copy.serialize()

    def expire_invitations(self, *, now: int) -> bool:
        """End the invitations whose time is over; whether there were any. Without any it only reads."""
        with self._open_snapshot() as connection:
            if not invitations.has_expired_invitations(connection, now):
                return False
        with self._open_transaction() as connection:
            return invitations.expire_invitations(connection, now)


def _find_machine(connection: sqlite3.Connection, name: str) -> KeyedMachine | None:
    fields = ", ".join(rows.MachineRow._fields)
    query = f"SELECT {fields} FROM machines WHERE name = ?"  # noqa: S608 - names of ours
    found = select(connection, rows.MachineRow, query, (name,))
    if not found:
        return None
    (preshared_key,) = select_one(
        connection, tuple[str | None], "SELECT preshared_key FROM machines WHERE name = ?", (name,)
    )
    with sqlite.translate_row_errors():
        known = rows.parse_machine(found[0])
    return KeyedMachine(known, None if preshared_key is None else rows.parse_preshared_key(preshared_key))
