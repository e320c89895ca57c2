"""A registry in memory, as it comes out of a backup and goes into one: no plain copy touches the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from qmesh.errors import StateUnreadable
from qmesh.host import files
from qmesh.host.registry import handover, schema, sqlite
from qmesh.host.registry.invitations import withdraw_all_invitations
from qmesh.host.registry.store import Registry, as_change
from qmesh.mesh.inventory import Inventory

_NAME: Final = Path("the backup's registry")
_WAL: Final = b"\2\2"
_ROLLBACK: Final = b"\1\1"
"""Journal modes as octets 18 and 19 of the file have them; in memory there is no WAL.
Source: the SQLite file format, https://www.sqlite.org/fileformat2.html."""


class RegistryImage(Registry):
    """A registry that is a database's octets. Use as a context manager, like the one on disk.

    Raises StateUnreadable when it is damaged, or of a newer qmesh.
    """

    def __init__(self, octets: bytes, *, user: str | None = None) -> None:
        self._path = _NAME
        self._user = user
        if len(octets) < 512:
            raise StateUnreadable(f"{_NAME} is incomplete", hint="use an older backup")
        self._connection = sqlite.connect(sqlite.MEMORY)
        try:
            with sqlite.translate_errors(_NAME):
                self._connection.deserialize(_set_journal_mode(octets, _ROLLBACK))
                self._refuse_unreadable()
                schema.refuse_foreign_schema(self._connection)
        except BaseException:
            self._connection.close()
            raise

    withdraw_all_invitations = as_change(withdraw_all_invitations)

    def _keep_way_back(self) -> None:
        """What it was made of is kept elsewhere."""

    def discard_handover(self) -> None:
        """Forget a handover that was under way: what comes of the registry has this control node."""
        with self._open_transaction() as connection:
            connection.execute("DELETE FROM succession")

    def serialize_for_successor(self) -> tuple[int, bytes]:
        """The number of the last event, and the registry as the successor will have it."""
        with self._open_transaction() as connection:
            event = handover.prepare_for_successor(connection)
        return event, self.serialize()

    def promote_successor(self, *, now: int) -> Inventory:
        """Make its successor the control node; the mesh after it."""
        with self._open_transaction() as connection:
            after = handover.promote_successor(connection, now=now)
            connection.execute("DELETE FROM succession")
            return after

    def serialize(self) -> bytes:
        """The database as a file would have it, without leftovers of deleted rows."""
        with sqlite.translate_errors(_NAME):
            self._connection.execute("VACUUM")
            return _set_journal_mode(self._connection.serialize(), _WAL)


def load_image(path: Path) -> RegistryImage:
    """A copy of the registry at `path` as of one moment, whatever others write meanwhile."""
    with Registry(path) as registry:
        return RegistryImage(registry.copy_database())


def write_registry(path: Path, octets: bytes) -> None:
    """Make a registry's file of `octets`, whole or not at all; what SQLite left beside an older one goes."""
    with sqlite.translate_errors(path):
        sqlite.remove_database(path)
    files.write(path, octets)


def _set_journal_mode(octets: bytes, mode: bytes) -> bytes:
    return octets[:18] + mode + octets[20:]
