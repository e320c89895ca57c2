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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from qmesh.host.system import heartbeat, programs

_END_S: Final = 2.0
_PIECE: Final = 1 << 16
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ChildLimits(NamedTuple):
    """What a child has. wait_s: seconds; processor_s: of the processor's time.

    memory: bytes of address space; None for all there is. data: bytes that it can write to, as memory, where
    it may reserve more than it uses. Both are of each process that it starts, too.
    output: bytes that are kept of what it prints. niceness: as of nice(1); 0 for this process's own.
    """

    wait_s: float
    processor_s: int = 20
    memory: int | None = None
    output: int = 1 << 14
    niceness: int = 0
    data: int | None = None


class ChildEnd(NamedTuple):
    """How a child has ended. code: as of `subprocess`; None where it was ended, as its time was over.

    output: the first bytes that it printed, on either stream. processor_s: what it took.
    """

    code: int | None
    output: bytes
    processor_s: float = 0.0


def run_limited_child(
    words: Sequence[str], given: bytes, limits: ChildLimits, *, environment: Mapping[str, str] | None = None
) -> ChildEnd:
    """Run a program, with `given` on its standard input.

    environment: none of this process's, but a bare one, where it is None. Raises OSError where it can't be
    started.
    """
    processor_s = 0.0
    with heartbeat.allow_wait(limits.wait_s + _END_S):
        child = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=programs.DIRECTORY,
            env=_build_environment() if environment is None else environment,
            start_new_session=True,
            bufsize=0,
        )
        try:
            _limit_process(child.pid, limits)
            output, has_ended = _exchange(child, given, limits)
        finally:
            # Until it is waited for, its number is nobody else's.
            with contextlib.suppress(OSError):
                os.killpg(child.pid, signal.SIGKILL)
            for stream in (child.stdin, child.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
            with contextlib.suppress(OSError):
                processor_s = _reap(child)
    return ChildEnd(child.returncode if has_ended else None, output, processor_s)


def _reap(child: subprocess.Popen[bytes]) -> float:
    """Wait for what was killed; what it took of the processor's time."""
    ended = os.pidfd_open(child.pid)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(ended, selectors.EVENT_READ)
            selector.select(_END_S)
    finally:
        os.close(ended)
    number, status, used = os.wait4(child.pid, os.WNOHANG)
    if number:
        child.returncode = os.waitstatus_to_exitcode(status)
    return used.ru_utime + used.ru_stime


def _build_environment() -> dict[str, str]:
    home = os.environ.get("HOME", "/")
    return {"PATH": _PATH, "LC_ALL": "C.UTF-8", "HOME": home if home.startswith("/") else "/"}


def _limit_process(number: int, limits: ChildLimits) -> None:
    with contextlib.suppress(OSError):  # it has ended already, or /proc is not ours to write to
        # Where the machine runs out of memory, it goes, and all that it starts, before anything that is kept.
        Path(f"/proc/{number}/oom_score_adj").write_text("1000")
    with contextlib.suppress(OSError):  # the same, or it may not be; its limits are set all the same
        if limits.niceness:
            os.setpriority(os.PRIO_PROCESS, number, limits.niceness)
    with contextlib.suppress(OSError):  # it has ended already
        resource.prlimit(number, resource.RLIMIT_CPU, (limits.processor_s, limits.processor_s))
        if limits.memory is not None:
            resource.prlimit(number, resource.RLIMIT_AS, (limits.memory, limits.memory))
        if limits.data is not None:
            resource.prlimit(number, resource.RLIMIT_DATA, (limits.data, limits.data))


def _exchange(child: subprocess.Popen[bytes], given: bytes, limits: ChildLimits) -> tuple[bytes, bool]:
    """Give it what it is to read, and take what it prints; that, and whether it has ended by itself."""
    assert child.stdin is not None
    assert child.stdout is not None
    until = time.monotonic() + limits.wait_s
    ended = os.pidfd_open(child.pid)
    taken, printed, wanted = bytearray(), child.stdout.fileno(), child.stdin.fileno()
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
                if printed in ready or ended in ready:
                    piece = _take(printed)
                    taken += piece[: limits.output - len(taken)]
                    if not piece and printed in ready:
                        selector.unregister(printed)
                if ended in ready:  # what it has left behind may print for ever
                    return bytes(taken), True
        return bytes(taken), False
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
