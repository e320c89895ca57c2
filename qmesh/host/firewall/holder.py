"""The process that holds the guard's second table, and keeps the first.

Only the socket that made a table with an owner can change it, and the table is removed with that socket
(nft(8), "owner"; Linux 5.12). So a process that does little else keeps such a socket open: a flush of all
rules removes the first table and leaves this one (`qmesh.host.firewall.held_table`). It does not parse a
guard: it loads a file of nftables commands when it starts, and again when it is told to. It also restores
the first table from that table's own file (`qmesh.host.firewall.guard_keeper`), at once when the kernel
reports a change, even while the agent waits. It starts before the network at boot, and then reserves
the worker ports as well. It runs as long as its machine, and imports next to nothing (`qmesh.host.lean`);
`qmesh.host.lean.hold` is its program.
"""

from __future__ import annotations

import _socket
import ctypes
import os
import select
import time

from qmesh import __version__
from qmesh.errors import KernelRefused, MachineRefused, QmeshError, StateUnreadable
from qmesh.host.firewall import guard_keeper, nftables
from qmesh.host.firewall.guard_keeper import GuardKeeper
from qmesh.host.lean import process_lock, service_notice, socket_path
from qmesh.host.lean.bare_socket import BareSocket
from qmesh.host.lean.owned_table import SCRIPT, HeldTable
from qmesh.host.log.plain_log import PlainLog
from qmesh.host.network import reserved_ports

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

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


def run_holder(state: str | os.PathLike[str], log: PlainLog | None = None) -> None:
    """Hold and keep the guard until a signal or `END`. Raises MachineRefused when it cannot be loaded.

    state: the state directory. Its lock is this process's until it has gone: whoever ends it waits for that.
    """
    directory = os.fspath(state)
    descriptor = process_lock.open_lock_file(f"{directory}/{LOCK}")
    if not process_lock.acquire_lock(descriptor):
        os.close(descriptor)
        raise MachineRefused(
            "another process holds the guard already",
            hint="nothing to do: `pgrep -a qmesh-hold` shows that process",
        )
    ctypes.CDLL(None).prctl(_SET_NAME, _NAME, 0, 0, 0)
    table = _open_table()
    _load_script(directory, table)
    reserved_ports.restore_ports(directory)
    with BareSocket(_socket.AF_UNIX, _socket.SOCK_STREAM) as listening:
        socket_path.listen_at(listening, directory, SOCKET)
        try:
            if not os.access(f"{directory}/{SCRIPT}", os.F_OK):
                return  # it was ended before it could be told so
            holding = _HolderLoop(directory, listening, table, log or PlainLog(directory))
            holding.keep_first_table()
            service_notice.notify("READY=1")
            while holding.run_once():
                pass
        finally:
            socket_path.remove_socket(directory, SOCKET)


def _open_table() -> HeldTable:
    """The table of this process, which holds it until it ends."""
    try:
        return HeldTable()
    except OSError as error:
        raise KernelRefused(
            f"nftables cannot be used: {error.strerror}", hint="run `modprobe nf_tables`, and look at `dmesg`"
        ) from None


def _load_script(directory: str, table: HeldTable) -> None:
    path = f"{directory}/{SCRIPT}"
    script = guard_keeper.read_script(path)
    if script is None:
        raise StateUnreadable(f"{path} is missing", hint="run `qmesh apply`, which writes it again")
    table.replace(script)


class _HolderLoop:
    """What the process does from when it is ready on, step by step."""

    def __init__(self, directory: str, listening: BareSocket, table: HeldTable, log: PlainLog) -> None:
        self._directory = directory
        self._log = log
        self._table = table
        self._listening = listening
        self._keeper: GuardKeeper | None = None
        self._callers: dict[BareSocket, float] = {}
        self._said: tuple[str, float] = "", 0.0

    def run_once(self) -> bool:
        """Do what there is to do; False when it was told to end."""
        self.keep_first_table()
        kept = [] if self._keeper is None else [self._keeper.socket]
        waiting = [self._listening, *self._callers, *kept]
        ready = set(select.select(waiting, [], [], guard_keeper.LOOK_S)[0])
        if not ready:
            nftables.release_memory()
        goes_on = True
        for caller in [each for each in self._callers if each in ready]:
            goes_on &= self._answer_caller(caller)
        if self._listening in ready:
            caller = self._listening.accept_caller()
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
            self._log.report_event(code, line)

    def _answer_caller(self, caller: BareSocket) -> bool:
        """Do what a caller asks for; False when that is to end."""
        asked = b""
        try:  # a caller who goes away is none to answer
            asked = caller.recv(16)
            caller.sendall(f"{self._do_command(asked)}\n".encode())
        except OSError:
            pass
        self._close_caller(caller)
        return asked != END

    def _do_command(self, asked: bytes) -> str:
        """Do it; the answer. Raises OSError."""
        if asked == ALTERATIONS and self._keeper is not None:
            return self._keeper.describe_alterations()
        if asked == VERSION:
            return __version__
        if asked == LOAD:
            try:
                _load_script(self._directory, self._table)
            except QmeshError as error:
                return error.message
        if asked == END:  # who asked finds nothing left of it
            socket_path.remove_socket(self._directory, SOCKET)
        return ""

    def _close_caller(self, caller: BareSocket) -> None:
        del self._callers[caller]
        caller.close()
