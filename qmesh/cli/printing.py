"""The one place that prints: whatever reaches a terminal is `shown` before."""

from __future__ import annotations

import logging
import sys

from qmesh.mesh.shown import one_line, shown


def say(text: str) -> None:
    """Print an answer, on standard output."""
    print(shown(text), flush=True)  # noqa: T201 - this is where it is printed


def talk(text: str) -> None:
    """Print what is no answer, on standard error."""
    print(shown(text), file=sys.stderr, flush=True)  # noqa: T201 - see above


class Lines(logging.Formatter):
    """Formats what is logged: a message is a line, whatever stands in it; a traceback is several."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        record.message = one_line(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: object) -> str:  # noqa: N802 - see above
        return shown(super().formatException(ei))  # type: ignore[arg-type]

    def formatStack(self, stack_info: str) -> str:  # noqa: N802 - see above
        return shown(super().formatStack(stack_info))
