"""`backup`: the control node as one file."""

from __future__ import annotations

import secrets
import time

import msgspec

from qmesh import __version__
from qmesh.agent.backup_contents import open_backup
from qmesh.agent.preconditions import check_user, lock_member
from qmesh.errors import BadInput, StateUnreadable
from qmesh.host.registry import load_image
from qmesh.host.state.directory import State
from qmesh.host.state.documents import LastBackup, encode_document
from qmesh.mesh.links.retirement import RetiredKeys
from qmesh.mesh.protocol import backup_file as format_
from qmesh.mesh.protocol.aead import NONCE_OCTETS
from qmesh.mesh.protocol.backup_file import SALT_OCTETS, Backup, BackupEncryption


class BackupResult(msgspec.Struct, frozen=True):
    """What a backup holds. taken_at: Unix time in seconds.

    withdrawn: the machines whose invitations are open, but not in the backup.
    """

    mesh: str
    revision: int
    taken_at: int
    machines: int
    encrypted: bool
    withdrawn: tuple[str, ...]


def make_backup(state: State, passphrase: bytes | None) -> tuple[bytes, BackupResult]:
    """The backup's octets, as of one moment; the agent may go on.

    passphrase: None leaves it plain.
    Raises StateUnreadable for damaged state, and wherever `restore` would not read what was made.
    """
    check_user("backup")
    now = int(time.time())
    with lock_member(state, "backup") as here:
        if here.has_handed_over:
            raise BadInput(
                f"{here.inventory.successor} is the control node now",
                hint=f"run `qmesh backup` on {here.inventory.successor}",
            )
        key = state.keys.read_private_key()
        if key is None:
            raise StateUnreadable(f"{state.keys.private_file} is missing", hint="run `qmesh check`")
        with load_image(state.registry_file) as image:
            withdrawn = image.withdraw_all_invitations(command="backup", now=now)
            image.discard_handover()
            registry = image.serialize()
        backup = Backup(
            taken_at=now,
            written_by=__version__,
            settings=msgspec.json.encode(here.settings),
            private_key=key.reveal(),
            signing_key=state.keys.read_signing_key().private_bytes_raw(),
            registry=registry,
            withdrawn=withdrawn,
            retired=encode_document(state.retired_keys.read() or RetiredKeys()),
        )
    seal = None if passphrase is None else _build_encryption(passphrase)
    octets = format_.encode_backup(backup, seal)
    try:
        mesh = open_backup(octets, passphrase).inventory
    except BadInput as error:
        raise StateUnreadable(
            f"this machine's state is damaged, and cannot be backed up: {error.message}",
            hint="run `qmesh check`",
        ) from None
    taken = BackupResult(mesh.mesh, mesh.revision, now, len(mesh.machines), seal is not None, withdrawn)
    return octets, taken


def record_backup(state: State, taken: BackupResult) -> None:
    """Remember that this backup was written, for who is about to give the state up."""
    with state.lock():
        state.last_backup.write(LastBackup(at=taken.taken_at, revision=taken.revision))


def _build_encryption(passphrase: bytes) -> BackupEncryption:
    return BackupEncryption(
        passphrase=passphrase,
        salt=secrets.token_bytes(SALT_OCTETS),
        nonce=secrets.token_bytes(NONCE_OCTETS),
    )
