"""Keeps the guard's first table equal to its file, `guard.nft`, which is also loaded at boot.

It waits for nothing: no lock, no registry, no network, no other process. A command that changes the guard
writes the file first, and one that removes the guard removes the file first; so the file always decides.
The keeper does not parse a guard: the file has the same text as nft's listing of the table.
"""

from __future__ import annotations

import os
import time

from qmesh.errors import StateUnreadable
from qmesh.host.firewall import nftables
from qmesh.host.firewall.table_events import RuleNotices
from qmesh.host.lean import nftables_messages
from qmesh.mesh.guard.script_text import is_complete_script, is_script_loaded, render_unload_script
from qmesh.mesh.guard.tables import TABLE
from qmesh.mesh.printable import escape_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from qmesh.host.lean.bare_socket import BareSocket

SCRIPT: Final = "guard.nft"
"""Its file in the state directory."""
LOOK_S: Final = 2.0
"""Seconds between two looks, at most: the kernel tells of tables, not of files."""
WHOLE_S: Final = 10.0
"""Seconds after which a look is at tables too, though nothing was told of them and the file is the same."""
BREATH_S: Final = 0.02
"""Seconds between two looks, at least: another program may change the rules without end."""


class GuardKeeper:
    """Of one state directory's guard; to be closed. Raises OSError where the kernel tells no notices.

    changed_by: who has changed one of the guard's tables before the last look, as `RuleNotices` has it.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.changed_by = ""
        # How often the table was not as the file, which had not changed: other programs did that.
        self._start = f"{os.getpid()}-{time.monotonic_ns()}"
        self._alterations = 0
        self._altered_by = ""
        self._path = f"{os.fspath(directory)}/{SCRIPT}"
        self._notices = RuleNotices()
        self._looked = 0.0
        # The file that the table was found to be as, until when that counts, and the tables' generation then.
        self._found: tuple[tuple[int, int, int] | None, float, int | None] = None, 0.0, None

    def close(self) -> None:
        """Keep it no more."""
        self._notices.socket.close()

    @property
    def socket(self) -> BareSocket:
        """To wait for: readable when there is something to look at."""
        return self._notices.socket

    def ensure_loaded(self) -> bool:
        """See that the table is as written, where one is wanted; whether it was not, and was loaded.

        Raises StateUnreadable for a file that can't be read, and as `nftables.run` does.
        """
        time.sleep(max(0.0, self._looked + BREATH_S - time.monotonic()))
        noticed = self._notices.take_notice()
        self.changed_by = noticed or ""
        stamp, found = _read_stamp(self._path), self._found
        if noticed is None and stamp == found[0]:
            if time.monotonic() < found[1]:
                return False
            # Where no table was changed at all, none is listed: that is most of what rest would cost.
            if found[2] is not None and nftables_messages.read_generation() == found[2]:
                self._found = stamp, time.monotonic() + WHOLE_S, found[2]
                return False
        self._found = found[0], 0.0, None
        try:
            generation = nftables_messages.read_generation()  # before: what changes meanwhile is seen later
            was_loaded = self._load_if_changed()
        finally:
            self._looked = time.monotonic()
        self._found = stamp, self._looked + WHOLE_S, None if was_loaded else generation
        if was_loaded and stamp is not None and stamp == found[0] == _read_stamp(self._path):
            self._alterations += 1
            self._altered_by = self.changed_by
        return was_loaded

    def describe_alterations(self) -> str:
        """How often other programs have changed the table, as `parse_alterations` reads it: a line."""
        return escape_line(f"{self._start} {self._alterations} {self._altered_by}")

    def _load_if_changed(self) -> bool:
        # The table before the file: one that a command has just loaded has its file by then.
        listing = nftables.read_table(TABLE)
        script = read_script(self._path)
        if script is None or is_script_loaded(script, listing):
            return False
        if listing is not None and not is_complete_script(script):
            return False  # the agent rewrites that file; the loaded table is better than it
        nftables.run(script)
        now = read_script(self._path)
        if now != script:  # a command was quicker: what it wanted counts
            nftables.run(render_unload_script() if now is None else now)
        return True


def _read_stamp(path: str) -> tuple[int, int, int] | None:
    """What is another once the file was written; None where there is none."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns, found.st_size


def read_script(path: str | os.PathLike[str]) -> str | None:
    """The text of a file of nftables commands; None where there is none. Raises StateUnreadable."""
    try:
        with open(path, encoding="utf-8", opener=_open_no_link) as file:
            return file.read()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise StateUnreadable(
            f"{path} cannot be read: {error}", hint="run `qmesh apply`, which writes it again"
        ) from None


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def describe_change(by: str) -> str:
    """Why the table was loaded again, for the log. by: as `GuardKeeper.changed_by`."""
    return f"the guard's table was changed by {by}" if by else f"the guard's table differed from {SCRIPT}"
