"""Programs at a terminal of so many cells: what is typed reaches them, what they draw can be read."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Iterator, Sequence

from tests.support.waiting import patience, wait_until

ENTER, LEAVE = "\x1b[?1049h", "\x1b[?1049l"


class Terminal:
    """A program at a terminal. `text`: all that it has written so far."""

    def __init__(self, words: Sequence[str], width: int, height: int, variables: dict[str, str]) -> None:
        self._own, other = pty.openpty()
        os.set_blocking(self._own, False)
        self.text = ""
        self.resize(width, height)

        def take_terminal() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            list(words),
            stdin=other,
            stdout=other,
            stderr=other,
            env={**os.environ, "TERM": "xterm", "NO_COLOR": "", "FORCE_COLOR": "", **variables},
            start_new_session=True,
            preexec_fn=take_terminal,  # noqa: PLW1509 - nothing else runs in this process
        )
        os.close(other)

    def resize(self, width: int, height: int) -> None:
        """As when its window is: the kernel tells the program."""
        fcntl.ioctl(self._own, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def type(self, text: str) -> None:
        """Type that; `\\x03` is Ctrl-C, `\\x1a` Ctrl-Z."""
        os.write(self._own, text.encode())

    def hang_up(self) -> None:
        """As when an SSH connection breaks."""
        os.close(self._own)
        self._own = -1

    def read(self) -> str:
        """What has been written, from the beginning on."""
        with contextlib.suppress(OSError):  # nothing more now, or nobody is there any more
            while self._own >= 0 and (read := os.read(self._own, 65536)):
                self.text += read.decode()
        return self.text

    def picture(self) -> list[str]:
        """The lines of the last picture that is whole; none where none is."""
        frames = self.read().rpartition("\x1b[J")[0].rpartition("\x1b[H")[2]
        return [line.removesuffix("\x1b[K") for line in re.split(r"\r+\n", frames)] if frames else []

    def wait_for(self, text: str) -> None:
        """Wait until that stands in the picture, while the program runs."""

        def is_there() -> bool:
            ended = self.process.poll()
            found = text in "\n".join(self.picture())
            assert found or ended is None, f"it has ended with {ended}: {self.text[-2000:]}"
            return found

        wait_until(is_there, 30)

    def end(self) -> int:
        """The exit code, once it has ended."""
        wait_until(lambda: (self.read(), self.process.poll())[1] is not None, 30)
        self.read()
        return self.process.wait()

    def close(self) -> None:
        """End it."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(patience(30))
        if self._own >= 0:
            os.close(self._own)


@contextlib.contextmanager
def run_at_terminal(
    words: Sequence[str], *, width: int = 80, height: int = 24, **variables: str
) -> Iterator[Terminal]:
    """A program at a terminal, which goes with the block."""
    terminal = Terminal(words, width, height, variables)
    try:
        yield terminal
    finally:
        terminal.close()
