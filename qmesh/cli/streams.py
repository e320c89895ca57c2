"""The standard streams, whatever they are: closed, on a full disk, of another encoding, read by nobody.

A command does its work in any case. What cannot be written is dropped, and said at the end.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import Any, Final, NoReturn

from qmesh.errors import MachineRefused

BROKEN_PIPE: Final = 141
"""The exit code of a command whose reader has ended, such as `head`: 128 and the number of SIGPIPE."""


class _Stream(io.FileIO):
    """Standard output or error. From the first write that fails on all is dropped; failure: of that one."""

    failure: OSError | None = None

    def write(self, octets: Any) -> int:
        """Write all or nothing that is missed. Returns what was taken, dropped or not."""
        if self.failure is not None:
            return len(octets)
        try:
            while (taken := super().write(octets)) is None:  # it does not block, and is full
                select.select((), (self,), ())
        except OSError as error:
            self.failure = error
            return len(octets)
        return taken


_lost_answers: list[object] = []


def prepare_streams() -> None:
    """Have all three streams be there, take every character, and raise nothing. The first thing of a process.

    Where file names are not UTF-8 text to Python, the process is replaced by one where they are.
    """
    # Else the next file that is opened would be one of them, and be written to by mistake.
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)
    if sys.getfilesystemencoding() != "utf-8":
        _restart_in_utf8_mode()
    encoding = _find_encoding()
    sys.stdin = io.TextIOWrapper(
        io.BufferedReader(io.FileIO(0, closefd=False)), encoding=encoding, errors="backslashreplace"
    )
    sys.stdout = _open_stream(1, encoding)
    sys.stderr = _open_stream(2, encoding)


def _restart_in_utf8_mode() -> NoReturn:
    """A path would be remembered as other text than a process reads it that runs in another locale."""
    words = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
    os.execv(words[0], words)  # noqa: S606 - no shell is wanted


def _find_encoding() -> str:
    """What the terminal has: in UTF-8 mode Python does not look."""
    own: str = "utf-8" if sys.stdout is None else sys.stdout.encoding
    if sys.flags.utf8_mode and "PYTHONIOENCODING" not in os.environ:
        import locale  # noqa: PLC0415 - only there

        of_locale = locale.getencoding()
        # The locale C says nothing about the terminal.
        return own if of_locale in {"ANSI_X3.4-1968", "US-ASCII", "646"} else of_locale
    return own


def _open_stream(descriptor: int, encoding: str) -> io.TextIOWrapper:
    raw = _Stream(descriptor, "wb", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=encoding, errors="backslashreplace", line_buffering=True
    )


def find_stdout_failure() -> OSError | None:
    """Why standard output is written no more; None while it is."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.failure if isinstance(raw, _Stream) else None


def keep_lost_answer(facts: object) -> None:
    """Have what a command did be part of the error that says that its answer is lost. facts: for JSON."""
    _lost_answers.append(facts)


def report_lost_output(code: int, *, as_json: bool) -> int:
    """Say that standard output could not be written, where that is so. Returns the exit code then.

    code: of the command, which stays where there was an error: that was said already.
    """
    sys.stdout.flush()
    failure = find_stdout_failure()
    if failure is None or code not in {0, 1}:
        return code
    if failure.errno == errno.EPIPE and not _lost_answers:
        return BROKEN_PIPE
    from qmesh.cli.errors import report_error  # noqa: PLC0415 - only a failure needs it

    why = _describe_failure(failure)
    if not _lost_answers:
        error = MachineRefused(
            f"standard output cannot be written: {why}",
            hint="make room there, or send it to another place; then run the same command again",
        )
        return report_error(error, as_json=as_json)
    where = "in `answer`" if as_json else "above"
    error = MachineRefused(
        f"the command did its work, but standard output cannot be written: {why}",
        hint=f"what it did is {where}; `qmesh check` shows this machine's state",
    )
    return report_error(error, as_json=as_json, answer=_lost_answers[-1])


def _describe_failure(failure: OSError) -> str:
    return "it is closed" if failure.errno == errno.EBADF else str(failure.strerror)
