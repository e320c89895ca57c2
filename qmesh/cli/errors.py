"""How errors are printed: in a line with a hint, or as JSON, on standard error like all talk."""

from __future__ import annotations

import logging
import os
import sys

from qmesh.cli.terminal import talk
from qmesh.errors import Interrupted, QmeshError, bug_at
from qmesh.host.system.log_lines import Lines
from qmesh.mesh.printable import in_json, one_line


def refuse(error: QmeshError, *, as_json: bool) -> int:
    """Print an error with its hint; returns the exit code."""
    facts = {"error": error.message, "hint": error.hint, "exit_code": error.exit_code}
    if as_json:
        talk(in_json(facts))
    else:
        talk(f"error: {one_line(error.message)}\nhint: {one_line(error.hint)}")
    return error.exit_code


def ended(error: BaseException, *, as_json: bool) -> int:
    """Print what a command ended with; returns the exit code. With QMESH_TRACEBACK a bug is raised again."""
    if isinstance(error, QmeshError):
        return refuse(error, as_json=as_json)
    if isinstance(error, KeyboardInterrupt):
        return interrupted(as_json=as_json)
    if os.environ.get("QMESH_TRACEBACK") or not isinstance(error, Exception):
        raise error
    return refuse(_bug(error), as_json=as_json)


def interrupted(*, as_json: bool) -> int:
    """Print that the command was interrupted; returns the exit code."""
    if sys.stderr.isatty():
        talk("")  # behind the terminal's ^C
    error = Interrupted("interrupted", hint="run the same command again, it starts over or goes on")
    return refuse(error, as_json=as_json)


def _bug(error: Exception) -> QmeshError:
    """An error of ours that nobody foresaw, in one line."""
    return QmeshError(
        f"qmesh itself failed: {bug_at(error)}",
        hint="report it with what QMESH_TRACEBACK=1 shows; `qmesh check` tells where this machine stands",
    )


def talk_on_standard_error(*, quiet: bool = False) -> None:
    """Let what is logged be seen.

    quiet: say nothing, so that an error in JSON is all that is there.
    """
    talk = logging.getLogger("qmesh")
    if not talk.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(Lines("%(message)s"))
        talk.addHandler(handler)
        talk.setLevel(logging.CRITICAL if quiet else logging.INFO)
        talk.propagate = False
