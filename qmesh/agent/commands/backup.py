"""`backup`: the control node as one file."""

from __future__ import annotations

import secrets
import time

import msgspec

from qmesh import __version__
from qmesh.agent.local import load, require_control, require_root
from qmesh.errors import BadInput, QmeshError, StateUnreadable
from qmesh.host import files
from qmesh.host.registry import RegistryImage, image_of
from qmesh.host.state.directory import State
from qmesh.host.state.documents import BackedUp, Settings
from qmesh.mesh.decode import Malformed, from_json
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.model import Secret
from qmesh.mesh.protocol import backup_file as format_
from qmesh.mesh.protocol.backup_file import NONCE_OCTETS, SALT_OCTETS, Backup, Seal, odd_key, unpack


class Taken(msgspec.Struct, frozen=True):
    """What a backup holds. taken_at: Unix time in seconds.

    withdrawn: the machines whose invitations are open, but not in the backup.
    """

    mesh: str
    revision: int
    taken_at: int
    machines: int
    encrypted: bool
    withdrawn: tuple[str, ...]


class Contents(msgspec.Struct, frozen=True):
    """A backup that was looked into, and is whole."""

    backup: Backup
    settings: Settings
    inventory: Inventory


def take(state: State, passphrase: bytes | None) -> tuple[bytes, Taken]:
    """The backup's octets, as of one moment; the agent may go on.

    passphrase: None leaves it plain.
    Raises StateUnreadable for damaged state, and wherever `restore` would not read what was made.
    """
    require_root("qmesh backup")
    now = int(time.time())
    with state.lock():
        here = load(state)
        require_control(here, "qmesh backup")
        if here.is_succeeded:
            raise BadInput(f"{here.inventory.successor} is the control node now", hint="run it there")
        key = state.private_key()
        if key is None:
            raise StateUnreadable(f"{state.private_key_file} is missing", hint="see `qmesh check`")
        with image_of(state.registry_file) as image:
            withdrawn = image.withdraw_open(command="backup", now=now)
            image.without_handover()
            registry = image.octets()
        backup = Backup(
            taken_at=now,
            written_by=__version__,
            settings=msgspec.json.encode(here.settings),
            private_key=key.reveal(),
            signing_key=state.signing_key().private_bytes_raw(),
            registry=registry,
            withdrawn=withdrawn,
        )
    seal = None if passphrase is None else _seal(passphrase)
    octets = format_.pack(backup, seal)
    try:
        mesh = opened(octets, passphrase).inventory
    except BadInput as error:
        raise StateUnreadable(
            f"this machine's state is no good for a backup: {error.message}", hint="see `qmesh check`"
        ) from None
    taken = Taken(mesh.mesh, mesh.revision, now, len(mesh.machines), seal is not None, withdrawn)
    return octets, taken


def remember(state: State, taken: Taken) -> None:
    """Remember that this backup was written, for who is about to give the state up."""
    with state.lock():
        state.save_backed_up(BackedUp(at=taken.taken_at, revision=taken.revision))


def opened(octets: bytes, passphrase: bytes | None) -> Contents:
    """Read a backup, and look at all that is in it. Raises BadInput.

    passphrase: None for a plain one, and only for that.
    """
    if len(octets) > files.MAX_OCTETS:
        raise BadInput(
            f"a backup has at most {files.MAX_OCTETS} octets, and this one has more",
            hint="name the file that `qmesh backup` wrote",
        )
    return contents(unpack(octets, passphrase))


def _seal(passphrase: bytes) -> Seal:
    return Seal(
        passphrase=passphrase,
        salt=secrets.token_bytes(SALT_OCTETS),
        nonce=secrets.token_bytes(NONCE_OCTETS),
    )


def contents(backup: Backup) -> Contents:
    """Look at all that is in a backup. Raises BadInput where something does not belong to the rest."""
    try:
        settings = from_json(backup.settings, Settings)
        with RegistryImage(backup.registry) as image:
            mesh = image.inventory()
            image.events()
    except Malformed:
        raise BadInput(
            "the backup's settings cannot be read",
            hint="was it written by a newer qmesh? else take an older backup",
        ) from None
    except QmeshError as error:
        raise BadInput(error.message, hint=error.hint) from None
    odd = odd_key(
        mesh,
        private_key=Secret(backup.private_key),
        signing_key=backup.signing_key,
        verification_key=settings.verification_key,
    )
    if odd is None and (not settings.control or (settings.mesh, settings.name) != (mesh.mesh, mesh.control)):
        odd = "settings"
    if odd is not None:
        raise BadInput(f"the {odd} is not that of its mesh", hint="take an older backup; nothing was changed")
    return Contents(backup, settings, mesh)
