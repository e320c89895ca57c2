"""A terminal's other screen, drawn again and again in place. Whatever ends it leaves the terminal whole.

Source: xterm's control sequences, private modes 7 (wrap), 25 (cursor), 1049 (the other screen).
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any, Final, Self

from qmesh.cli.screen.spans import Line, render_lines

_ENTER: Final = b"\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
_LEAVE: Final = b"\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
_ENDING: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class LiveScreen:
    """Shows lines in place of those before, until it is left. Needs the main thread, for signals.

    on_change: called when the window has another size, or the process goes on after it was stopped.
    """

    def __init__(self, on_change: Callable[[], object]) -> None:
        self._on_change = on_change
        self._shown: bytes | None = None
        self._is_open = False
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        atexit.register(self._leave)
        for number in _ENDING:
            self._handle(number, self._end_by_signal)
        self._handle(signal.SIGTSTP, self._stop)
        self._handle(signal.SIGWINCH, self._draw_again)
        self._enter()
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        atexit.unregister(self._leave)

    def show(self, lines: Iterable[Line], *, is_coloured: bool) -> None:
        """Draw the lines, none of which is wider than the terminal, and no more than it has."""
        text = render_lines(lines, is_coloured=is_coloured).replace("\n", "\x1b[K\r\n")
        frame = f"\x1b[H{text}\x1b[K\x1b[J".encode(sys.stdout.encoding, "backslashreplace")
        if frame != self._shown:
            self._shown = frame
            _write(frame)

    def _handle(self, number: int, handler: Callable[[int, FrameType | None], None]) -> None:
        if signal.getsignal(number) != signal.SIG_IGN:  # such as SIGHUP by nohup
            self._handlers[number] = signal.signal(number, handler)

    def _enter(self) -> None:
        self._is_open = True
        self._shown = None
        _write(_ENTER)

    def _leave(self) -> None:
        if self._is_open:
            _write(_LEAVE)
            self._is_open = False

    def _end_by_signal(self, number: int, _: FrameType | None) -> None:
        self._leave()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _stop(self, number: int, _: FrameType | None) -> None:
        """Ctrl-Z: the shell has its own screen meanwhile."""
        self._leave()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.signal(number, self._stop)
        self._enter()
        self._on_change()

    def _draw_again(self, _: int, __: FrameType | None) -> None:
        self._shown = None
        self._on_change()


def _write(octets: bytes) -> None:
    """Past all buffers: what Ctrl-C interrupts is not written later. What fails is noted by the stream."""
    raw = getattr(sys.stdout.buffer, "raw", sys.stdout.buffer)
    with contextlib.suppress(OSError):
        while octets:
            octets = octets[raw.write(octets) or 0 :]
