"""What is logged, as lines: an event is one, whatever stands in it."""

from __future__ import annotations

import logging
import traceback
from typing import Final

from qmesh.mesh.events.catalogue import PRIORITIES, Level, find_level
from qmesh.mesh.printable import escape_line

OURS: Final = "qmesh"


def is_ours(record: logging.LogRecord) -> bool:
    """Whether qmesh itself logged it, and no library."""
    return record.name == OURS or record.name.startswith(f"{OURS}.")


def find_code(record: logging.LogRecord) -> str:
    """The code of what was logged; that of a command's talk, or of a library, has none of its own."""
    return getattr(record, "qmesh_code", "talk" if is_ours(record) else "library-failed")


def find_record_level(record: logging.LogRecord) -> Level:
    """How much it matters."""
    return find_level(record.levelno)


def find_priority(record: logging.LogRecord) -> int:
    """The same as syslog(3) has it."""
    return PRIORITIES[find_record_level(record)]


def read_trace(record: logging.LogRecord) -> str:
    """The traceback that belongs to it, of several lines; empty for none."""
    if record.exc_info:
        return "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
    return getattr(record, "qmesh_trace", "").rstrip("\n")


class LineFormatter(logging.Formatter):
    """Formats what is logged as one line, a traceback behind its message."""

    def format(self, record: logging.LogRecord) -> str:
        record.message = escape_line(record.getMessage())
        if self.usesTime():
            record.asctime = self.formatTime(record, self.datefmt)
        line = self.formatMessage(record)
        trace = read_trace(record)
        return f"{line} | {escape_line(trace)}" if trace else line


class EventFormatter(LineFormatter):
    """The same with time, level and code before it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(level)s %(code)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        record.level, record.code = find_record_level(record), find_code(record)
        return super().formatMessage(record)
