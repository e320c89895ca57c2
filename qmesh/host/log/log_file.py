"""The log of the processes that run as long as their machine, bounded in size against floods.

All loggers of the process have one handler, other libraries' from ERROR on. The same text is said a few times
a minute, then counted; and all of it is so many octets at most, wherever it goes. A log in the state
directory is two files.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import select
import stat
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from qmesh.host.log.events import report_event
from qmesh.host.log.journal import JournalSocket, build_fields, is_stderr_journal
from qmesh.host.log.log_lines import OURS, EventFormatter, find_priority, is_ours, read_trace
from qmesh.mesh.printable import escape_line

NAME: Final = "agent.log"
"""In the state directory; of all processes that run in the background there."""
MOST_OCTETS: Final = 2 * 1024 * 1024
"""Octets of a log file; then it is put aside, in the place of the one before."""
SAME: Final = 10
"""Times that a text is said in `SAME_S` seconds."""
SAME_S: Final = 60.0
BURST: Final = 32 * 1024
"""Octets that are said at once, at most."""
PER_S: Final = 256.0
"""Octets a second, over a longer time: 22 MB a day."""
MOST_LINE: Final = 8 * 1024
_MOST_TEXTS: Final = 1000
_TAKEN_MS: Final = 100
"""Milliseconds for standard error to take a line: a journal whose disk hangs takes none."""
_MODE: Final = 0o600
_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC


def rotated_path(log_file: Path) -> Path:
    """Where a log is once it is full."""
    return log_file.with_name(f"{log_file.name}.1")


class RateLimit:
    """What is said: a few of each text, and so many octets in all.

    clock: seconds, of a clock that is never set.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._texts: dict[str, tuple[float, int]] = {}
        self._left = float(BURST)
        self._at = clock()
        self._unsaid = 0

    def is_recent(self, text: str) -> bool:
        """Whether it was said lately: what more there is to it then was said too."""
        return text in self._texts and self._clock() - self._texts[text][0] <= SAME_S

    def check_limit(self, text: str, octets: int) -> int | None:
        """How many were not said since one was, where this one is said; else None.

        octets: of all of it, a traceback among them.
        """
        now = self._clock()
        self._left = min(float(BURST), self._left + (now - self._at) * PER_S)
        self._at = now
        if self._is_repeated(text, now) or octets > self._left:
            self._unsaid += 1
            return None
        self._left -= octets
        unsaid, self._unsaid = self._unsaid, 0
        return unsaid

    def _is_repeated(self, text: str, now: float) -> bool:
        begun, times = self._texts.pop(text, (now, 0))
        if now - begun > SAME_S:
            begun, times = now, 0
        if len(self._texts) >= _MOST_TEXTS:
            self._texts.pop(next(iter(self._texts)))
        self._texts[text] = begun, times + 1
        return times >= SAME


class StderrHandler(logging.Handler):
    """Writes so much of what is logged to standard error, where that takes it: none waits for its reader.

    Errors are ignored: a full disk is no reason to end.
    """

    def __init__(self) -> None:
        super().__init__()
        self._limit = RateLimit()
        self.setFormatter(EventFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        if not is_ours(record) and record.levelno < logging.ERROR:
            return
        with contextlib.suppress(Exception):  # there is no other place to report it
            text = record.getMessage()
            if self._limit.is_recent(text):
                record = _strip_traceback(record)
            line = self.format(record)[:MOST_LINE]
            unsaid = self._limit.check_limit(text, len(line))
            if unsaid is not None:
                self._send(
                    record, line, f" ({unsaid} messages before this one were left out)" if unsaid else ""
                )

    def _send(self, record: logging.LogRecord, line: str, left_out: str) -> None:  # noqa: ARG002 - the journal's
        """Send it on. left_out: what is said behind it."""
        self._write(f"{line}{left_out}\n".encode("utf-8", "backslashreplace"))

    def _write(self, octets: bytes) -> None:
        poll = select.poll()
        poll.register(2, select.POLLOUT)
        if poll.poll(_TAKEN_MS):
            os.write(2, octets)


class JournalHandler(StderrHandler):
    """Sends entries to systemd's journal; those that it does not take go to standard error with a level."""

    def __init__(self, machine: str, journal: JournalSocket | None = None) -> None:
        super().__init__()
        self._machine = machine
        self._journal = journal or JournalSocket()

    def _send(self, record: logging.LogRecord, line: str, left_out: str) -> None:
        message = escape_line(record.getMessage())[:MOST_LINE] + left_out
        fields = build_fields(record, message, read_trace(record)[-MOST_LINE:], self._machine)
        if not self._journal.send(fields):
            self._write(f"<{find_priority(record)}>{line}{left_out}\n".encode("utf-8", "backslashreplace"))


def _strip_traceback(record: logging.LogRecord) -> logging.LogRecord:
    """The same without a traceback."""
    bare = logging.makeLogRecord(vars(record))
    bare.exc_info = bare.exc_text = bare.stack_info = None
    bare.qmesh_trace = ""
    return bare


class LogFileHandler(StderrHandler):
    """Writes to a file of two, which standard output and standard error are as well.

    Several processes may have the same one: the first that finds it full renames it, and all use the new one.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def _write(self, octets: bytes) -> None:
        own = os.fstat(2)
        if own.st_size + len(octets) > MOST_OCTETS:
            self._rotate()
            self._reopen(os.O_CREAT)
        elif not _is_same_file(self._path, own):
            self._reopen()  # where it is gone, no log is wanted
        super()._write(octets)

    def _rotate(self) -> None:
        """Under a lock of the file itself, for another process may be about to."""
        fcntl.flock(2, fcntl.LOCK_EX)
        try:
            if _is_same_file(self._path, os.fstat(2)):
                self._path.replace(rotated_path(self._path))
        finally:
            fcntl.flock(2, fcntl.LOCK_UN)

    def _reopen(self, create: int = 0) -> None:
        """Take the file that is there now; where there is none, stay with the old."""
        with contextlib.suppress(OSError):
            opened = os.open(self._path, _FLAGS | create, _MODE)
            for descriptor in (1, 2):
                os.dup2(opened, descriptor)
            os.close(opened)


def _is_same_file(path: Path, found: os.stat_result) -> bool:
    """Whether a path leads to this file."""
    with contextlib.suppress(OSError):
        return os.path.samestat(path.lstat(), found)
    return False


def configure_logging(log_file: Path, machine: str) -> None:
    """Send the log of this process to where its standard error goes, bounded in size.

    That is systemd's journal, which gets fields; the log file; or another place, such as a terminal.
    machine: this machine's name in its mesh; empty where it is not known.
    Uncaught exceptions of threads are logged in the same way.
    """
    root = logging.getLogger()
    root.handlers[:] = [_build_handler(log_file, machine)]
    root.setLevel(logging.ERROR)
    logging.getLogger(OURS).setLevel(logging.INFO)
    logging.captureWarnings(capture=True)
    threading.excepthook = lambda told: _log_error("a thread failed", told.exc_value)
    sys.unraisablehook = lambda told: _log_error("an error could not be raised", told.exc_value)


def _build_handler(log_file: Path, machine: str) -> StderrHandler:
    if is_stderr_journal():
        return JournalHandler(machine)
    return LogFileHandler(log_file) if _is_standard_error(log_file) else StderrHandler()


def _log_error(what: str, error: BaseException | None) -> None:
    if not isinstance(error, SystemExit):
        report_event("thread-failed", what, error=error)


def _is_standard_error(log_file: Path) -> bool:
    """Whether standard error is that file, or was until it was put aside."""
    try:
        found = os.fstat(2)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and (
        _is_same_file(log_file, found) or _is_same_file(rotated_path(log_file), found)
    )
