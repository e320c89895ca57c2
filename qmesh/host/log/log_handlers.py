"""The log of the processes that run as long as their machine, bounded in size against floods.

All loggers of the process have one handler, other libraries' from ERROR on. The same text is said a few times
a minute, then counted; and all of it is so many octets at most, wherever it goes. A log in the state
directory is two files.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from pathlib import Path

from qmesh.host.log.events import report_event
from qmesh.host.log.journal import JournalSocket, build_fields, is_stderr_journal
from qmesh.host.log.log_lines import (
    OURS,
    EventFormatter,
    find_code,
    find_priority,
    is_ours,
    read_trace,
)
from qmesh.host.log.log_outlets import StderrOutlet, find_outlet
from qmesh.host.log.rate_limit import MOST_LINE, RateLimit, describe_unsaid
from qmesh.mesh.printable import escape_line


class StderrHandler(logging.Handler):
    """Writes so much of what is logged to standard error, where that takes it: none waits for its reader.

    Errors are ignored: a full disk is no reason to end.
    """

    def __init__(self, outlet: StderrOutlet) -> None:
        super().__init__()
        self._outlet = outlet
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
                self._send(record, line, describe_unsaid(unsaid))

    def _send(self, record: logging.LogRecord, line: str, left_out: str) -> None:  # noqa: ARG002 - the journal's
        """Send it on. left_out: what is said behind it."""
        self._outlet.write(f"{line}{left_out}\n".encode("utf-8", "backslashreplace"))


class JournalHandler(StderrHandler):
    """Sends entries to systemd's journal; those that it does not take go to standard error with a level."""

    def __init__(self, machine: str, journal: JournalSocket | None = None) -> None:
        super().__init__(StderrOutlet())
        self._machine = machine
        self._journal = journal or JournalSocket()

    def _send(self, record: logging.LogRecord, line: str, left_out: str) -> None:
        message = escape_line(record.getMessage())[:MOST_LINE] + left_out
        fields = build_fields(
            message,
            code=find_code(record),
            priority=find_priority(record),
            machine=getattr(record, "qmesh_machine", None) or self._machine,
            place=(record.pathname, record.lineno, record.funcName or ""),
            trace=read_trace(record)[-MOST_LINE:],
        )
        if not self._journal.send(fields):
            self._outlet.write(
                f"<{find_priority(record)}>{line}{left_out}\n".encode("utf-8", "backslashreplace")
            )


def _strip_traceback(record: logging.LogRecord) -> logging.LogRecord:
    """The same without a traceback."""
    bare = logging.makeLogRecord(vars(record))
    bare.exc_info = bare.exc_text = bare.stack_info = None
    bare.qmesh_trace = ""
    return bare


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
    return StderrHandler(find_outlet(str(log_file)))


def _log_error(what: str, error: BaseException | None) -> None:
    if not isinstance(error, SystemExit):
        report_event("thread-failed", what, error=error)
