"""What is logged, as lines: whatever stands in a message begins none of its own."""

from __future__ import annotations

import logging

from qmesh.mesh.printable import escape_line, escape_text


class LineFormatter(logging.Formatter):
    """Formats what is logged: a message is a line, whatever stands in it; a traceback is several."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        record.message = escape_line(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: object) -> str:  # noqa: N802 - see above
        return escape_text(super().formatException(ei))  # type: ignore[arg-type]

    def formatStack(self, stack_info: str) -> str:  # noqa: N802 - see above
        return escape_text(super().formatStack(stack_info))
