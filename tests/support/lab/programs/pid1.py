"""The first process of a lab machine: makes its file system, then reaps orphans.

Runs in fresh mount, network, UTS, IPC and PID namespaces, with the standard library only. It
ends when its standard input does, which is when the lab is closed or its Python process is
dead, however it died; the kernel then ends every other process of the machine, and the
namespaces go with them.

Argument: a JSON object of `name` (the host name) and `keep` (directories that stay visible
although they lie where the machine has a file system of its own). Writes `ready` once the
machine can be used.

Without an argument it forks such processes, each in new namespaces, for whoever has the other end of the
socket that is its standard input: a message of it has the JSON object, and the descriptors of what is to be
standard input and output. It is answered with the process's number and a descriptor of it.
"""

# ruff: noqa: T201  # a program of the lab, it prints its answer

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import sys
from pathlib import Path

NOSUID_NODEV = 0x2 | 0x4
READ_ONLY, REMOUNT, BIND, RECURSIVE, PRIVATE = 0x1, 0x20, 0x1000, 0x4000, 0x40000
NEW_PIDS, NEW_OTHERS = 0x20000000, 0x20000 | 0x4000000 | 0x8000000 | 0x40000000
"""Of namespaces: PID, and mount, UTS, IPC, network."""

OWN = {"/run": "0755", "/tmp": "1777", "/root": "0700", "/dev/shm": "1777"}
"""Directories that begin empty on every machine, with their modes."""

COPIED_ON_WRITE = ("/etc", "/var/lib")
"""Directories that begin as the host's; what the machine writes there stays in the machine."""

NETWORK_DEFAULTS = {"disable_ipv6": 0, "accept_dad": 0, "accept_ra": 0, "addr_gen_mode": 1}
"""IPv6 with addresses that work at once, and none but those that the lab gives."""

_libc = ctypes.CDLL(None, use_errno=True)


def succeed(result: int, what: str, path: str = "") -> None:
    """What a system call gave. Raises OSError with the path's name."""
    if result:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}", path)


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Mount, see mount(2). Raises OSError with the target's name."""
    arguments = (source.encode(), target.encode(), kind.encode(), flags, options.encode())
    succeed(_libc.mount(*arguments), f"mount {kind or source}", target)


def open_hidden(directories: list[str]) -> dict[str, int]:
    """A descriptor of each directory that the machine's own file systems would hide.

    One inside another (a .venv in its checkout) comes along with it.
    """
    hidden: list[Path] = []
    for directory in sorted(map(Path, directories)):
        is_hidden = any(directory.is_relative_to(own) for own in OWN)
        if is_hidden and not any(directory.is_relative_to(outer) for outer in hidden):
            hidden.append(directory)
    return {str(directory): os.open(directory, os.O_PATH) for directory in hidden}


def make_file_systems(keep: list[str]) -> None:
    """Give the machine its own /proc, /sys, /run, /tmp, /root, /etc and /var/lib."""
    kept = open_hidden(keep)
    mount("proc", "/proc", "proc", NOSUID_NODEV)
    mount("sysfs", "/sys", "sysfs", NOSUID_NODEV)
    protect_sysctls()
    mount("tmpfs", "/tmp", "tmpfs", NOSUID_NODEV)
    for directory in COPIED_ON_WRITE:
        copy_on_write(directory)
    for directory, mode in OWN.items():
        mount("tmpfs", directory, "tmpfs", NOSUID_NODEV, f"mode={mode}")
    Path("/var/lib/qmesh").mkdir(mode=0o700, exist_ok=True)
    mount("tmpfs", "/var/lib/qmesh", "tmpfs", NOSUID_NODEV, "mode=0700")
    for directory, descriptor in kept.items():
        Path(directory).mkdir(parents=True)
        mount(f"/proc/self/fd/{descriptor}", directory, flags=BIND | RECURSIVE)
        os.close(descriptor)


def protect_sysctls() -> None:
    """Leave writable only the sysctls that belong to the machine's own network namespace."""
    mount("/proc/sys/net", "/proc/sys/net", flags=BIND)
    mount("/proc/sys", "/proc/sys", flags=BIND | RECURSIVE)
    mount("", "/proc/sys", flags=BIND | REMOUNT | READ_ONLY)


def copy_on_write(directory: str) -> None:
    """Lay an overlay over a directory; its upper half is in the tmpfs on /tmp at this moment."""
    upper, work = (Path("/tmp", directory.replace("/", "_"), part) for part in ("upper", "work"))
    upper.mkdir(parents=True, mode=0o755)
    work.mkdir()
    mount("overlay", directory, "overlay", 0, f"lowerdir={directory},upperdir={upper},workdir={work}")


def make_identity(name: str) -> None:
    """Host name, and an IPv6 that is quick to set up."""
    socket.sethostname(name)
    Path("/etc/hostname").write_text(f"{name}\n", encoding="utf-8")
    Path("/etc/hosts").write_text(f"127.0.0.1 localhost {name}\n::1 localhost\n", encoding="utf-8")
    for key, value in NETWORK_DEFAULTS.items():
        for scope in ("all", "default"):
            Path(f"/proc/sys/net/ipv6/conf/{scope}/{key}").write_text(str(value), encoding="ascii")


def reap() -> None:
    """Collect every process that ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def reap_until_closed() -> None:
    """Collect orphans until the lab lets go of our standard input."""
    wake, wakened = os.pipe()
    os.set_blocking(wakened, False)
    signal.set_wakeup_fd(wakened, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        reap()
        readable, _, _ = select.select([0, wake], [], [])
        if 0 in readable and not os.read(0, 1):
            return
        if wake in readable:
            os.read(wake, 4096)


def be_first(wanted: str) -> None:
    """Make the machine, say so, stay until the lab closes."""
    machine = json.loads(wanted)
    os.umask(0o022)
    make_file_systems(machine["keep"])
    make_identity(machine["name"])
    os.chdir("/")
    print("ready", flush=True)
    reap_until_closed()


def enter_namespaces(streams: list[int]) -> None:
    """Be in new namespaces, with these streams and no other descriptor: as unshare(1) has it."""
    os.setsid()
    for number, stream in enumerate([*streams, streams[1]]):
        os.dup2(stream, number)
    os.closerange(3, max(streams) + 1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    succeed(_libc.unshare(NEW_OTHERS), "unshare")
    mount("none", "/", flags=RECURSIVE | PRIVATE)


def serve(requests: socket.socket) -> str:
    """Fork for each message. Returns it in the new process, and "" in this one at the end."""
    own = os.open("/proc/self/ns/pid", os.O_RDONLY)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # whoever asked waits for them
    while True:
        message, streams, *_ = socket.recv_fds(requests, 1 << 16, 8)
        if not message:
            return ""
        succeed(_libc.unshare(NEW_PIDS), "unshare")
        process = os.fork()
        if not process:
            requests.detach()
            enter_namespaces(streams)
            return message.decode()
        succeed(_libc.setns(own, NEW_PIDS), "setns")
        end = os.pidfd_open(process)
        socket.send_fds(requests, [str(process).encode()], [end])
        for descriptor in (end, *streams):
            os.close(descriptor)


def main() -> None:
    """As the module's docstring says."""
    wanted = sys.argv[1] if sys.argv[1:] else serve(socket.socket(fileno=0))
    if wanted:
        be_first(wanted)


if __name__ == "__main__":
    main()
