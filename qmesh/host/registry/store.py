"""The control node's registry: SQLite, every change one durable transaction with its event.

The rules are the inventory's (`qmesh.mesh.inventory`); the database refuses besides, by `UNIQUE`
and `CHECK`, what must never be: two machines with one name, address, key or place (E5).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal, Self, TypeAlias

import msgspec

from qmesh.errors import BadInput, EnrolmentRefused, NeedsRoot, QmeshError, StateUnreadable
from qmesh.host import database, files
from qmesh.host.registry import rows, schema
from qmesh.mesh.enrolment import Redemption, derive, permanent_preshared_key, refuse_unproven
from qmesh.mesh.inventory import Inventory, add, admit
from qmesh.mesh.model import Endpoint, Machine, Secret, Unshown
from qmesh.mesh.networks import free_address

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
    """An invitation as the registry keeps it. expires_at: Unix time in seconds."""

    secret: bytes
    machine: Machine
    expires_at: int


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
        self, name: str, *, workers: int | None, endpoint: Endpoint | None, expires_at: int, now: int
    ) -> Issued:
        """Make an invitation, and the invited machine with its future address.

        An invitation that is still open for the name is withdrawn. Raises BadInput when the name
        is a member's, or the machine does not fit in.
        """
        with self._change() as connection:
            _expire(connection, now)
            self._withdraw(connection, name, now)
            inventory = rows.inventory(connection)
            secret = secrets.token_bytes(32)
            derived = derive(secret)
            machine = Machine(
                name=name,
                public_key=derived.public_key,
                address=free_address(inventory.network, {other.address for other in inventory.machines}),
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
            _record(connection, now, "invite", "invited", name, inventory.revision)
        return Issued(secret, machine, expires_at)

    @staticmethod
    def _withdraw(connection: sqlite3.Connection, name: str, now: int) -> None:
        ended = connection.execute(
            "UPDATE invitations SET outcome = 'withdrawn', secret = NULL"
            " WHERE machine = ? AND outcome = 'open'",
            (name,),
        )
        if ended.rowcount:
            connection.execute("DELETE FROM machines WHERE name = ? AND state = 'invited'", (name,))
            _record(connection, now, "invite", "invitation-withdrawn", name, rows.revision(connection))

    def redeem(self, message: Redemption, *, sender: str, now: int) -> Inventory:
        """Make the sender a member, or find that it already is: the same message twice is once (E4).

        sender: the tunnel address that WireGuard vouches for.
        Raises EnrolmentRefused for an unknown, used, withdrawn, expired or unproven invitation.
        """
        try:
            with self._change() as connection:
                _expire(connection, now)
                name = self._redeem(connection, message, sender)
                inventory = rows.inventory(connection)
                if name is not None:
                    _record(connection, now, "join", "joined", name, inventory.revision)
        except (sqlite3.IntegrityError, BadInput) as error:
            raise EnrolmentRefused(
                f"the control node refused: {error}", hint="look at `qmesh status` on the control node"
            ) from None
        return inventory

    def _redeem(self, connection: sqlite3.Connection, message: Redemption, sender: str) -> str | None:
        """Admit the sender; the name of a machine that became a member just now."""
        row = connection.execute(
            "SELECT machine, secret, outcome, redeemed_by FROM invitations WHERE identifier = ?",
            (message.identifier,),
        ).fetchone()
        name, secret, outcome, redeemed_by = row or ("", b"", "unknown", None)
        if outcome == "redeemed" and redeemed_by == message.public_key:
            known = _known(connection, name)
            if known is None or known.machine.public_key != redeemed_by:
                raise EnrolmentRefused(
                    "this invitation is used already, and its machine is no member any more",
                    hint="ask for a new one",
                )
            return None
        if outcome != "open":
            raise EnrolmentRefused(f"this invitation is {_SPENT[outcome]}", hint="ask for a new one")
        refuse_unproven(message, secret)
        before = rows.inventory(connection)
        invited = before.machine(name)
        if sender != invited.address:
            raise EnrolmentRefused(
                "the redemption did not come from the invitation's tunnel address",
                hint="run `qmesh join` again",
            )
        after = admit(before, name, public_key=message.public_key, workers=invited.workers or message.workers)
        shared = permanent_preshared_key(secret, before.control_node.public_key, message.public_key)
        _update_admitted(connection, after, name, shared, message)
        return name

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
                rows.update(connection, old, new)
                _record(connection, now, command, what, machine, new.revision)
        return old, new

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
        " place = (SELECT coalesce(max(place), 0) + 1 FROM machines) WHERE name = ?",
        (machine.public_key, machine.workers, rows.endpoints(machine), shared.reveal(), name),
    )
    connection.execute(
        "UPDATE invitations SET outcome = 'redeemed', redeemed_by = ?, secret = NULL WHERE identifier = ?",
        (message.public_key, message.identifier),
    )
    connection.execute("UPDATE mesh SET revision = ?", (after.revision,))


def _expire(connection: sqlite3.Connection, now: int) -> bool:
    ended = connection.execute(
        "UPDATE invitations SET outcome = 'expired', secret = NULL WHERE outcome = 'open' AND expires_at <= ?"
        " RETURNING machine",
        (now,),
    ).fetchall()
    for (name,) in ended:
        connection.execute("DELETE FROM machines WHERE name = ? AND state = 'invited'", (name,))
        _record(connection, now, "agent", "invitation-expired", name, rows.revision(connection))
    return bool(ended)


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
