"""Userspace WireGuard: `wireguard-go`, a process behind a TUN interface. Source: its README.

The process outlives us, and is found again by its socket.
"""

from __future__ import annotations

import errno
import os
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Final

from qmesh.errors import KernelRefused, MachineRefused, MissingProgram, NeedsRoot
from qmesh.host.network import links
from qmesh.host.network.netlink import build_kernel_error, translate_errors
from qmesh.host.system import heartbeat, processes, programs
from qmesh.host.system.process_end import wait_for_child, wait_for_exit
from qmesh.host.wireguard import uapi
from qmesh.host.wireguard.device import Device, add_known_endpoint, port_hint, refuse_taken_port
from qmesh.mesh.own_command import build_environment
from qmesh.mesh.state import Peer
from qmesh.mesh.values import InterfaceKind, Secret, quote_text

PROGRAM: Final = "wireguard-go"
MODULES = Path("/lib/modules")
START_TIMEOUT_S = 30.0
END_TIMEOUT_S = 10.0
ABANDON_TIMEOUT_S = 2.0
"""Somebody waits at a terminal. What is slower has hardly begun with its daemon, and is killed."""
_IF_PARENT_LIVES: Final = '[ "$PPID" = "$1" ] && shift && exec "$@"'
"""It may have ended before the signal was asked for."""


def find_program() -> str:
    """Where wireguard-go is. Raises MissingProgram."""
    found = programs.find_program(PROGRAM)
    if found is None and _are_modules_gone():
        raise MissingProgram(
            f"the running kernel, {os.uname().release}, cannot load WireGuard: its modules are gone, as after"
            f" an update; and {PROGRAM} is not installed",
            hint=f"reboot into the newer kernel; or `apt-get install {PROGRAM}`, then the same command again",
        )
    if found is None:
        raise MissingProgram(
            f"this kernel has no WireGuard, and {PROGRAM} is not installed",
            hint=f"run `apt-get install {PROGRAM}`, then the same command again",
        )
    return found


def _are_modules_gone() -> bool:
    """Whether there are modules of kernels here, and none of the one that runs."""
    try:
        there = [each.name for each in MODULES.iterdir()]
    except OSError:  # a container has none at all
        return False
    return bool(there) and os.uname().release not in there


class UserspaceWireGuard:
    """WireGuard by one `wireguard-go` process for each interface."""

    kind: InterfaceKind = "tun"

    def __init__(self) -> None:
        self._begun: dict[str, _Start] = {}

    @contextmanager
    def begin_creation(self, interface: str) -> Iterator[None]:
        with suppress(MachineRefused):  # `create` says so again
            self._begun[interface] = _begin_start(interface)
        try:
            yield
        finally:
            if (left := self._begun.pop(interface, None)) is not None:
                left.abandon()

    def create(self, interface: str) -> None:
        start = self._begun.pop(interface, None) or _begin_start(interface)
        try:
            start.finish()
        except BaseException:  # Ctrl-C too: a daemon that is half started would go on by itself
            start.abandon()
            raise
        start.close()

    def delete(self, interface: str) -> None:
        if links.read(interface) is not None:
            # wireguard-go ends, and removes its socket, when its interface goes.
            links.delete(interface)
            if not _wait_for_end(interface, timeout_s=END_TIMEOUT_S):
                raise KernelRefused(
                    f"the WireGuard process of {interface} did not end",
                    hint=f"run `fuser -k {uapi.socket_path(interface)}`, which ends it",
                )
        if not uapi.is_responding(interface):
            _remove_dead_socket(interface)

    def read(self, interface: str) -> Device:
        return uapi.read_device(interface)

    def set_key(self, interface: str, private_key: Secret) -> None:
        uapi.configure(interface, uapi.key_lines(private_key))

    def set_listen_port(self, interface: str, port: int) -> None:
        if port not in {0, self.read(interface).listen_port}:
            refuse_taken_port(interface, port)
        uapi.configure(interface, [f"listen_port={port}"], port_hint(port))

    def set_peers(self, interface: str, peers: Sequence[Peer]) -> None:
        uapi.configure(interface, chain.from_iterable(map(uapi.peer_lines, peers)))

    def remove_peers(self, interface: str, public_keys: Sequence[str]) -> None:
        uapi.configure(interface, chain.from_iterable(map(uapi.removal_lines, public_keys)))

    def reset_session(self, interface: str, peer: Peer) -> None:
        whole = add_known_endpoint(peer, self.read(interface))
        uapi.configure(interface, chain(uapi.removal_lines(peer.public_key), uapi.peer_lines(whole)))


def _build_elsewhere_error(interface: str) -> KernelRefused:
    """The refusal where a process serves an interface that is not here, or not by this name."""
    process = processes.find_unix_listener(uapi.socket_path(interface))
    name = None if process is None else processes.find_tun_name(process)
    reason = f"{uapi.socket_path(interface)} belongs to an interface that does not exist here"
    if name is not None and links.read(name) is not None:
        return KernelRefused(
            f"{interface} was renamed to {quote_text(name, 30)}, and its process runs on",
            hint=f"run `ip link delete {shlex.quote(name)}`, then `qmesh apply`, which makes it again; see"
            " what renames it: a .link file of systemd, a udev rule",
        )
    if process is not None and name is not None:
        return KernelRefused(
            f"{reason}: it was moved to another network namespace, or another one's process has this name",
            hint=f"if it was this machine's tunnel, run `kill {process}`, then `qmesh apply`, which makes it"
            " again; else pass another name with --interface",
        )
    return KernelRefused(
        reason, hint="pass another name with --interface: that process may serve another network namespace"
    )


def _begin_start(interface: str) -> _Start:
    """Start the process. Raises KernelRefused where an interface or a process is in its place."""
    if links.read(interface) is not None:
        raise build_kernel_error(errno.EEXIST, f"create {interface}")
    # A process whose interface was just deleted is about to end.
    if not _wait_for_end(interface, timeout_s=2):
        raise _build_elsewhere_error(interface)
    _remove_dead_socket(interface)
    return _Start(interface)


class _Start:
    """A start that is under way: of a process that ends, and leaves a daemon behind that listens."""

    def __init__(self, interface: str) -> None:
        self._interface = interface
        words = _tie_to_own_life((find_program(), interface))
        # The daemon may keep what it prints to: neither our output nor a pipe, or it would hold our caller.
        self._output = os.fdopen(os.memfd_create(PROGRAM), "w+b")
        try:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                cwd=programs.DIRECTORY,
                # Without what would have it stay in the foreground, or print all its life.
                env=build_environment(os.environ),
                start_new_session=True,
            )
        except OSError as error:
            self._output.close()
            raise _build_start_error(interface, type(error).__name__) from None

    def finish(self, *, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until the interface is there and its daemon answers. Raises MachineRefused."""
        with heartbeat.allow_wait(timeout_s):
            has_ended = wait_for_child(self._process, timeout_s)
        self._output.seek(0)
        printed = _last_line(self._output.read()) if has_ended else f"not done within {timeout_s:.0f} s"
        # The socket was listened on before the daemon's starter ended.
        if self._process.returncode != 0 or not uapi.is_responding(self._interface):
            raise _build_start_error(self._interface, printed)
        uapi.read_device(self._interface)

    def close(self) -> None:
        """Have no more to do with it; where it is not done, it is ended."""
        self._process.kill()
        self._process.wait()
        self._output.close()

    def abandon(self) -> None:
        """Leave neither interface nor daemon behind. A daemon that begins would not see its interface go."""
        with suppress(MachineRefused):
            self.finish(timeout_s=ABANDON_TIMEOUT_S)
        self.close()
        if links.read(self._interface) is not None:
            links.delete(self._interface)
            _wait_for_end(self._interface, timeout_s=END_TIMEOUT_S)


def _tie_to_own_life(words: tuple[str, ...]) -> tuple[str, ...]:
    """The words that start a program which is killed when this thread ends; its daemon is not.

    A start that goes on by itself would make the interface after that was rolled back. Source: setpriv(1).
    """
    setpriv = programs.find_program("setpriv")
    if setpriv is None:
        return words
    return (setpriv, "--pdeathsig=KILL", "/bin/sh", "-c", _IF_PARENT_LIVES, PROGRAM, str(os.getpid()), *words)


def _last_line(octets: bytes) -> str:
    lines = [line.strip() for line in octets.decode(errors="replace").splitlines()]
    return quote_text(next((line for line in reversed(lines) if line), "nothing"), 300)


def _build_start_error(interface: str, printed: str) -> MachineRefused:
    reason = f"{PROGRAM} could not make {interface}: {printed}"
    if os.geteuid() != 0:
        return NeedsRoot(reason, hint="run the command as root")
    return KernelRefused(
        reason,
        hint="it needs /dev/net/tun: run `modprobe tun`; in a container it also needs CAP_NET_ADMIN",
    )


def _wait_for_end(interface: str, *, timeout_s: float) -> bool:
    """Whether neither interface nor process is left, within `timeout_s`.

    Where no interface of that name is here, but one listens for it, that one is about to end.
    """
    process = (
        processes.find_unix_listener(uapi.socket_path(interface)) if uapi.is_responding(interface) else None
    )
    if process is not None and not wait_for_exit(process, timeout_s):
        return False
    return links.read(interface) is None and not uapi.is_responding(interface)


def _remove_dead_socket(interface: str) -> None:
    with translate_errors(f"remove {uapi.socket_path(interface)}"):
        uapi.socket_path(interface).unlink(missing_ok=True)
