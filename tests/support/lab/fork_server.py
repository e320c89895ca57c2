"""Where the first processes of machines, and commands and scripts that tests run to their end, come from.

The start of a Python with all that a command imports takes four times as long as what most commands do, and
tests run thousands of them. Programs that measure or show commands do not call `enable`, and start each.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

PROGRAM: Final = Path(__file__).with_name("programs") / "fork_server.py"
FIRST: Final = PROGRAM.with_name("pid1.py")

CONTROL: Final = PROGRAM.with_name("control.py")
"""The one program of the lab that many tests run, and whose process none looks at."""

_ROOM: Final = " " * 400
"""A word for what it forks to have its own words in: those of an agent take less."""

_enabled: list[bool] = []
_residents_start: list[bool] = []
_servers: dict[Path, socket.socket] = {}
"""By where their qmesh is installed, and by their program."""
_one_at_a_time = threading.Lock()


def enable() -> None:
    """Have commands be forked from now on in this process, but where QMESH_TEST_STARTS=1."""
    _enabled[:] = [os.environ.get("QMESH_TEST_STARTS") != "1"]


@contextlib.contextmanager
def residents_start() -> Iterator[None]:
    """While the block runs, each agent and holder that a command leaves behind is started, not forked."""
    _residents_start.append(True)
    try:
        yield
    finally:
        _residents_start.pop()


def can_fork(words: Sequence[str], variables: Mapping[str, str] | None) -> bool:
    """Whether a command may be forked: not where how it starts matters, or who looks at its process."""
    is_own = words[0] == "qmesh" and words[1:2] not in (["agent"], ["hold"], ["undo"], ["ready"])
    is_script = words[0] == "python" and words[1] in {"-c", str(CONTROL)}
    return any(_enabled) and (is_own or is_script) and not variables


def fork(
    words: Sequence[str],
    variables: Mapping[str, str],
    machine: int,
    streams: Sequence[int],
    *,
    version: Path,
) -> int:
    """Fork a command of qmesh, or a script of Python's, in a machine; its process number.

    It is a child of this process.

    machine: the number of a process in it. streams: standard input, output and error.
    version: where that qmesh is installed.
    """
    is_own = words[0] == "qmesh"
    command = [f"{version}/bin/qmesh", *words[1:]] if is_own else list(words)
    version = version if is_own else Path(sys.prefix)
    wanted = {"words": command, "variables": dict(variables), "forks": not _residents_start}
    message = json.dumps(wanted).encode()
    namespaces = [
        os.open(f"/proc/{machine}/ns/{kind}", os.O_RDONLY) for kind in ("pid", "mnt", "net", "uts", "ipc")
    ]
    try:
        with _one_at_a_time:
            server = _find_server(version, [_python_of(version), "-P", str(PROGRAM), _ROOM], variables)
            socket.send_fds(server, [message], [*streams, *namespaces])
            answer = server.recv(64)
    finally:
        for namespace in namespaces:
            os.close(namespace)
    if not answer:
        raise RuntimeError(f"{PROGRAM.name} ended: what it said is above")
    return int(answer)


def boot(wanted: str) -> First | None:
    """Fork a machine's first process, see pid1.py; None where it is to be started."""
    if not any(_enabled):
        return None
    its_input, stdin = os.pipe()
    stdout, its_output = os.pipe()
    try:
        with _one_at_a_time:
            server = _find_server(FIRST, [sys.executable, "-I", "-S", str(FIRST)], {})
            socket.send_fds(server, [wanted.encode()], [its_input, its_output])
            number, ends, *_ = socket.recv_fds(server, 64, 1)
    finally:
        os.close(its_input)
        os.close(its_output)
    if not number:
        raise RuntimeError(f"{FIRST.name} ended: what it said is above")
    return First(int(number), ends[0], stdin, stdout)


class First:
    """A machine's first process: as much of Popen as a lab needs of it."""

    def __init__(self, pid: int, end: int, stdin: int, stdout: int) -> None:
        self.pid = pid
        self.stdin: IO[bytes] = os.fdopen(stdin, "wb")
        self.stdout: IO[bytes] = os.fdopen(stdout, "rb")
        self._end = end

    def kill(self) -> None:
        """End it, and with it its machine."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._end, signal.SIGKILL)

    def wait(self, timeout: float) -> None:
        """Until all of its machine has ended. Raises TimeoutExpired."""
        if not select.select([self._end], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired([str(FIRST)], timeout)
        os.close(self._end)


def _python_of(version: Path) -> str:
    return sys.executable if version == Path(sys.prefix) else f"{version}/venv/bin/python"


def _find_server(name: Path, words: list[str], variables: Mapping[str, str]) -> socket.socket:
    """The server of that name of this process, started where there is none. It ends when this process does.

    variables: those of commands, as what is imported may look at them.
    """
    if name not in _servers:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            os.posix_spawn(
                words[0],
                words,
                dict(variables),
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, its.fileno(), 0),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                ],
                setsid=True,
                setsigdef=[signal.SIGINT],
            )
        _servers[name] = ours
    return _servers[name]


def _forget_servers() -> None:
    while _servers:
        _servers.popitem()[1].close()


# In a test's own machine processes have other numbers: a server that is outside is none of its.
os.register_at_fork(after_in_child=_forget_servers)
