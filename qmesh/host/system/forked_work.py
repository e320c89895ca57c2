"""Work that a copy of this process does, on another processor where there is one, while this one goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from typing import Any, Generic, NoReturn, Self, TypeVar

import msgspec

from qmesh.mesh.decode import Malformed, decode_msgpack

_T = TypeVar("_T")


class ForkedWork(Generic[_T]):
    """Begun at once where that can be, and else done when it is asked for. It ends with the block.

    A process with other threads is not copied: what one of them has locked would stay so in the copy.
    """

    def __init__(self, work: Callable[[], _T], kind: Any) -> None:
        """kind: the type of what the work returns, which goes from process to process as MessagePack."""
        self._work, self._kind = work, kind
        self._child, self._reading = 0, -1
        if threading.active_count() > 1:
            return
        reading, writing = os.pipe()
        try:
            child = os.fork()
        except OSError:  # no room for a process
            os.close(reading)
            os.close(writing)
            return
        if child == 0:
            _answer(work, writing)
        os.close(writing)
        self._child, self._reading = child, reading

    def collect(self) -> _T:
        """What it came to. Raises what the work raises, which is then done here."""
        if self._child:
            with os.fdopen(self._reading, "rb") as answer:
                self._reading = -1
                octets = answer.read()
            self._end()
            try:
                found: _T = decode_msgpack(octets, self._kind)
            except Malformed:  # it was killed, or raised
                return self._work()
            return found
        return self._work()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._reading >= 0:
            os.close(self._reading)
            self._reading = -1
        self._end()

    def _end(self) -> None:
        if self._child:
            os.kill(self._child, signal.SIGKILL)
            os.waitpid(self._child, 0)
            self._child = 0


def _close_all_but(kept: int) -> None:
    """A lock of the other process is not to outlast it, and who reads its output is not to wait for this one.

    By the kernel's list: there may be a thousand million descriptors.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for each in range(3):
        os.dup2(nothing, each)
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers, no paths
        if int(name) > 2 and int(name) != kept:
            with contextlib.suppress(OSError):  # the list's own
                os.close(int(name))


def _answer(work: Callable[[], object], writing: int) -> NoReturn:
    """Be the copy. What it raises, the other process comes to know when it does the work itself."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the other one, which ends this
        _close_all_but(writing)
        with os.fdopen(writing, "wb") as answer:
            answer.write(msgspec.msgpack.encode(work()))
    finally:
        os._exit(0)
