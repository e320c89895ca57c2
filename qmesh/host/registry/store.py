"""The control node's registry: SQLite, every change one durable transaction with its event.

The rules are the inventory's (`qmesh.mesh.inventory`); the database refuses besides, by `UNIQUE`
and `CHECK`, what must never be: two machines with one name, address, key or place (E5).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, Literal, Self, TypeAlias

import msgspec

from qmesh.errors import BadInput, EnrolmentRefused, NeedsRoot, QmeshError, StateUnreadable
from qmesh.host import database, files
from qmesh.host.registry import rows, schema
from qmesh.mesh.changes import refuse_to_replace, with_key
from qmesh.mesh.enrolment import Redemption, derive, permanent_preshared_key, refuse_unproven
from qmesh.mesh.inventory import Inventory, add, admit
from qmesh.mesh.model import Endpoint, Machine, Secret, Unshown

EventKind: TypeAlias = Literal[
    "mesh-made",
    "invited",
    "invitation-withdrawn",
    "invitation-expired",
    "joined",
    "removed",
    "paused",
    "resumed",
    "machine-changed",
    "mesh-changed",
    "replacement-invited",
    "replacement-ended",
    "replaced",
    "key-offered",
    "key-rotated",
    "restored",
]
_OF_PEERS: Final = frozenset({"invited", "invitation-withdrawn", "invitation-expired", "joined"})
"""Events after which nothing of the control node is another but its peers: who joins, comes last."""


class Event(msgspec.Struct, frozen=True):
    """Something that changed the mesh. at: Unix time in seconds."""

    at: int
    command: str
    what: str
    machine: str | None
    revision: int


class Issued(Unshown, frozen=True):
    """An invitation as the registry keeps it.

    machine: as it will be, with the throwaway key.
    from_address: where it comes from until then, if the machine it is to replace is there still.
    expires_at: Unix time in seconds.
    """

    secret: bytes
    machine: Machine
    from_address: str | None
    expires_at: int


class Open(msgspec.Struct, frozen=True):
    """An invitation that nobody has used yet. expires_at: Unix time in seconds."""

    name: str
    address: str
    workers: int | None
    expires_at: int
    replaces: bool


class Known(Unshown, frozen=True):
    """A machine with the preshared key that the control node shares with it."""

    machine: Machine
    preshared_key: Secret | None


class News(Unshown, frozen=True):
    """What became of machines, by name; None for one that is gone. event: the last that is told of."""

    event: int
    machines: dict[str, Known | None]


class Registry:
    """An open registry. Use as a context manager; every method is one transaction.

    Raises StateUnreadable when the file is not there, damaged, or of a newer qmesh.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        mode = files.mode_of(path)
        if mode is None:
            raise StateUnreadable(f"{path} is missing", hint="restore it from a backup: it is the mesh")
        if not os.access(path, os.R_OK | os.W_OK):
            raise NeedsRoot(f"{path} cannot be read by this user", hint="run the command as root")
        self._connection = database.connect(path)
        try:
            self._refuse_foreign()
        except QmeshError:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    @classmethod
    def create(cls, path: Path, inventory: Inventory, *, now: int) -> None:
        """Make a registry that holds `inventory`, whole or not at all.

        now: Unix time in seconds.
        """
        building = path.with_name(path.name + ".new")
        with database.named(path):
            database.remove(building)
            database.remove(path)
            os.close(os.open(building, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, files.PRIVATE_MODE))
            with contextlib.closing(database.connect(building)) as connection:
                schema.create(connection)
                with database.transaction(connection):
                    rows.insert_mesh(connection, inventory)
                    _record(connection, now, "init", "mesh-made", inventory.control, inventory.revision)
                # Lasts in the file. Set when it is opened, it would fail where another process writes.
                connection.execute("PRAGMA journal_mode = WAL")
            building.replace(path)
            files.sync_directory(path.parent)

    def _refuse_foreign(self) -> None:
        with database.named(self._path):
            (application,) = self._connection.execute("PRAGMA application_id").fetchone()
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if application != schema.APPLICATION:
            raise StateUnreadable(f"{self._path} is not a qmesh registry", hint="restore it from a backup")
        if version > schema.VERSION:
            raise StateUnreadable(
                f"{self._path} was written by a newer qmesh", hint="install that version, or a newer one"
            )
        if version < schema.VERSION:
            with self._change() as connection:
                schema.migrate(connection)

    @contextlib.contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        with database.named(self._path), database.transaction(self._connection):
            yield self._connection

    def inventory(self) -> Inventory:
        """The whole mesh, invited machines included. Looks for damage of the file as well."""
        with self._change() as connection:
            # Of a truncated file SQLite reads rows still; the check costs less than reading them does.
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)
            return rows.inventory(connection)

    def revision(self) -> int:
        """The revision of the membership."""
        with self._change() as connection:
            return rows.revision(connection)

    def preshared_keys(self) -> dict[str, Secret]:
        """The preshared key of each machine, throwaway ones included, by public key."""
        with self._change() as connection:
            found = connection.execute(
                "SELECT public_key, preshared_key FROM machines WHERE preshared_key IS NOT NULL"
                " UNION ALL SELECT public_key, preshared_key FROM stand_ins WHERE preshared_key IS NOT NULL"
            )
            return {public_key: Secret(text) for public_key, text in found}

    def last_event(self) -> int:
        """The number of the last event."""
        with self._change() as connection:
            (number,) = connection.execute("SELECT max(number) FROM events").fetchone()
            return int(number)

    def news(self, *, since: int) -> News | None:
        """What became of machines after the event of this number.

        None when more has changed than who is a peer, or when this registry has no such event.
        """
        with self._change() as connection:
            found = connection.execute(
                "SELECT number, what, machine FROM events WHERE number >= ? ORDER BY number", (since,)
            ).fetchall()
            if (
                not found
                or found[0][0] != since
                or not _OF_PEERS.issuperset(what for _, what, _ in found[1:])
            ):
                return None
            names = {name for _, _, name in found[1:]}
            return News(found[-1][0], {name: _known(connection, name) for name in names})

    def events(self) -> tuple[Event, ...]:
        """All that changed the mesh, oldest first."""
        with self._change() as connection:
            found = connection.execute(
                "SELECT at, command, what, machine, revision FROM events ORDER BY number"
            )
            return tuple(Event(*row) for row in found)

    def invite(
        self,
        name: str,
        *,
        workers: int | None,
        endpoint: Endpoint | None,
        expires_at: int,
        now: int,
        replace: bool = False,
    ) -> Issued:
        """Make an invitation, and the invited machine with its future address.

        replace: it is for the place of the member of that name, which stays until the invitation is used.
        An invitation that is still open for the name is withdrawn. Raises BadInput when the name is a
        member's and none is to be replaced, or the machine does not fit in.
        """
        with self._change() as connection:
            _expire(connection, now)
            end_open(connection, name, now, command="invite")
            inventory = rows.inventory(connection)
            secret = secrets.token_bytes(32)
            derived = derive(secret)
            address = rows.free(connection, inventory)
            if replace:
                refuse_to_replace(inventory, name)
                connection.execute("DELETE FROM stand_ins WHERE machine = ?", (name,))
                member = inventory.machine(name)
                machine = msgspec.structs.replace(member, public_key=derived.public_key)
            else:
                machine = Machine(
                    name=name,
                    public_key=derived.public_key,
                    address=address,
                    workers=workers,
                    state="invited",
                    endpoints=() if endpoint is None else (endpoint,),
                )
                add(inventory, machine)
                rows.insert_machine(connection, machine, None, derived.preshared_key)
            connection.execute(
                "INSERT INTO invitations (identifier, machine, secret, expires_at, outcome)"
                " VALUES (?, ?, ?, ?, 'open')",
                (derived.identifier, name, secret, expires_at),
            )
            if replace:
                connection.execute(
                    "INSERT INTO stand_ins (public_key, machine, address, preshared_key, invitation)"
                    " VALUES (?, ?, ?, ?, ?)",
                    (derived.public_key, name, address, derived.preshared_key.reveal(), derived.identifier),
                )
            what: EventKind = "replacement-invited" if replace else "invited"
            _record(connection, now, "invite", what, name, inventory.revision)
        return Issued(secret, machine, address if replace else None, expires_at)

    def withdraw(self, name: str, *, now: int) -> bool:
        """End the invitation that is open for that name; whether there was one."""
        with self._change() as connection:
            _expire(connection, now)
            return end_open(connection, name, now, command="invite")

    def invitations(self, *, now: int) -> tuple[Open, ...]:
        """Those that can still be used, by name."""
        with self._change() as connection:
            _expire(connection, now)
            found = connection.execute(
                "SELECT i.machine, m.address, m.workers, i.expires_at, s.address IS NOT NULL"
                " FROM invitations i JOIN machines m ON m.name = i.machine"
                " LEFT JOIN stand_ins s ON s.invitation = i.identifier"
                " WHERE i.outcome = 'open' ORDER BY i.machine"
            )
            return tuple(
                Open(name, address, workers, expires_at, bool(replaces))
                for name, address, workers, expires_at, replaces in found
            )

    def acknowledge(self, revisions: Mapping[str, int]) -> None:
        """Remember which revision members have, by tunnel address; it only grows."""
        with self._change() as connection:
            connection.executemany(
                "UPDATE machines SET acknowledged = ? WHERE address = ? AND acknowledged < ?",
                [(revision, address, revision) for address, revision in revisions.items()],
            )

    def redeem(self, message: Redemption, *, sender: str | None, now: int) -> Inventory:
        """Make the sender a member, or find that it already is: the same message twice is once (E4).

        sender: the tunnel address that WireGuard vouches for; None for a message that came as a file, which
            its proof alone vouches for.
        Raises EnrolmentRefused for an unknown, used, withdrawn, expired or unproven invitation.
        """
        try:
            with self._change() as connection:
                _expire(connection, now)
                happened = self._redeem(connection, message, sender)
                inventory = rows.inventory(connection)
                if happened is not None:
                    name, what = happened
                    command = "admit" if sender is None else "join"
                    _record(connection, now, command, what, name, inventory.revision)
        except (sqlite3.IntegrityError, BadInput) as error:
            raise EnrolmentRefused(
                f"the control node refused: {error}", hint="look at `qmesh status` on the control node"
            ) from None
        return inventory

    def _redeem(
        self, connection: sqlite3.Connection, message: Redemption, sender: str | None
    ) -> tuple[str, EventKind] | None:
        """Admit the sender; what happened to which machine, if that was just now."""
        row = connection.execute(
            "SELECT machine, secret, outcome, redeemed_by FROM invitations WHERE identifier = ?",
            (message.identifier,),
        ).fetchone()
        name, secret, outcome, redeemed_by = row or ("", b"", "unknown", None)
        if outcome == "redeemed" and redeemed_by == message.public_key:
            if _is_key(connection, redeemed_by):
                return None
            raise EnrolmentRefused(
                "this invitation is used already, and its machine is no member any more",
                hint="ask for a new one",
            )
        if outcome != "open":
            raise EnrolmentRefused(f"this invitation is {_SPENT[outcome]}", hint="ask for a new one")
        refuse_unproven(message, secret)
        before = rows.inventory(connection)
        invited = before.machine(name)
        stand_in = next((s for s in before.stand_ins if s.public_key == derive(secret).public_key), None)
        if sender not in {invited.address if stand_in is None else stand_in.address, None}:
            raise EnrolmentRefused(
                "the redemption did not come from the invitation's tunnel address",
                hint="run `qmesh join` again",
            )
        shared = permanent_preshared_key(secret, before.control_node.public_key, message.public_key)
        if stand_in is None:
            workers = invited.workers or message.workers
            after = admit(before, name, public_key=message.public_key, workers=workers)
            _update_admitted(connection, after, name, shared, message)
        else:
            rows.change_key(connection, with_key(before, name, message.public_key), name, shared)
        connection.execute(
            "UPDATE invitations SET outcome = 'redeemed', redeemed_by = ?, secret = NULL"
            " WHERE identifier = ?",
            (message.public_key, message.identifier),
        )
        return name, "joined" if stand_in is None else "replaced"

    def offer_key(self, public_key: str, *, sender: str, now: int) -> None:
        """Know the key that the member at that tunnel address is about to change to; twice is once.

        Raises EnrolmentRefused where the sender is no member, the key is another's, or another machine is
        invited to take the sender's place: whoever has its key then is not to keep it.
        """
        try:
            with self._change() as connection:
                row = connection.execute(
                    "SELECT name, public_key, preshared_key FROM machines WHERE address = ?"
                    " AND state <> 'invited'",
                    (sender,),
                ).fetchone()
                if row is None:
                    raise EnrolmentRefused(
                        "this machine is no member of the mesh", hint="ask for an invitation"
                    )
                name, known, shared = row
                if public_key == known or _is_offered(connection, public_key, name):
                    return
                _refuse_replaced(connection, name)
                connection.execute("DELETE FROM stand_ins WHERE machine = ?", (name,))
                connection.execute(
                    "INSERT INTO stand_ins (public_key, machine, preshared_key) VALUES (?, ?, ?)",
                    (public_key, name, shared),
                )
                _record(connection, now, "rotate-key", "key-offered", name, rows.revision(connection))
        except sqlite3.IntegrityError:
            raise EnrolmentRefused(
                "that key is in use", hint="remove next.key from the state directory, and try again"
            ) from None

    def take_up_key(self, public_key: str, *, now: int) -> None:
        """Make the key that a machine offered its only one; nothing, where it is not offered any more."""
        with self._change() as connection:
            before = rows.inventory(connection)
            for each in before.stand_ins:
                if each.public_key == public_key and each.address is None:
                    rows.change_key(
                        connection, with_key(before, each.machine, public_key), each.machine, None
                    )
                    revision = before.revision + 1
                    _record(connection, now, "rotate-key", "key-rotated", each.machine, revision)

    def change(
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
        with self._change() as connection:
            old = rows.inventory(connection)
            new = after(old)
            if new != old:
                kept = {each.name for each in new.machines}
                for name in (each.name for each in old.machines if each.name not in kept):
                    end_open(connection, name, now, command=command)
                rows.update(connection, old, new)
                _record(connection, now, command, what, machine, new.revision)
        return old, new

    def copied(self) -> bytes:
        """The database's octets as of one moment, whatever others write meanwhile."""
        with database.named(self._path), contextlib.closing(sqlite3.connect(":memory:")) as copy:
            self._connection.backup(copy)  # all pages in one step, which is one transaction
            return copy.serialize()

    def expire(self, *, now: int) -> bool:
        """End the invitations whose time is over; whether there were any."""
        with self._change() as connection:
            return _expire(connection, now)


_SPENT: Final = {
    "redeemed": "used already, by another machine",
    "withdrawn": "withdrawn",
    "expired": "expired",
    "unknown": "not known to this control node",
}


def _update_admitted(
    connection: sqlite3.Connection, after: Inventory, name: str, shared: Secret, message: Redemption
) -> None:
    member = after.machine(name)
    endpoints = (
        (Endpoint.parse(message.endpoint, default_port=None),) if message.endpoint else member.endpoints
    )
    # Built anew so that an endpoint inside the tunnel network is refused here too.
    machine = msgspec.structs.replace(member, endpoints=endpoints)
    msgspec.structs.replace(after, machines=(*after.machines[:-1], machine))
    connection.execute(
        "UPDATE machines SET public_key = ?, workers = ?, state = 'active', endpoints = ?, preshared_key = ?,"
        " acknowledged = ?, place = (SELECT coalesce(max(place), 0) + 1 FROM machines) WHERE name = ?",
        (
            *(machine.public_key, machine.workers, rows.endpoints(machine), shared.reveal()),
            *(after.revision, name),
        ),
    )
    connection.execute("UPDATE mesh SET revision = ?", (after.revision,))


def _is_key(connection: sqlite3.Connection, public_key: str) -> bool:
    """Whether a machine of the mesh has that key."""
    query = "SELECT 1 FROM machines WHERE public_key = ?"
    return connection.execute(query, (public_key,)).fetchone() is not None


def _refuse_replaced(connection: sqlite3.Connection, name: str) -> None:
    query = "SELECT 1 FROM stand_ins WHERE machine = ? AND invitation IS NOT NULL"
    if connection.execute(query, (name,)).fetchone() is not None:
        raise EnrolmentRefused(
            f"another machine is invited to take the place of {name}",
            hint=f"`qmesh invite --withdraw {name}` on the control node, if none is to",
        )


def _is_offered(connection: sqlite3.Connection, public_key: str, name: str) -> bool:
    query = "SELECT 1 FROM stand_ins WHERE public_key = ? AND machine = ? AND invitation IS NULL"
    return connection.execute(query, (public_key, name)).fetchone() is not None


def _expire(connection: sqlite3.Connection, now: int) -> bool:
    ended = connection.execute(
        "UPDATE invitations SET outcome = 'expired', secret = NULL WHERE outcome = 'open' AND expires_at <= ?"
        " RETURNING machine, identifier",
        (now,),
    ).fetchall()
    for name, identifier in ended:
        _end(connection, name, identifier, now, command="agent", what="invitation-expired")
    return bool(ended)


def end_open(connection: sqlite3.Connection, name: str, now: int, *, command: str) -> bool:
    """Withdraw the invitation that is open for that name; whether there was one."""
    ended = connection.execute(
        "UPDATE invitations SET outcome = 'withdrawn', secret = NULL"
        " WHERE machine = ? AND outcome = 'open' RETURNING identifier",
        (name,),
    ).fetchall()
    for (identifier,) in ended:
        _end(connection, name, identifier, now, command=command, what="invitation-withdrawn")
    return bool(ended)


def _end(
    connection: sqlite3.Connection, name: str, identifier: str, now: int, *, command: str, what: EventKind
) -> None:
    """Take away what an invitation that ended had let in."""
    if connection.execute("DELETE FROM stand_ins WHERE invitation = ?", (identifier,)).rowcount:
        what = "replacement-ended"
    connection.execute("DELETE FROM machines WHERE name = ? AND state = 'invited'", (name,))
    _record(connection, now, command, what, name, rows.revision(connection))


def _known(connection: sqlite3.Connection, name: str) -> Known | None:
    row = connection.execute(
        "SELECT name, public_key, address, workers, state, endpoints, preshared_key FROM machines"
        " WHERE name = ?",
        (name,),
    ).fetchone()
    if row is None:
        return None
    *machine, preshared_key = row
    return Known(rows.machine(*machine), None if preshared_key is None else Secret(preshared_key))


def _record(
    connection: sqlite3.Connection, now: int, command: str, what: EventKind, machine: str, revision: int
) -> None:
    connection.execute(
        "INSERT INTO events (at, command, what, machine, revision) VALUES (?, ?, ?, ?, ?)",
        (now, command, what, machine, revision),
    )
