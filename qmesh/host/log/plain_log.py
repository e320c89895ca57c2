"""The log of the process that holds the guard: as the others' log, without the module `logging`.

That takes a megabyte with what it imports. What is said, how much of it and where it goes are the same.
"""

from __future__ import annotations

import sys
import time

from qmesh.host.log.journal import JournalSocket, build_fields, is_stderr_journal
from qmesh.host.log.log_outlets import NAME, StderrOutlet, find_outlet
from qmesh.host.log.machine_name import read_machine_name
from qmesh.host.log.rate_limit import MOST_LINE, RateLimit, describe_unsaid
from qmesh.mesh.printable import escape_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from qmesh.errors import QmeshError

LEVELS: Final = {
    "guard-restored": ("warning", 4),
    "guard-not-kept": ("err", 3),
    "command-failed": ("err", 3),
}
"""All that this process says, by its code, with level and priority as the catalogue has them."""


class PlainLog:
    """Of one process. directory: the state directory."""

    def __init__(self, directory: str) -> None:
        self._machine = read_machine_name(directory)
        self._limit = RateLimit()
        self._journal = JournalSocket() if is_stderr_journal() else None
        self._outlet = StderrOutlet() if self._journal else find_outlet(f"{directory}/{NAME}")

    def report_event(self, code: str, message: str) -> None:
        """Log an event. Nothing here raises: a full disk is no reason to end."""
        level, priority = LEVELS[code]
        now = time.time()
        at = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(now))},{int(now * 1000) % 1000:03}"
        line = f"{at} {level} {code}: {escape_line(message)}"[:MOST_LINE]
        unsaid = self._limit.check_limit(message, len(line))
        if unsaid is None:
            return
        left_out = describe_unsaid(unsaid)
        if self._journal is not None:
            caller = sys._getframe(1)  # noqa: SLF001 - documented, with that name
            fields = build_fields(
                f"{escape_line(message)[:MOST_LINE]}{left_out}",
                code=code,
                priority=priority,
                machine=self._machine,
                place=(caller.f_code.co_filename, caller.f_lineno, caller.f_code.co_name),
            )
            if self._journal.send(fields):
                return
            line = f"<{priority}>{line}"
        self._write(f"{line}{left_out}\n")

    def report_error(self, error: QmeshError) -> None:
        """Say what the process ends with: in the journal an event, else two lines, as every command does."""
        message, hint = escape_line(error.message), escape_line(error.hint)
        if self._journal is not None:
            self.report_event("command-failed", f"error: {message} (hint: {hint})")
        else:
            self._write(f"error: {message}\nhint: {hint}\n")

    def _write(self, text: str) -> None:
        try:
            self._outlet.write(text.encode("utf-8", "backslashreplace"))
        except OSError:
            pass
