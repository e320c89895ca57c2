"""Userspace WireGuard: `wireguard-go`, a process behind a TUN interface. Source: its README.

The process outlives us, and is found again by its socket.
"""

from __future__ import annotations

import errno
import os
import shlex
import subprocess
from collections.abc import Sequence
from itertools import chain
from typing import Final

from qmesh.errors import KernelRefused, MachineRefused, MissingProgram, NeedsRoot
from qmesh.host.network import links
from qmesh.host.network.netlink import build_kernel_error, translate_errors
from qmesh.host.system import heartbeat, processes, programs
from qmesh.host.system.process_end import wait_for_child, wait_for_exit
from qmesh.host.wireguard import uapi
from qmesh.host.wireguard.device import Device, add_known_endpoint, port_hint, refuse_taken_port
from qmesh.mesh.state import Peer
from qmesh.mesh.values import InterfaceKind, Secret, quote_text

PROGRAM: Final = "wireguard-go"
START_TIMEOUT_S = 30.0
END_TIMEOUT_S = 10.0
_IF_PARENT_LIVES: Final = '[ "$PPID" = "$1" ] && shift && exec "$@"'
"""It may have ended before the signal was asked for."""


def find_program() -> str:
    """Where wireguard-go is. Raises MissingProgram."""
    found = programs.find_program(PROGRAM)
    if found is None:
        raise MissingProgram(
            f"this kernel has no WireGuard, and {PROGRAM} is not installed",
            hint=f"run `apt-get install {PROGRAM}`, then the same command again",
        )
    return found


class UserspaceWireGuard:
    """WireGuard by one `wireguard-go` process for each interface."""

    kind: InterfaceKind = "tun"

    def create(self, interface: str) -> None:
        if links.read(interface) is not None:
            raise build_kernel_error(errno.EEXIST, f"create {interface}")
        # A process whose interface was just deleted is about to end.
        if not _wait_for_end(interface, timeout_s=2):
            raise _build_elsewhere_error(interface)
        _remove_dead_socket(interface)
        try:
            _require_answer(interface, _start_process(interface))
        except BaseException:  # Ctrl-C too: a daemon that is half started would go on by itself
            if links.read(interface) is not None:
                links.delete(interface)
            raise

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


def _start_process(interface: str) -> str:
    """Start the process, which leaves a daemon behind that listens, and return what it printed."""
    words = _tie_to_own_life((find_program(), interface))
    # The daemon may keep what it prints to: neither our output nor a pipe, or it would hold our caller.
    with os.fdopen(os.memfd_create(PROGRAM), "w+b") as output:
        try:
            starting = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=programs.DIRECTORY,
                env=_build_environment(),
                start_new_session=True,
            )
        except OSError as error:
            raise _build_start_error(interface, type(error).__name__) from None
        try:
            with heartbeat.allow_wait(START_TIMEOUT_S):
                has_ended = wait_for_child(starting, START_TIMEOUT_S)
        finally:
            starting.kill()
            starting.wait()
        output.seek(0)
        printed = _last_line(output.read())
    if not has_ended:
        printed = f"not done within {START_TIMEOUT_S:.0f} s"
    if starting.returncode != 0:
        raise _build_start_error(interface, printed)
    return printed


def _tie_to_own_life(words: tuple[str, ...]) -> tuple[str, ...]:
    """The words that start a program which is killed when this thread ends; its daemon is not.

    A start that goes on by itself would make the interface after that was rolled back. Source: setpriv(1).
    """
    setpriv = programs.find_program("setpriv")
    if setpriv is None:
        return words
    return (setpriv, "--pdeathsig=KILL", "/bin/sh", "-c", _IF_PARENT_LIVES, PROGRAM, str(os.getpid()), *words)


def _build_environment() -> dict[str, str]:
    """Ours, without what would make wireguard-go stay in the foreground, or print all its life."""
    ours = ("LOG_LEVEL", "WG_PROCESS_FOREGROUND", "WG_TUN_FD", "WG_UAPI_FD")
    return {name: value for name, value in os.environ.items() if name not in ours}


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


def _require_answer(interface: str, printed: str) -> None:
    """See that the daemon answers: the socket was listened on before its starter ended."""
    if not uapi.is_responding(interface):
        raise _build_start_error(interface, printed)
    uapi.read_device(interface)


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
