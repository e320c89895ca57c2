"""Where commands of qmesh that tests run to their end come from.

The start of a Python with all that a command imports takes four times as long as what most commands do, and
tests run thousands of them. Programs that measure or show commands do not call `enable`, and start each.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

PROGRAM: Final = Path(__file__).with_name("programs") / "fork_server.py"

_enabled: list[bool] = []
_servers: dict[Path, socket.socket] = {}
"""By where their qmesh is installed."""
_one_at_a_time = threading.Lock()


def enable() -> None:
    """Have commands be forked from now on in this process, but where QMESH_TEST_STARTS=1."""
    _enabled[:] = [os.environ.get("QMESH_TEST_STARTS") != "1"]


def can_fork(words: Sequence[str], variables: Mapping[str, str] | None) -> bool:
    """Whether a command may be forked: not where how it starts matters, or who looks at its process."""
    is_own = words[0] == "qmesh" and words[1:2] not in (["agent"], ["hold"], ["undo"], ["ready"])
    return any(_enabled) and is_own and not variables


def fork(
    words: Sequence[str],
    variables: Mapping[str, str],
    machine: int,
    streams: Sequence[int],
    *,
    version: Path,
) -> int:
    """Fork a command of qmesh in a machine; its process number. It is a child of this process.

    machine: the number of a process in it. streams: standard input, output and error.
    version: where that qmesh is installed.
    """
    command = [f"{version}/bin/qmesh", *words[1:]]
    message = json.dumps({"words": command, "variables": dict(variables)}).encode()
    namespaces = [
        os.open(f"/proc/{machine}/ns/{kind}", os.O_RDONLY) for kind in ("mnt", "net", "uts", "ipc", "pid")
    ]
    try:
        with _one_at_a_time:
            server = _find_server(variables, version)
            socket.send_fds(server, [message], [*streams, *namespaces])
            answer = server.recv(64)
    finally:
        for namespace in namespaces:
            os.close(namespace)
    if not answer:
        raise RuntimeError(f"{PROGRAM.name} ended: what it said is above")
    return int(answer)


def _find_server(variables: Mapping[str, str], version: Path) -> socket.socket:
    """That version's of this process, started where there is none. It ends when this process does.

    variables: those of commands, as what is imported may look at them.
    """
    if version not in _servers:
        python = sys.executable if version == Path(sys.prefix) else f"{version}/venv/bin/python"
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            os.posix_spawn(
                python,
                [python, "-P", str(PROGRAM)],
                dict(variables),
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, its.fileno(), 0),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                ],
                setsid=True,
                setsigdef=[signal.SIGINT],
            )
        _servers[version] = ours
    return _servers[version]


def _forget_servers() -> None:
    while _servers:
        _servers.popitem()[1].close()


# In a test's own machine processes have other numbers: a server that is outside is none of its.
os.register_at_fork(after_in_child=_forget_servers)
