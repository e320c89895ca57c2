"""Runs commands of qmesh, and scripts, by forking: what they import is imported once, not once for each.

Started by `tests/support/lab/fork_server.py`, with a socket as standard input. A message of it has a
command's words, its variables, and descriptors: standard input, output and error, and the machine's
namespaces. It is answered with the command's process number. The process is a child of whoever started
this one, in the machine, in a session of its own. Of what a shell would start it differs in what has been
imported, and in /proc/PID/cmdline.

The agent and the holder that a command leaves behind are forked here too, unless the message says that they
are to be started: the command asks for them by another socket. /proc/PID/cmdline has their words. An agent
that is forked proves nothing by itself: it would take a tenth of the processor's time of all tests.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import math
import os
import pkgutil
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Final, NoReturn

import qmesh
from qmesh.cli import main

_ASKING: Final = 63
"""Where a command has the socket by which it asks. No other descriptor of the server is as high."""
_HOLDER: Final = f"{Path(qmesh.__path__[0])}/host/lean/hold.py"
"""The program that holds the guard; versions before have none, and a command in its place."""
_NAMESPACES: Final = ("pid", "mnt", "net", "uts", "ipc")
_CLONE3 = 435
_CLONE_PARENT = 0x8000
_NEW_PID_NAMESPACE = 0x20000000
_SET_NAME = 15

# With the interpreter's lock held: the child has no thread but this one, which has to have it.
_libc = ctypes.PyDLL(None, use_errno=True)


def succeed(result: int) -> int:
    """What a system call gave. Raises OSError."""
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def fork_sibling() -> int:
    """As os.fork(), but the new process's parent is this one's."""
    arguments = struct.pack("8Q", _CLONE_PARENT, *[0] * 7)
    ctypes.pythonapi.PyOS_BeforeFork()
    process = succeed(_libc.syscall(_CLONE3, arguments, len(arguments)))
    if process:
        ctypes.pythonapi.PyOS_AfterFork_Parent()
    else:
        ctypes.pythonapi.PyOS_AfterFork_Child()
    return process


def fork_orphan(asker: int) -> int:
    """As os.fork(), but the new process's parent is the machine's first. The asker is told its number."""
    between = os.fork()
    if between:
        os.waitpid(between, 0)
        return between
    process = os.fork()
    if process:
        with socket.socket(fileno=asker) as answer:
            socket.send_fds(answer, [str(process).encode()], [os.pidfd_open(process)])
        os._exit(0)
    return 0


def serve(requests: socket.socket) -> bool:
    """Fork for each request. Returns True in a new process, False in this one at the end."""
    own = os.open("/proc/self/ns/pid", os.O_RDONLY)
    asked, asking = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with asking:
        os.dup2(asking.fileno(), _ASKING, inheritable=False)
    while True:
        asker = select.select([requests, asked], [], [])[0][0]
        message, descriptors, *_ = socket.recv_fds(asker, 1 << 17, 16)
        if not message:
            return False
        is_command = asker is requests
        succeed(_libc.setns(descriptors[3], _NEW_PID_NAMESPACE))
        process = fork_sibling() if is_command else fork_orphan(descriptors[-1])
        if not process:
            for each in (requests, asked):
                each.detach()
            wanted = json.loads(message)
            become(wanted["words"], wanted["variables"], descriptors[:3], descriptors[4:8])
            (become_command if is_command else become_resident)(wanted)
            return True
        succeed(_libc.setns(own, _NEW_PID_NAMESPACE))  # else the machine's would not end
        for descriptor in descriptors:
            os.close(descriptor)
        if is_command:
            requests.send(str(process).encode())


def become(
    command: Sequence[str], variables: Mapping[str, str], streams: Sequence[int], namespaces: Sequence[int]
) -> None:
    """Have this process be as if one of the machine had started it."""
    os.setsid()
    for namespace in namespaces:
        succeed(_libc.setns(namespace, 0))
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.closerange(3, _ASKING)
    os.closerange(_ASKING + 1, 1 << 16)
    os.environ.clear()
    os.environ.update(variables)
    sys.argv[:] = command
    sys.orig_argv[:] = [sys.executable, *command]


def become_command(wanted: Mapping[str, Any]) -> None:
    """As nsenter --wdns=/root and a shell make it."""
    os.chdir("/root")
    is_script = sys.argv[0] == "python"
    sys.path.insert(0, "" if is_script else str(Path(sys.argv[0]).parent))
    succeed(_libc.prctl(_SET_NAME, b"python" if is_script else b"qmesh", 0, 0, 0))
    background = sys.modules.get("qmesh.host.system.background")
    if wanted["forks"] and background:
        background.subprocess = SimpleNamespace(Popen=Resident, DEVNULL=subprocess.DEVNULL)  # type: ignore[attr-defined]
    else:
        os.close(_ASKING)


def become_resident(wanted: Mapping[str, Any]) -> None:
    """As the command's Popen makes it."""
    os.close(_ASKING)
    os.chdir(wanted["directory"])
    if _HOLDER in sys.argv:
        del sys.argv[: sys.argv.index(_HOLDER)]
    else:
        sys.argv[: sys.argv.index("qmesh") + 1] = [f"{Path(qmesh.__path__[0])}/__main__.py"]
    if schedule := sys.modules.get("qmesh.mesh.standing_proof.schedule"):  # older versions have none
        schedule.FIRST_S = math.inf  # type: ignore[attr-defined]
    succeed(_libc.prctl(_SET_NAME, Path(sys.executable).name.encode(), 0, 0, 0))
    # Where the kernel has the words, see proc(5); those of the server are more.
    start, end = map(int, Path("/proc/self/stat").read_text("utf-8").rpartition(")")[2].split()[45:47])
    ctypes.memmove(
        start,
        "".join(f"{word}\0" for word in wanted["words"]).encode().ljust(end - start, b"\0"),
        end - start,
    )


class Resident:
    """A process that goes on when the command has ended: as much of Popen as qmesh needs for it."""

    def __init__(self, words: Sequence[str], *, env: Mapping[str, str], cwd: str, **streams: Any) -> None:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        log = streams["stdout"].fileno()
        given = [
            os.open(path, os.O_RDONLY)
            for path in (os.devnull, *(f"/proc/self/ns/{kind}" for kind in _NAMESPACES))
        ]
        message = json.dumps({"words": words, "variables": dict(env), "directory": cwd}).encode()
        with ours, socket.socket(fileno=os.dup(_ASKING)) as server:
            with its:
                socket.send_fds(server, [message], [given[0], log, log, *given[1:], its.fileno()])
            for descriptor in given:
                os.close(descriptor)
            number, (self._end,), *_ = socket.recv_fds(ours, 64, 1)
        self.pid = int(number)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Not None when it has ended; how it did, its parent knows."""
        if self.returncode is None and select.select([self._end], [], [], 0)[0]:
            self.returncode = 1
        return self.returncode

    def kill(self) -> None:
        """End it."""
        signal.pidfd_send_signal(self._end, signal.SIGKILL)

    def wait(self) -> None:
        """Until it has ended."""
        select.select([self._end], [], [])


def run_program() -> NoReturn:
    """Run it, and end as an interpreter does, but for taking apart what was imported: that takes longer."""
    try:
        if sys.argv[0] == _HOLDER:
            sys.exit(importlib.import_module("qmesh.host.lean.hold").main(sys.argv[2]))
        run_script() if sys.argv[0] == "python" else main()
        sys.exit(0)
    except SystemExit as ended:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)  # noqa: T201 - as an interpreter does
        sys.stderr.flush()
        os._exit(ended.code if isinstance(ended.code, int) else bool(ended.code))


def run_script() -> None:
    """Run what follows `python`: a file, or `-c` and a text."""
    _, *sys.argv[:] = sys.argv
    program = sys.modules["__main__"] = ModuleType("__main__")
    place = "<string>" if sys.argv[0] == "-c" else sys.argv[0]
    text = sys.argv.pop(1) if sys.argv[0] == "-c" else Path(place).read_text("utf-8")
    try:
        exec(compile(text, place, "exec"), vars(program))  # noqa: S102 - it is a test's own
    except Exception:  # noqa: BLE001 - an interpreter says any
        sys.excepthook(*sys.exc_info())
        sys.exit(1)


def run() -> None:
    """Import all that commands import, and what many scripts do, and serve."""
    for module in pkgutil.walk_packages(qmesh.__path__, "qmesh."):
        if module.name != "qmesh.__main__":
            importlib.import_module(module.name)
    with contextlib.suppress(ImportError):  # where another version of qmesh is installed
        importlib.import_module("tests.support.lab.programs.node")
    gc.freeze()  # a child that collects would else copy all of it
    if serve(socket.socket(fileno=0)):
        run_program()


if __name__ == "__main__":
    run()
