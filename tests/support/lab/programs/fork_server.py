"""Runs commands of qmesh by forking: what a command imports is imported once, not once for each.

Started by `tests/support/lab/fork_server.py`, with a socket as standard input. A message of it has a
command's words, its variables, and descriptors: standard input, output and error, and the machine's
namespaces. It is answered with the command's process number. The process is a child of whoever started
this one, in the machine, in a session of its own. Of what a shell would start it differs in what has been
imported, and in /proc/PID/cmdline.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import socket
import struct
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import qmesh
from qmesh.cli import main

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


def enter(namespaces: Sequence[int]) -> None:
    """Be in these, as nsenter --wdns=/root makes it."""
    for namespace in namespaces:
        succeed(_libc.setns(namespace, 0))
    os.chdir("/root")


def become(command: Sequence[str], variables: dict[str, str], descriptors: Sequence[int]) -> None:
    """Have this process be as if a shell of the machine had started it."""
    streams, namespaces = descriptors[:3], descriptors[3:]
    os.setsid()
    enter(namespaces)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.closerange(3, max(descriptors) + 1)
    os.environ.clear()
    os.environ.update(variables)
    sys.argv[:] = command
    sys.orig_argv[:] = [sys.executable, *command]
    sys.path.insert(0, str(Path(command[0]).parent))
    succeed(_libc.prctl(_SET_NAME, b"qmesh", 0, 0, 0))


def serve(requests: socket.socket) -> bool:
    """Fork for each request. Returns True in a new process, False in this one at the end."""
    own = os.open("/proc/self/ns/pid", os.O_RDONLY)
    while True:
        message, descriptors, *_ = socket.recv_fds(requests, 1 << 17, 8)
        if not message:
            return False
        wanted = json.loads(message)
        pid_namespace = descriptors.pop()
        succeed(_libc.setns(pid_namespace, _NEW_PID_NAMESPACE))
        process = fork_sibling()
        if not process:
            become(wanted["words"], wanted["variables"], descriptors)
            return True
        succeed(_libc.setns(own, _NEW_PID_NAMESPACE))  # else the machine's would not end
        for descriptor in (pid_namespace, *descriptors):
            os.close(descriptor)
        requests.send(str(process).encode())


def run_command() -> NoReturn:
    """Run it, and end as an interpreter does, but for taking apart what was imported: that takes longer."""
    try:
        main()
    except SystemExit as ended:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended.code if isinstance(ended.code, int) else bool(ended.code))


def run() -> None:
    """Import all that commands import, and serve."""
    for module in pkgutil.walk_packages(qmesh.__path__, "qmesh."):
        if module.name != "qmesh.__main__":
            importlib.import_module(module.name)
    gc.freeze()  # a child that collects would else copy all of it
    requests = socket.socket(fileno=0)
    is_command = serve(requests)
    requests.detach()
    if is_command:
        run_command()


if __name__ == "__main__":
    run()
