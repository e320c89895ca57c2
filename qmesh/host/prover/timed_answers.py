"""What a copy of this process finds, one answer after the other, for so long: then it is ended.

So is bounded what can't be interrupted, such as a library at work. It ends with this process, whatever ends
that, and where memory runs out it goes first. Source: PR_SET_PDEATHSIG(2const), proc_pid_oom_score_adj(5).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import select
import signal
import struct
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from qmesh.errors import BadInput, KernelRefused, MachineRefused, QmeshError, build_bug_error
from qmesh.host.unprivileged import become_nobody
from qmesh.mesh.decode import decode_msgpack

_DIE_WITH_PARENT: Final = 1  # PR_SET_PDEATHSIG
_HEAD: Final = struct.Struct("!BI")
_ANSWER, _END, _ERROR = range(3)
_PIECE: Final = 1 << 16
_LIMITS: Final = {
    resource.RLIMIT_DATA: 1 << 30,
    resource.RLIMIT_FSIZE: 0,
    resource.RLIMIT_CORE: 0,
}
"""What a copy without rights may have: five times the memory of the largest proof measured, and no file."""
_libc: Final = ctypes.CDLL(None)


class _ToldError(msgspec.Struct):
    """An error of the copy's, for this process."""

    code: int
    message: str
    hint: str


def collect_answers(work: Callable[[], Iterable[bytes]], *, seconds: float) -> tuple[list[bytes], bool]:
    """What the work yields until then, and whether that is all of it.

    Raises what the work raises of our own errors, and KernelRefused where its process was killed.
    """
    until, parent = time.monotonic() + seconds, os.getpid()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _be_child(work, writing, parent)
    try:
        os.close(writing)
        return _collect(reading, until)
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def drop_rights() -> None:
    """In the copy: be nobody from now on, with little memory, no file and no terminal."""
    parent = os.getppid()
    for limit, most in _LIMITS.items():
        _, hard = resource.getrlimit(limit)
        fitting = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (fitting, fitting))
    os.setsid()  # else it could type into the terminal of who asked
    become_nobody()
    _end_with(parent)  # once more: the kernel has forgotten it, as the user is another


def _end_with(parent: int) -> None:
    _libc.prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


def _collect(reading: int, until: float) -> tuple[list[bytes], bool]:
    answers: list[bytes] = []
    octets = bytearray()
    while select.select([reading], [], [], max(0.0, until - time.monotonic()))[0]:
        piece = os.read(reading, _PIECE)
        if not piece:
            raise KernelRefused(
                "the process that did the work was killed; the machine is as it was",
                hint="look at `dmesg`, whether memory ran out, and run the same command again",
            )
        octets += piece
        while len(octets) >= _HEAD.size:
            kind, count = _HEAD.unpack_from(octets)
            end = _HEAD.size + count
            if len(octets) < end:
                break
            content = bytes(octets[_HEAD.size : end])
            del octets[:end]
            if kind == _END:
                return answers, True
            if kind == _ERROR:
                raise _build_error(decode_msgpack(content, _ToldError))
            answers.append(content)
    return answers, False


def _build_error(failure: _ToldError) -> QmeshError:
    kind = BadInput if failure.code == BadInput.exit_code else MachineRefused
    return kind(failure.message, hint=failure.hint)


def _be_child(work: Callable[[], Iterable[bytes]], writing: int, parent: int) -> NoReturn:
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal tells both; this one ends with the other
        _end_with(parent)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")
        _send_all(work, writing)
    finally:
        os._exit(0)


def _send_all(work: Callable[[], Iterable[bytes]], writing: int) -> None:
    try:
        for answer in work():
            _send(writing, _ANSWER, answer)
    except Exception as error:  # noqa: BLE001 - told by the other process
        told = _explain_failure(error)
        failure = _ToldError(told.exit_code, told.message, told.hint)
        _send(writing, _ERROR, msgspec.msgpack.encode(failure))
        return
    _send(writing, _END, b"")


def _explain_failure(error: Exception) -> QmeshError:
    if isinstance(error, MemoryError):
        return KernelRefused(
            f"the work needs more memory than the {_LIMITS[resource.RLIMIT_DATA] >> 20} MB that it may have;"
            " the machine is as it was",
            hint="find the program that has so many rules: `nft list ruleset`",
        )
    return error if isinstance(error, QmeshError) else build_bug_error(error)


def _send(writing: int, kind: int, content: bytes) -> None:
    octets = _HEAD.pack(kind, len(content)) + content
    while octets:
        octets = octets[os.write(writing, octets) :]
