"""The members that may fetch the node's files, and when they did. Each function is part of a transaction."""

from __future__ import annotations

import sqlite3

from qmesh.errors import BadInput, EnrolmentRefused
from qmesh.host.registry import rows
from qmesh.host.registry.events import Event, append_event
from qmesh.host.registry.key_rotation import find_preshared_key
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.machine import Machine
from qmesh.mesh.values import Secret, SecretStruct


class FileRequester(SecretStruct, frozen=True, kw_only=True):
    """A member that may fetch the node's files, as of one moment."""

    inventory: Inventory
    machine: Machine
    preshared_key: Secret


def find_file_requester(connection: sqlite3.Connection, sender: str) -> FileRequester:
    """The member at that tunnel address. Raises EnrolmentRefused where it may not have the node's files."""
    shared = find_preshared_key(connection, sender)
    try:
        rows.refuse_during_handover(connection)
    except BadInput as error:
        raise EnrolmentRefused(
            error.message, hint="wait until that is done, then run the same command again"
        ) from None
    inventory = rows.read_inventory(connection)
    machine = next(each for each in inventory.machines if each.address == sender)
    if not machine.node_files:
        raise EnrolmentRefused(
            f"{machine.name} may not fetch the node's files",
            hint=f"permit it on the control node: `qmesh set {machine.name} --node-files on`",
        )
    return FileRequester(inventory=inventory, machine=machine, preshared_key=shared)


def record_files_fetched(
    connection: sqlite3.Connection, machine: Machine, *, now: int, endpoint: str | None
) -> None:
    """Note that a member is about to get the node's files, while it may. Raises EnrolmentRefused.

    endpoint: where its packets come from.
    """
    requester = find_file_requester(connection, machine.address)
    if requester.machine.public_key != machine.public_key:
        raise EnrolmentRefused(
            f"{machine.name} has changed its key meanwhile",
            hint="wait a minute, then run the same command again",
        )
    event = Event(
        at=now,
        command="node-files",
        what="node-files-fetched",
        machine=machine.name,
        revision=requester.inventory.revision,
        address=machine.address,
        endpoint=endpoint,
        public_key=machine.public_key,
    )
    append_event(connection, event)
