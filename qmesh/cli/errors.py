"""How errors are printed: in a line with a hint, or as JSON, on standard error like all talk."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from qmesh.cli.terminal import print_stderr
from qmesh.errors import BadInput, Interrupted, QmeshError, build_bug_error
from qmesh.mesh.printable import escape_line

if TYPE_CHECKING:
    import logging


def report_error(error: QmeshError, *, as_json: bool, answer: object = None) -> int:
    """Print an error with its hint; returns the exit code.

    answer: what was done all the same, and could not be printed as JSON.
    """
    facts: dict[str, object] = {"error": error.message, "hint": error.hint, "exit_code": error.exit_code}
    if answer is not None:
        facts["answer"] = answer
    if as_json:
        from qmesh.mesh.printable_json import render_json  # noqa: PLC0415 - --help has no use for it

        print_stderr(render_json(facts))
    elif _is_stderr_journal():
        from qmesh.host.log.events import report_event  # noqa: PLC0415 - under systemd alone

        log_to_stderr()
        report_event("command-failed", "error: %s (hint: %s)", error.message, error.hint)
    else:
        print_stderr(f"error: {escape_line(error.message)}\nhint: {escape_line(error.hint)}")
    return error.exit_code


def _is_stderr_journal() -> bool:
    """Whether standard error is systemd's journal, and takes events."""
    if "JOURNAL_STREAM" not in os.environ:
        return False
    from qmesh.host.log.journal import is_stderr_journal  # noqa: PLC0415 - under systemd alone

    return is_stderr_journal()


def report_exception(error: BaseException, *, as_json: bool) -> int:
    """Print what a command ended with; returns the exit code. With QMESH_TRACEBACK a bug is raised again."""
    if isinstance(error, QmeshError):
        return report_error(error, as_json=as_json)
    if isinstance(error, KeyboardInterrupt):
        return report_interrupt(as_json=as_json)
    if isinstance(error, FileNotFoundError) and not _has_current_directory():
        gone = BadInput(
            "the current directory is gone", hint="`cd` to another one, then run the same command again"
        )
        return report_error(gone, as_json=as_json)
    if os.environ.get("QMESH_TRACEBACK") or not isinstance(error, Exception):
        raise error
    return report_error(build_bug_error(error), as_json=as_json)


def _has_current_directory() -> bool:
    """Whether it is there: else a path that is not absolute leads nowhere."""
    try:
        os.getcwd()  # noqa: PTH109 - whether it raises
    except FileNotFoundError:
        return False
    return True


def report_interrupt(*, as_json: bool) -> int:
    """Print that the command was interrupted; returns the exit code."""
    if sys.stderr.isatty():
        print_stderr("")  # behind the terminal's ^C
    return report_error(Interrupted(), as_json=as_json)


def _build_talk_handler() -> logging.Handler:
    """Lines for whoever reads standard error; entries with fields where that is systemd's journal."""
    if _is_stderr_journal():
        from qmesh.host.log.log_handlers import JournalHandler  # noqa: PLC0415 - under systemd alone

        return JournalHandler("")
    import logging  # noqa: PLC0415 - a list of the commands says nothing

    from qmesh.host.log.log_lines import LineFormatter  # noqa: PLC0415 - as above

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter("%(message)s"))
    return handler


def log_to_stderr(*, quiet: bool = False) -> None:
    """Let what is logged be seen.

    quiet: say nothing, so that an error in JSON is all that is there.
    """
    import logging  # noqa: PLC0415 - as above

    talk = logging.getLogger("qmesh")
    if not talk.handlers:
        talk.addHandler(_build_talk_handler())
        talk.setLevel(logging.CRITICAL if quiet else logging.INFO)
        talk.propagate = False
