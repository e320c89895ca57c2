"""The process that holds the guard's second table, and keeps the first.

Only the socket that made a table with an owner can change it, and the table is removed with that socket
(nft(8), "owner"; Linux 5.12). So a process that does little else keeps such a socket open: a flush of all
rules removes the first table and leaves this one (`qmesh.host.firewall.held_table`). It does not parse a
guard: it loads a file of nftables commands when it starts, and again when it is told to. It also restores
the first table from that table's own file (`qmesh.host.firewall.guard_keeper`), at once when the kernel
reports a change, even while the agent waits. It starts before the network at boot, and then reserves
the worker ports as well. It runs as long as its machine, and imports little.
"""

from __future__ import annotations

import contextlib
import ctypes
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from qmesh import __version__
from qmesh.errors import KernelRefused, MachineRefused, QmeshError, StateUnreadable
from qmesh.host.firewall import guard_keeper
from qmesh.host.firewall.guard_keeper import GuardKeeper
from qmesh.host.firewall.held_table import SCRIPT, HeldTable
from qmesh.host.log.events import report_event
from qmesh.host.network import reserved_ports
from qmesh.host.system import processes, unix_socket

SOCKET: Final = "hold.sock"
LOCK: Final = "hold.lock"
"""Its files in the state directory."""
LOAD, END, NOTHING = b"load", b"end", b"nothing"
"""What it can be told. It answers with a line: empty, or why it could not."""
ALTERATIONS: Final = b"alterations"
"""What it can be asked: its line is how often other programs have changed the first table."""
VERSION: Final = b"version"
"""The same: its line is the version of qmesh that it runs. One that is older than that has nothing to say."""
ANSWER_TIMEOUT_S: Final = 20.0
_TAKEN_S: Final = 1.0
"""Seconds for a caller to take an answer of some octets."""
_SAID_S: Final = 5.0

_NAME: Final = b"qmesh-hold"  # at most 15 octets; `nft list` shows it as the table's owner
_SET_NAME: Final = 15  # PR_SET_NAME


def run_holder(directory: Path) -> None:
    """Hold and keep the guard until a signal or `END`. Raises MachineRefused when it cannot be loaded.

    directory: the state directory.
    """
    with processes.acquire_process_lock(directory / LOCK, until_exit=True) as alone:
        if not alone:
            raise MachineRefused(
                "another process holds the guard already",
                hint="nothing to do: `pgrep -a qmesh-hold` shows that process",
            )
        ctypes.CDLL(None).prctl(_SET_NAME, _NAME, 0, 0, 0)
        table = _open_table()
        _load_script(directory, table)
        reserved_ports.restore_ports(directory)
        with _open_socket(directory) as listening:
            if not (directory / SCRIPT).exists():
                return  # it was ended before it could be told so
            holding = _HolderLoop(directory, listening, table)
            holding.keep_first_table()
            processes.notify("READY=1")
            while holding.run_once():
                pass


def _open_table() -> HeldTable:
    """The table of this process, which holds it until it ends."""
    try:
        return HeldTable()
    except OSError as error:
        raise KernelRefused(
            f"nftables cannot be used: {error.strerror}", hint="run `modprobe nf_tables`, and look at `dmesg`"
        ) from None


def _load_script(directory: Path, table: HeldTable) -> None:
    script = guard_keeper.read_script(directory / SCRIPT)
    if script is None:
        raise StateUnreadable(
            f"{directory / SCRIPT} is missing", hint="run `qmesh apply`, which writes it again"
        )
    table.replace(script)


@contextlib.contextmanager
def _open_socket(directory: Path) -> Iterator[socket.socket]:
    with unix_socket.listen(directory, SOCKET) as listening:
        try:
            yield listening
        finally:
            (directory / SOCKET).unlink(missing_ok=True)


class _HolderLoop:
    """What the process does from when it is ready on, step by step."""

    def __init__(self, directory: Path, listening: socket.socket, table: HeldTable) -> None:
        self._directory = directory
        self._table = table
        self._listening = listening
        self._keeper: GuardKeeper | None = None
        self._callers: dict[socket.socket, float] = {}
        self._said: tuple[str, float] = "", 0.0

    def run_once(self) -> bool:
        """Do what there is to do; False when it was told to end."""
        self.keep_first_table()
        kept = [] if self._keeper is None else [self._keeper.socket]
        waiting = [self._listening, *self._callers, *kept]
        ready = set(select.select(waiting, [], [], guard_keeper.LOOK_S)[0])
        goes_on = True
        for caller in [each for each in self._callers if each in ready]:
            goes_on &= self._answer_caller(caller)
        if self._listening in ready:
            caller, _ = self._listening.accept()
            caller.settimeout(_TAKEN_S)
            self._callers[caller] = time.monotonic() + ANSWER_TIMEOUT_S
        for caller in [each for each, until in self._callers.items() if until < time.monotonic()]:
            self._close_caller(caller)
        return goes_on

    def keep_first_table(self) -> None:
        """See to the first table. What goes wrong is said, and tried again: the second one is held anyway."""
        try:
            if self._keeper is None:
                self._keeper = GuardKeeper(self._directory)
            if self._keeper.ensure_loaded():
                changed = guard_keeper.describe_change(self._keeper.changed_by)
                loaded = f"load-guard inet qmesh: as in {guard_keeper.SCRIPT}"
                self._log_throttled("guard-restored", f"{changed}; {loaded}")
        except QmeshError as error:
            self._log_throttled(
                "guard-not-kept", f"the guard's first table could not be kept: {error.message}"
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not take the held table along
            self._log_throttled("guard-not-kept", f"the guard's first table could not be kept: {error}")
            if self._keeper is not None:
                self._keeper.close()
            self._keeper = None

    def _log_throttled(self, code: str, line: str) -> None:
        """In the log; the same again and again but every few seconds."""
        if self._said[0] != line or self._said[1] < time.monotonic():
            self._said = line, time.monotonic() + _SAID_S
            report_event(code, "%s", line)

    def _answer_caller(self, caller: socket.socket) -> bool:
        """Do what a caller asks for; False when that is to end."""
        asked = b""
        with contextlib.suppress(OSError):  # a caller who goes away is none to answer
            asked = caller.recv(16)
            answer = ""
            if asked == ALTERATIONS and self._keeper is not None:
                answer = self._keeper.describe_alterations()
            if asked == VERSION:
                answer = __version__
            if asked == LOAD:
                try:
                    _load_script(self._directory, self._table)
                except QmeshError as error:
                    answer = error.message
            if asked == END:  # who asked finds nothing left of it
                (self._directory / SOCKET).unlink(missing_ok=True)
            caller.sendall(f"{answer}\n".encode())
        self._close_caller(caller)
        return asked != END

    def _close_caller(self, caller: socket.socket) -> None:
        del self._callers[caller]
        caller.close()
