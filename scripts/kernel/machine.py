"""A machine that is there for one job: its output streams out here, and nothing of it is left."""

from __future__ import annotations

import contextlib
import os
import secrets
import selectors
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from errors import NoMachine
from initramfs import archive, guest_files, script, settings
from lifetime import tied

SHOWN_LINES: Final = 30
END_S: Final = 10.0
"""Seconds that a machine whose job has ended may take to go."""


@dataclass(frozen=True)
class Share:
    """A folder of the host, shown to the machine.

    tag: its name between the two.
    target: where the machine has it.
    """

    tag: str
    source: Path
    target: Path
    writable: bool = False


@dataclass(frozen=True)
class Job:
    """What a machine is for.

    directory: where the command runs.
    writable: the folders of the host in which the machine's writes arrive; all other writes are lost with it.
    over: a folder that is laid over /; of units what is below /etc/systemd/system.
    systemd: whether systemd is to be its init.
    timeout_s: seconds from the start on, after which it is given up.
    boot_timeout_s: seconds after which a machine in which it has not begun is given up, once, for another.
    """

    command: Sequence[str]
    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    writable: Sequence[Path] = ()
    over: Path | None = None
    systemd: bool = False
    timeout_s: float = 3600
    boot_timeout_s: float = 300


@dataclass(frozen=True)
class Start:
    """What a machine starts with. initramfs: its path; ports: open files by their names."""

    initramfs: str
    kernel_arguments: Sequence[str]
    shares: Sequence[Share]
    ports: Mapping[str, int]


class Ports:
    """The host's and the machine's ends of what comes out of it, in the order of `NAMES`."""

    NAMES: Final = ("console", "output", "errors", "status")

    def __init__(self) -> None:
        pairs = [socket.socketpair() for _ in self.NAMES]
        self.ours = dict(zip(self.NAMES, (ours for ours, _ in pairs), strict=True))
        self.theirs = dict(zip(self.NAMES, (theirs for _, theirs in pairs), strict=True))

    def close_theirs(self) -> None:
        """Once the machine has its ends, ours end when it does."""
        for each in self.theirs.values():
            each.close()

    def close(self) -> None:
        """Close all."""
        self.close_theirs()
        for each in self.ours.values():
            each.close()


class Kind(Protocol):
    """A way to have a machine."""

    @property
    def settings(self) -> Mapping[str, str]:
        """SHARED_BY: how the host's folders are mounted; PORTS: the ports' files but for their number."""

    @property
    def archive(self) -> bytes:
        """What of its own the machine starts with."""

    @property
    def shares(self) -> Sequence[Share]:
        """The host's folders that it needs."""

    @property
    def variables(self) -> Mapping[str, str]:
        """What the job is told of it, unless it is told something else."""

    def command(self, start: Start) -> list[str]:
        """The program that is the machine, and its arguments."""


class NotUp(Exception):
    """The machine hangs in its boot."""


def run(kind: Kind, job: Job) -> int:
    """Do a job in a machine; the command's exit status. Raises NoMachine when there is none to be had."""
    until = time.monotonic() + job.timeout_s
    up_by = time.monotonic() + job.boot_timeout_s
    if up_by < until:
        try:
            return _run(kind, job, until, up_by)
        except NotUp:
            print(
                f"the machine was not up after {job.boot_timeout_s:.0f} s, and another is started",
                file=sys.stderr,
                flush=True,
            )
    return _run(kind, job, until, until)


def _run(kind: Kind, job: Job, until: float, up_by: float) -> int:
    end = secrets.token_hex(16)
    with contextlib.closing(Ports()) as ports, _memory_file(_initramfs(kind, job, end)) as initramfs:
        theirs = {name: end.fileno() for name, end in ports.theirs.items()}
        start = Start(
            initramfs=f"/proc/self/fd/{initramfs}",
            kernel_arguments=["quiet", "panic=-1", "fstab=no", "qmesh.throwaway"],
            shares=_shares(kind, job),
            ports=theirs,
        )
        console = theirs["console"]
        with tied(
            kind.command(start), output=console, errors=console, pass_fds=[initramfs, *theirs.values()]
        ) as machine:
            ports.close_theirs()
            said = Said(b"\x1e" + end.encode())
            try:
                _listen(ports, said, until, up_by, job.timeout_s)
            finally:
                _end(machine, ports.ours["console"])
        return said.status()


class Stream:
    """The job's output or errors: passed on as they come, until the mark that nothing more will."""

    def __init__(self, out: BinaryIO, mark: bytes) -> None:
        self._out = out
        self._mark = mark
        self._held = b""
        self.has_ended = False

    def hear(self, octets: bytes) -> None:
        """Pass it on, but for what may be the mark's beginning."""
        if self.has_ended:
            return
        text, found, _ = (self._held + octets).partition(self._mark)
        self.has_ended = bool(found)
        begun = 0 if found else self._begun(text)
        self._held = text[len(text) - begun :]
        _write(self._out, text[: len(text) - begun])

    def _begun(self, text: bytes) -> int:
        """How many octets of the mark the text ends with."""
        lengths = range(min(len(text), len(self._mark) - 1), 0, -1)
        return next((length for length in lengths if text.endswith(self._mark[:length])), 0)


class Said:
    """What a machine has said."""

    def __init__(self, mark: bytes) -> None:
        self._streams = {
            "output": Stream(sys.stdout.buffer, mark),
            "errors": Stream(sys.stderr.buffer, mark),
        }
        self._status = b""
        self._console: deque[bytes] = deque(maxlen=SHOWN_LINES)
        self._rest = b""

    def hear(self, name: str, octets: bytes) -> None:
        """Pass the job's output on, and remember the rest."""
        if name == "status":
            self._status += octets
        elif name == "console":
            *lines, self._rest = (self._rest + octets).split(b"\n")
            self._console.extend(lines)
        else:
            self._streams[name].hear(octets)

    @property
    def has_begun(self) -> bool:
        """Whether the machine is up."""
        return b"\n" in self._status

    @property
    def is_all(self) -> bool:
        """Whether the job has ended, and all that it said is here."""
        ended = self._status.partition(b"\n")[2].endswith(b"\n")
        return ended and all(stream.has_ended for stream in self._streams.values())

    def status(self) -> int:
        """The job's exit status. Raises NoMachine, after the console's last lines, when there is none."""
        if self.is_all:
            return int(self._status.partition(b"\n")[2])
        self.show_console()
        raise NoMachine("the machine ended without an answer", hint="its last words stand above")

    def show_console(self) -> None:
        """The last lines of the machine's console, as errors."""
        _write(sys.stderr.buffer, b"".join(line + b"\n" for line in (*self._console, self._rest) if line))


def _write(out: BinaryIO, octets: bytes) -> None:
    out.write(octets)
    out.flush()


def _listen(ports: Ports, said: Said, until: float, up_by: float, timeout_s: float) -> None:
    with selectors.DefaultSelector() as selector:
        for name, end in ports.ours.items():
            selector.register(end, selectors.EVENT_READ, name)
        while selector.get_map() and not said.is_all:
            by = until if said.has_begun else up_by
            ready = selector.select(max(0.0, by - time.monotonic()))
            if not ready:
                said.show_console()
                if by < until:
                    raise NotUp
                raise NoMachine(
                    f"the machine was not done after {timeout_s:.0f} s",
                    hint="--timeout SECONDS gives it longer",
                )
            for key, _ in ready:
                octets = _received(key.fd)
                said.hear(key.data, octets)
                if not octets:
                    selector.unregister(key.fileobj)


def _received(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except ConnectionResetError:
        return b""


def _end(machine: subprocess.Popen[bytes], console: socket.socket) -> None:
    """Kill it, and wait until the last process that had a part in it is gone."""
    machine.kill()
    console.settimeout(END_S)
    with contextlib.suppress(OSError):
        while console.recv(65536):
            pass


def _initramfs(kind: Kind, job: Job, end: str) -> bytes:
    shares = [
        "\t".join((share.tag, "rw" if share.writable else "ro", str(share.source), str(share.target)))
        for share in _shares(kind, job)
        if share.target != Path("/")
    ]
    files = {
        **guest_files(),
        "machine/settings": settings(
            {
                **kind.settings,
                "INIT": "systemd" if job.systemd else "job",
                "OVER": str(job.over or ""),
                "END": end,
            }
        ),
        "machine/shares": "".join(f"{share}\n" for share in shares).encode(),
        "machine/command": script(
            job.command, environment={**kind.variables, **job.environment}, directory=job.directory
        ),
    }
    return kind.archive + archive(files)


def _shares(kind: Kind, job: Job) -> list[Share]:
    """The host's /, what the machine needs, and where it may write."""
    writable = [
        Share(f"writable{number}", path, path, writable=True) for number, path in enumerate(job.writable)
    ]
    # What is shown at / is no share among others: init puts / together of it.
    over = [Share("over", job.over, Path("/"))] if job.over else []
    return [Share("root", Path("/"), Path("/")), *over, *kind.shares, *writable]


@contextlib.contextmanager
def _memory_file(content: bytes) -> Iterator[int]:
    """An open file that is in no folder, so that nothing is left of it however this program ends."""
    descriptor = os.memfd_create("initramfs")
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        yield descriptor
