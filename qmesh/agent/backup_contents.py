"""What a backup holds, read and checked."""

from __future__ import annotations

import msgspec

from qmesh.errors import BadInput, QmeshError
from qmesh.host import files
from qmesh.host.registry import RegistryImage
from qmesh.host.state.documents import Settings, decode_document
from qmesh.mesh.decode import Malformed, decode_json
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.links.retirement import RetiredKeys
from qmesh.mesh.protocol.backup_file import Backup, decode_backup, find_mismatched_key
from qmesh.mesh.values import Secret


class BackupContents(msgspec.Struct, frozen=True):
    """A backup that was looked into, and is whole."""

    backup: Backup
    settings: Settings
    inventory: Inventory
    retired: RetiredKeys


def open_backup(octets: bytes, passphrase: bytes | None) -> BackupContents:
    """Read a backup, and look at all that is in it. Raises BadInput.

    passphrase: None for a plain one, and only for that.
    """
    if len(octets) > files.MAX_OCTETS:
        raise BadInput(
            f"this file is larger than a backup can be ({files.MAX_OCTETS} bytes)",
            hint="name the file that `qmesh backup` wrote",
        )
    return parse_contents(decode_backup(octets, passphrase))


def parse_contents(backup: Backup) -> BackupContents:
    """Look at all that is in a backup. Raises BadInput where something does not belong to the rest."""
    try:
        settings = decode_json(backup.settings, Settings)
        retired = decode_document(backup.retired or b"{}", RetiredKeys)
        with RegistryImage(backup.registry) as image:
            mesh = image.inventory()
            image.events()
    except Malformed:
        raise BadInput(
            "the backup's settings or retired keys cannot be read",
            hint="if a newer qmesh wrote it, install that version here; otherwise use an older backup",
        ) from None
    except QmeshError as error:
        raise BadInput(error.message, hint=error.hint) from None
    odd = find_mismatched_key(
        mesh,
        private_key=Secret(backup.private_key),
        signing_key=backup.signing_key,
        verification_key=settings.verification_key,
    )
    if odd is None and (not settings.control or (settings.mesh, settings.name) != (mesh.mesh, mesh.control)):
        odd = "settings"
    if odd is not None:
        raise BadInput(
            f"the backup is damaged: its {odd} does not match its mesh",
            hint="use an older backup; nothing was changed",
        )
    return BackupContents(backup, settings, mesh, retired)
