"""Processes that end with this one, and signals that end this one in order."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import IO, Final, NoReturn

# A process namespace: when its first process is killed, the kernel kills all that it ever started.
# The first one is killed when `unshare` ends, and that one when this program does, however it does.
_TIED: Final = ("setpriv", "--pdeathsig=KILL", "unshare", "--pid", "--fork", "--kill-child=KILL", "--")


class Interrupted(BaseException):
    """SIGINT, SIGTERM or SIGHUP has come."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self._number = number

    def end(self) -> NoReturn:
        """End this program by the signal itself: a shell then sees that its loop or script is to end too."""
        signal.signal(self._number, signal.SIG_DFL)
        signal.raise_signal(self._number)
        raise AssertionError(self._number)


def interruptible() -> None:
    """From here on the three signals raise Interrupted, once; what cleans up then is left in peace."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(number: int, _frame: FrameType | None) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(number)

    for each in numbers:
        signal.signal(each, interrupt)


@contextlib.contextmanager
def tied(
    command: Sequence[str | os.PathLike[str]],
    *,
    output: int | IO[bytes] | None = None,
    errors: int | IO[bytes] | None = None,
    pass_fds: Sequence[int] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that, with all that it started, ends with the block or with this program."""
    with subprocess.Popen(
        [*_TIED, *command],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=errors,
        pass_fds=pass_fds,
        start_new_session=True,  # Ctrl-C is for this program, which ends the others
    ) as process:
        try:
            yield process
        finally:
            process.kill()
