"""Invitations in the registry: made, used, and ended. Each function is part of a transaction."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from qmesh.errors import BadInput, EnrolmentRefused
from qmesh.host.registry import rows
from qmesh.host.registry.events import (
    Event,
    append_event,
    find_last_invitation_event,
    find_last_join_event,
    record_event,
)
from qmesh.host.registry.sqlite import savepoint, select, select_one
from qmesh.mesh.changes import refuse_control_replacement, set_announced_host
from qmesh.mesh.events.mesh_events import EventKind
from qmesh.mesh.inventory import Inventory, add_machine
from qmesh.mesh.machine import Machine
from qmesh.mesh.protocol.admission import (
    Admission,
    InvitationRecord,
    Outcome,
    admit_redeemer,
    is_answered_again,
)
from qmesh.mesh.protocol.enrolment import Redemption, derive_invitation_keys, verify_redemption_proof
from qmesh.mesh.values import Endpoint, SecretStruct, UnixTime


class IssuedInvitation(SecretStruct, frozen=True):
    """An invitation as the registry keeps it.

    machine: as it will be, with the throwaway key.
    from_address: where it comes from until then, if the machine it is to replace is there still.
    expires_at: Unix time in seconds.
    """

    secret: bytes
    machine: Machine
    from_address: str | None
    expires_at: int


class OpenInvitation(msgspec.Struct, frozen=True):
    """An invitation that is not used yet. expires_at: Unix time in seconds."""

    name: str
    address: str
    workers: int | None
    expires_at: int
    replaces: bool


def create_invitation(
    connection: sqlite3.Connection,
    name: str,
    *,
    workers: int | None,
    endpoint: Endpoint | None,
    expires_at: int,
    now: int,
    replace: bool = False,
    options: rows.MachineOptions = rows.MachineOptions(),  # noqa: B008 - frozen
) -> IssuedInvitation:
    """Make an invitation, and the invited machine with its future address.

    replace: it is for the place of the member of that name, which stays until the invitation is used.
    options: of the new machine; one that replaces another has those of that one.
    An invitation that is still open for the name is withdrawn. Raises BadInput when the name is a member's
    and `replace` is False, or when the machine does not fit in.
    """
    rows.refuse_during_handover(connection)
    expire_invitations(connection, now)
    withdraw_invitation(connection, name, now, command="invite")
    inventory = rows.read_inventory(connection)
    secret = secrets.token_bytes(32)
    derived = derive_invitation_keys(secret)
    address = rows.choose_free_address(connection, inventory)
    if replace:
        refuse_control_replacement(inventory, name)
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
            **msgspec.structs.asdict(options),
        )
        set_announced_host(add_machine(inventory, machine), name, options.announce)  # or it is refused
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
    record_event(connection, now, "invite", what, name, inventory.revision)
    return IssuedInvitation(secret, machine, address if replace else None, expires_at)


def list_open_invitations(connection: sqlite3.Connection) -> tuple[OpenInvitation, ...]:
    """Those that can still be used, by name."""
    found = select(
        connection,
        tuple[str, str, int | None, UnixTime, int],
        "SELECT i.machine, m.address, m.workers, i.expires_at, s.address IS NOT NULL"
        " FROM invitations i JOIN machines m ON m.name = i.machine"
        " LEFT JOIN stand_ins s ON s.invitation = i.identifier"
        " WHERE i.outcome = 'open' ORDER BY i.machine",
    )
    return tuple(
        OpenInvitation(name, address, workers, expires_at, bool(replaces))
        for name, address, workers, expires_at, replaces in found
    )


def find_redeemed_revision(connection: sqlite3.Connection, message: Redemption) -> int | None:
    """As `Registry.find_redeemed_revision`."""
    found = select(
        connection,
        tuple[str, Outcome, str | None, int, int],
        "SELECT machine, outcome, redeemed_by,"
        " EXISTS (SELECT 1 FROM machines WHERE public_key = redeemed_by), (SELECT revision FROM mesh)"
        " FROM invitations WHERE identifier = ?",
        (message.identifier,),
    )
    name, outcome, redeemed_by, is_member, revision = found[0] if found else ("", "unknown", None, 0, 0)
    known = InvitationRecord(name, outcome, redeemed_by, bool(is_member))
    return revision if is_answered_again(known, message.public_key) else None


class RedemptionRequest(NamedTuple):
    """A redemption that has come.

    sender: the tunnel address that WireGuard vouches for; None for a message that came as a file, which its
        proof alone vouches for.
    """

    message: Redemption
    sender: str | None


class Admitting(NamedTuple):
    """What is noted of machines that are admitted.

    now: Unix time in seconds. user: who did it, None where that is the user who made the invitation.
    find_endpoint: where packets from a tunnel address come from; asked only of who becomes a member now.
    """

    now: int
    user: str | None
    find_endpoint: Callable[[str], str | None]


def redeem_all(
    connection: sqlite3.Connection, requests: Sequence[RedemptionRequest], noted: Admitting
) -> tuple[Inventory, list[EnrolmentRefused | None]]:
    """As `Registry.redeem_all`. Who is refused changes nothing, also not for the others."""
    inventory = rows.read_inventory(connection)
    refusals: list[EnrolmentRefused | None] = []
    for request in requests:
        refusal = None
        try:
            with savepoint(connection):
                inventory = _redeem(connection, inventory, request, noted)
        except EnrolmentRefused as error:
            refusal = error
        except (BadInput, sqlite3.IntegrityError) as error:
            reason = error.message if isinstance(error, BadInput) else str(error)
            refusal = EnrolmentRefused(
                f"the control node refused: {reason}", hint="run `qmesh status` on the control node"
            )
        refusals.append(refusal)
    return rows.read_inventory(connection), refusals


def _redeem(
    connection: sqlite3.Connection, inventory: Inventory, request: RedemptionRequest, noted: Admitting
) -> Inventory:
    """Admit one who asks; the mesh after that. inventory: the mesh as it is."""
    message, sender = request
    if expire_invitations(connection, noted.now):
        inventory = rows.read_inventory(connection)
    if find_redeemed_revision(connection, message) is not None:
        return inventory
    name, secret = select_one(
        connection,
        tuple[str, bytes],
        "SELECT machine, secret FROM invitations WHERE identifier = ?",
        (message.identifier,),
    )
    verify_redemption_proof(message, secret)  # before anything is done that grows with the mesh
    made = find_last_invitation_event(connection, name)
    admission = admit_redeemer(
        inventory,
        name,
        secret,
        message,
        sender=sender,
        made_at=None if made is None else made.at,
        now=noted.now,
    )
    if admission.replaces:
        rows.change_key(connection, admission.inventory, name, admission.preshared_key, now=noted.now)
    else:
        _update_admitted(connection, admission)
    connection.execute(
        "UPDATE invitations SET outcome = 'redeemed', redeemed_by = ?, secret = NULL WHERE identifier = ?",
        (message.public_key, message.identifier),
    )
    joined = Event(
        at=noted.now,
        command="admit" if sender is None else "join",
        what="replaced" if admission.replaces else "joined",
        machine=name,
        revision=admission.inventory.revision,
        user=noted.user or (None if made is None else made.user),
        address=admission.machine.address,
        endpoint=None if sender is None else noted.find_endpoint(sender),
        public_key=message.public_key,
    )
    append_event(connection, joined)
    return admission.inventory


def _update_admitted(connection: sqlite3.Connection, admission: Admission) -> None:
    machine, revision = admission.machine, admission.inventory.revision
    connection.execute(
        "UPDATE machines SET public_key = ?, workers = ?, state = 'active', endpoints = ?, options = ?,"
        " preshared_key = ?, acknowledged = ?, place = (SELECT coalesce(max(place), 0) + 1 FROM machines)"
        " WHERE name = ?",
        (
            *(machine.public_key, machine.workers),
            *(rows.encode_endpoints(machine), rows.encode_options(machine)),
            *(admission.preshared_key.reveal(), revision, machine.name),
        ),
    )
    connection.execute("UPDATE mesh SET revision = ?", (revision,))


def has_expired_invitations(connection: sqlite3.Connection, now: int) -> bool:
    """Whether `expire_invitations` had something to do."""
    query = "SELECT 1 FROM invitations WHERE outcome = 'open' AND expires_at <= ? LIMIT 1"
    return bool(select(connection, tuple[int], query, (now,)))


def expire_invitations(connection: sqlite3.Connection, now: int) -> bool:
    """End those whose time is over; whether there were any."""
    ended = select(
        connection,
        tuple[str, str],
        "UPDATE invitations SET outcome = 'expired', secret = NULL WHERE outcome = 'open' AND expires_at <= ?"
        " RETURNING machine, identifier",
        (now,),
    )
    for name, identifier in ended:
        _clean_up_invitation(connection, name, identifier, now, command="agent", what="invitation-expired")
    return bool(ended)


class SpentInvitation(msgspec.Struct, frozen=True):
    """The last invitation of a name, where none is open.

    outcome: `redeemed`, `withdrawn` or `expired`. public_key: whose it was redeemed with.
    joined: the event of that, where it is known. is_member: whether that key is a member's still.
    """

    outcome: str
    public_key: str | None
    joined: Event | None
    is_member: bool


def find_spent_invitation(connection: sqlite3.Connection, name: str) -> SpentInvitation | None:
    """What became of the last invitation of that name; None where none is known."""
    found = select(
        connection,
        tuple[Outcome, str | None],
        "SELECT outcome, redeemed_by FROM invitations WHERE machine = ? ORDER BY rowid DESC LIMIT 1",
        (name,),
    )
    if not found:
        return None
    outcome, public_key = found[0]
    joined = find_last_join_event(connection, name) if outcome == "redeemed" else None
    # Its key may be another since, which it changed itself.
    member = "SELECT 1 FROM machines WHERE name = ? AND state <> 'invited'"
    return SpentInvitation(outcome, public_key, joined, bool(select(connection, tuple[int], member, (name,))))


def withdraw_invitation(connection: sqlite3.Connection, name: str, now: int, *, command: str) -> bool:
    """Withdraw the invitation that is open for that name; whether there was one."""
    ended = select(
        connection,
        tuple[str],
        "UPDATE invitations SET outcome = 'withdrawn', secret = NULL"
        " WHERE machine = ? AND outcome = 'open' RETURNING identifier",
        (name,),
    )
    for (identifier,) in ended:
        _clean_up_invitation(connection, name, identifier, now, command=command, what="invitation-withdrawn")
    return bool(ended)


def withdraw_all_invitations(connection: sqlite3.Connection, *, now: int, command: str) -> tuple[str, ...]:
    """Withdraw every invitation that is open; the machines that they were for, by name."""
    found = select(
        connection, tuple[str], "SELECT machine FROM invitations WHERE outcome = 'open' ORDER BY machine"
    )
    names = tuple(name for (name,) in found)
    for name in names:
        withdraw_invitation(connection, name, now, command=command)
    return names


def _clean_up_invitation(
    connection: sqlite3.Connection, name: str, identifier: str, now: int, *, command: str, what: EventKind
) -> None:
    """Remove the key or the invited machine of an invitation that has ended."""
    if connection.execute("DELETE FROM stand_ins WHERE invitation = ?", (identifier,)).rowcount:
        what = "replacement-ended"
    connection.execute("DELETE FROM machines WHERE name = ? AND state = 'invited'", (name,))
    record_event(connection, now, command, what, name, rows.read_revision(connection))
