"""A process in network namespaces of its own, which end with it, whatever ends it.

They have no name, no mount, no file. The process is a copy of this one that has left the machine's namespace,
closed all that it inherited, and looked that it is elsewhere, before it does anything. It ends with the one
that began it. Source: namespaces(7), unshare(2), PR_SET_PDEATHSIG(2const).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NoReturn, TypeAlias, TypeVar, cast

import msgspec

from qmesh.errors import BadInput, KernelRefused, MachineRefused, NeedsRoot, describe_unexpected_error
from qmesh.host.firewall import nftables
from qmesh.mesh.decode import Malformed, decode_msgpack

_T = TypeVar("_T")
_NEW_NETWORK: Final = 0x40000000  # CLONE_NEWNET
_DIE_WITH_PARENT: Final = 1  # PR_SET_PDEATHSIG
_OWN: Final = "/proc/thread-self/ns/net"
_libc: Final = ctypes.CDLL(None, use_errno=True)
Identity: TypeAlias = tuple[int, int]
"""Of a namespace: device and inode of its file."""


class _Failure(msgspec.Struct, tag="failed"):
    message: str
    hint: str
    is_input: bool = False


class _Done(msgspec.Struct, tag="done"):
    octets: bytes


_Answer: TypeAlias = _Failure | _Done


class Namespaces:
    """Two network namespaces: `copy`, where this process is, and `outside`, for what is at the other ends."""

    def __init__(self, live: Identity) -> None:
        """live: the machine's own. Raises KernelRefused where this process is still in it."""
        self._live = live
        self._identities: dict[str, Identity] = {}
        self._files = {name: self._make(name) for name in ("outside", "copy")}

    def _make(self, name: str) -> int:
        _call("unshare", _NEW_NETWORK)
        identity = read_identity()
        if identity == self._live or identity in self._identities.values():
            raise KernelRefused(
                "the kernel gave the drill no network namespace of its own; nothing was loaded",
                hint="please report it, with the output of `uname -r`",
            )
        self._identities[name] = identity
        return os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)

    def get_file(self, name: str) -> int:
        """The open file of one of the two."""
        return self._files[name]

    def verify_copy(self) -> None:
        """Raise KernelRefused unless this process is in the copy: to be asked before anything is changed."""
        self._verify("copy")

    def _verify(self, name: str) -> None:
        found = read_identity()
        if found == self._live or found != self._identities[name]:
            raise KernelRefused(
                "the drill is not in its own network namespace, and stopped before it changed anything there",
                hint="please report it, with the output of `uname -r`",
            )

    @contextlib.contextmanager
    def enter_outside(self) -> Iterator[None]:
        """What is opened in this block belongs to the other ends."""
        try:
            _call("setns", self._files["outside"], _NEW_NETWORK)
            self._verify("outside")
            yield
        finally:
            _call("setns", self._files["copy"], _NEW_NETWORK)
            self._verify("copy")


def read_identity() -> Identity:
    """Which network namespace this thread is in."""
    found = Path(_OWN).stat()
    return found.st_dev, found.st_ino


def run_in_namespaces(work: Callable[[Namespaces], _T], kind: Any, *, timeout_s: float) -> _T:
    """What the work returns, done by another process in namespaces of its own; it ends with this block.

    kind: the type of what the work returns, which comes back as MessagePack. Raises MachineRefused, also
    where the work raises it or takes too long, and BadInput where the work does.
    """
    live, parent = read_identity(), os.getpid()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _be_child(work, writing, live, parent)
    try:
        os.close(writing)
        octets = _read_all(reading, timeout_s)
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    try:
        answer: _Answer = decode_msgpack(octets, cast("Any", _Answer))
    except Malformed:
        raise KernelRefused(
            "the drill's process was killed; the machine is as it was",
            hint="look at `dmesg`, whether memory ran out, and run `qmesh drill` again",
        ) from None
    if isinstance(answer, _Failure):
        raise (BadInput if answer.is_input else MachineRefused)(answer.message, hint=answer.hint)
    found: _T = decode_msgpack(answer.octets, kind)
    return found


def _read_all(reading: int, timeout_s: float) -> bytes:
    octets, until = b"", time.monotonic() + timeout_s
    while select.select([reading], [], [], max(0.0, until - time.monotonic()))[0]:
        part = os.read(reading, 1 << 16)
        if not part:
            return octets
        octets += part
    raise MachineRefused(
        f"the drill took more than {timeout_s:.0f} s, and was stopped; the machine is as it was",
        hint="run `qmesh drill` again when the machine has less to do",
    )


def _be_child(work: Callable[[Namespaces], object], writing: int, live: Identity, parent: int) -> NoReturn:
    code = 1
    try:
        _call("prctl", _DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal tells both; this one ends with the other
        if os.getppid() == parent:
            _leave_behind(writing)
            _send(writing, _do(work, live))
            code = 0
    finally:
        os._exit(code)


def _leave_behind(writing: int) -> None:
    """Keep no socket of the machine's own namespace: what was loaded before would go on speaking to it."""
    nftables.forget_library()
    for first, end in ((3, writing), (max(3, writing + 1), os.sysconf("SC_OPEN_MAX"))):
        os.closerange(first, end)


def _do(work: Callable[[Namespaces], object], live: Identity) -> _Answer:
    try:
        return _Done(msgspec.msgpack.encode(work(Namespaces(live))))
    except (BadInput, MachineRefused) as error:
        return _Failure(error.message, error.hint, isinstance(error, BadInput))
    except PermissionError as error:
        needs = NeedsRoot(
            f"network namespaces can't be made here: {error.strerror}",
            hint="run it as root; a container needs CAP_SYS_ADMIN and CAP_NET_ADMIN for it",
        )
        return _Failure(needs.message, needs.hint)
    except Exception as error:  # noqa: BLE001 - told by the other process
        trace = describe_unexpected_error(error)
        return _Failure(f"the drill failed: {trace}", "please report it; the machine is as it was")


def _send(writing: int, answer: _Answer) -> None:
    octets = msgspec.msgpack.encode(answer)
    while octets:
        octets = octets[os.write(writing, octets) :]


def _call(name: str, *arguments: int) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
