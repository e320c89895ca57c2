"""A child that reads something, and has so long for it: then it ends, with all of its children.

What it prints beyond a bound is read and forgotten, so that it does not wait for that.
"""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from qmesh.host.system import heartbeat, programs

MOST_OUTPUT: Final = 1 << 14
PROCESSOR_S: Final = 20
_END_S: Final = 2.0
_PIECE: Final = 1 << 16
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ChildEnd(NamedTuple):
    """How a child has ended. code: as of `subprocess`; None where it was ended, as its time was over.

    output: the first `MOST_OUTPUT` bytes that it printed.
    """

    code: int | None
    output: bytes


def run_limited_child(
    words: Sequence[str], given: bytes, *, wait_s: float, most_memory: int | None = None
) -> ChildEnd:
    """Run a program, with `given` on its standard input. wait_s: seconds that it has.

    most_memory: bytes of address space. Raises OSError where it can't be started.
    """
    child = subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=programs.DIRECTORY,
        env=_build_environment(),
        start_new_session=True,
        bufsize=0,
    )
    with heartbeat.allow_wait(wait_s + _END_S):
        try:
            _limit_process(child.pid, most_memory)
            output, has_ended = _exchange(child, given, time.monotonic() + wait_s)
        finally:
            # Until it is waited for, its number is nobody else's.
            with contextlib.suppress(OSError):
                os.killpg(child.pid, signal.SIGKILL)
            for stream in (child.stdin, child.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_END_S)
    return ChildEnd(child.returncode if has_ended else None, output)


def _build_environment() -> dict[str, str]:
    home = os.environ.get("HOME", "/")
    return {"PATH": _PATH, "LC_ALL": "C.UTF-8", "HOME": home if home.startswith("/") else "/"}


def _limit_process(number: int, most_memory: int | None) -> None:
    with contextlib.suppress(OSError):  # it has ended already
        resource.prlimit(number, resource.RLIMIT_CPU, (PROCESSOR_S, PROCESSOR_S))
        if most_memory is not None:
            resource.prlimit(number, resource.RLIMIT_AS, (most_memory, most_memory))


def _exchange(child: subprocess.Popen[bytes], given: bytes, until: float) -> tuple[bytes, bool]:
    """Give it what it is to read, and take what it prints; that, and whether it has ended by itself."""
    assert child.stdin is not None
    assert child.stdout is not None
    ended = os.pidfd_open(child.pid)
    taken, printed, wanted = b"", child.stdout.fileno(), child.stdin.fileno()
    os.set_blocking(printed, False)
    os.set_blocking(wanted, False)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(ended, selectors.EVENT_READ)
            selector.register(printed, selectors.EVENT_READ)
            selector.register(wanted, selectors.EVENT_WRITE)
            while (left_s := until - time.monotonic()) > 0:
                ready = {key.fd for key, _ in selector.select(left_s)}
                if wanted in ready:
                    given = _give(wanted, given)
                    if not given:
                        selector.unregister(wanted)
                        child.stdin.close()
                if printed in ready:
                    piece = _take(printed)
                    taken = (taken + piece)[:MOST_OUTPUT]
                    if not piece:
                        selector.unregister(printed)
                if ended in ready:  # what it has left behind may print for ever
                    return (taken + _take(printed))[:MOST_OUTPUT], True
        return taken, False
    finally:
        os.close(ended)


def _give(descriptor: int, octets: bytes) -> bytes:
    """What is still to be given; nothing where it does not read."""
    try:
        return octets[os.write(descriptor, octets[:_PIECE]) :]
    except BlockingIOError:
        return octets
    except OSError:
        return b""


def _take(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, _PIECE)
    except OSError:
        return b""
