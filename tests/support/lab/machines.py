"""A lab: machines on one LAN, each in namespaces of its own, gone without a trace when closed.

    with Lab() as lab:
        a = lab.machine("machine-a", "192.168.0.200", "fd00:1a::200")
        b = lab.machine("machine-b", "192.168.0.201", "fd00:1a::201")
        a.run(["ping", "-c1", "192.168.0.201"])

A machine has mount, network, UTS, IPC and PID namespaces of its own: its own /proc, /sys, /run,
/tmp, /root and /var/lib/qmesh, and a copy-on-write /etc and /var/lib. No systemd runs there.
Nothing of it has a name in the host, so nothing has to be tidied up: all of it lives by the
first process of each machine, and that lives by a pipe whose other end this process holds.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import itertools
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

from tests.support.checkout import CHECKOUT
from tests.support.lab.fork_server import FIRST, First, boot, can_fork, fork
from tests.support.waiting import HANDED_ON, Deadline, comes_true, patience, slowness, wait_until

TOOLS = Path(__file__).resolve().with_name("programs")
"""The worker, the control process and the attacker are programs in this directory."""

_NEW_PID_NAMESPACE = 0x20000000
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_END_SECONDS = 30.0

_ports = itertools.count()
_libc = ctypes.CDLL(None, use_errno=True)


class CommandFailed(subprocess.CalledProcessError):
    """A command of a machine ended with another exit code than 0; its message shows the output."""

    def __str__(self) -> str:
        return f"{super().__str__()}\n{self.stdout}{self.stderr}".rstrip()


class Running(subprocess.Popen[str]):
    """A command that runs in a machine; what it says goes to files, so it never has to be read.

    Signals reach the command itself: it is a child of this process, in the machine's namespaces.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        input: str | None,  # noqa: A002
        fork: Callable[[Sequence[int]], int] | None = None,
    ) -> None:
        """fork: makes the process, with these standard streams; without it a program is started."""
        self._fork = fork
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # until forget()
        self._complained: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        with tempfile.TemporaryFile() if input else Path(os.devnull).open("rb") as given:
            if input:
                given.write(input.encode())
                given.seek(0)
            self._streams = [file.fileno() for file in (given, self._said, self._complained)]
            super().__init__(
                argv,
                stdin=given,
                stdout=self._said,
                stderr=self._complained,
                start_new_session=True,
                env={},
            )

    def _execute_child(self, *arguments: Any) -> None:
        """Make the process; of the base class, which does all else."""
        if self._fork is None:
            super()._execute_child(*arguments)  # type: ignore[misc]
            return
        self.pid = self._fork(self._streams)
        self._child_created = True

    def output(self) -> str:
        """What the command wrote to standard output until now."""
        return _text(self._said)

    def error_output(self) -> str:
        """What the command wrote to standard error until now."""
        return _text(self._complained)

    def wait_for(self, text: str, *, timeout: float = 5.0) -> None:
        """Wait until the text is in the output.

        Args:
            text: what to wait for.
            timeout: seconds of an idle machine.

        Raises TimeoutError, with all that was said, when the command ended or said it too late.
        """
        comes_true(lambda: text in self.output() or self.poll() is not None, timeout)
        if text not in self.output():
            raise TimeoutError(f"no {text!r} from {self.args!r}:\n{self.output()}{self.error_output()}")

    def wait(self, timeout: float | None = None) -> int:
        """As of any process; but for the time-out, whose seconds are those of an idle machine."""
        if timeout is None:
            return super().wait()
        deadline = Deadline(timeout)
        while True:
            try:
                return super().wait(deadline.left())
            except subprocess.TimeoutExpired:
                if deadline.is_over():
                    raise

    def stop(self, *, timeout: float = 5.0) -> int:
        """Ask the command to end, wait for it, and return its exit code; after `timeout` s kill it."""
        with contextlib.suppress(ProcessLookupError):
            self.terminate()
        try:
            return self.wait(timeout)
        except subprocess.TimeoutExpired:
            return self.kill_session()

    def kill_session(self) -> int:
        """Kill the command and the children that stayed in its session; return its exit code."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        return self.wait()

    def forget(self) -> None:
        """Let go of the output."""
        self._said.close()
        self._complained.close()


class Machine:
    """One machine of a lab, made by `Lab.machine`.

    Attributes:
        name: the host name.
        ipv4: address on the LAN.
        ipv6: global address on the LAN, or None.
        link_local: IPv6 link-local address on the LAN, without scope.
        pid: the host's number of the machine's first process.
        version: where its qmesh is installed, as of `tests.support.versions`; this checkout's at first.
        lan: what it is plugged into: a bridge, where rules see what passes between machines.
    """

    lan: Machine

    def __init__(self, name: str, *, ipv4: str = "", ipv6: str | None = None) -> None:
        self.name = name
        self.ipv4 = ipv4
        self.ipv6 = ipv6
        self.version = Path(sys.prefix)
        self.link_local = f"fe80::{int(ipaddress.IPv4Address(ipv4)) & 0xFFFF:x}" if ipv4 else ""
        self._running: list[Running] = []
        self._first = _boot(name)
        self.pid = self._first.pid
        self._pids = os.open(f"/proc/{self.pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        check: bool = True,
        input: str | None = None,  # noqa: A002
        env: Mapping[str, str] | None = None,
        timeout: float = 30.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; a daemon that it leaves behind is not waited for.

        One of qmesh is forked, without a start of Python: see tests/support/lab/fork_server.py.

        Args:
            argv: program and arguments; `python` is the running interpreter's, `qmesh` that of `version`.
            check: raise CommandFailed unless the exit code is 0.
            input: text for standard input, which is empty otherwise.
            env: variables in addition to a clean environment.
            timeout: seconds of an idle machine, then the command is killed and subprocess.TimeoutExpired
                raised.
        """
        words = [str(word) for word in argv]
        running = self._start(words, input=input, env=env, may_fork=can_fork(words, env))
        try:
            code = running.wait(timeout)
        except subprocess.TimeoutExpired:
            running.kill_session()
            raise subprocess.TimeoutExpired(
                words, timeout, running.output(), running.error_output()
            ) from None
        finally:
            self._running.remove(running)
            if running.returncode is None:
                running.kill_session()
            said, complained = running.output(), running.error_output()
            running.forget()
        if check and code:
            raise CommandFailed(code, words, said, complained)
        return subprocess.CompletedProcess(words, code, said, complained)

    def start(
        self,
        argv: Sequence[str | Path],
        *,
        input: str | None = None,  # noqa: A002
        env: Mapping[str, str] | None = None,
    ) -> Running:
        """Start a command that runs on; it ends with the machine at the latest. As `run` otherwise."""
        return self._start([str(word) for word in argv], input=input, env=env, may_fork=False)

    def _start(
        self,
        words: Sequence[str],
        *,
        input: str | None,  # noqa: A002
        env: Mapping[str, str] | None,
        may_fork: bool,
    ) -> Running:
        variables = {**_clean_environment(self.version), HANDED_ON: f"{slowness():.1f}", **(env or {})}
        if may_fork:
            with _interrupted_later():
                running = Running(
                    words,
                    input=input,
                    fork=lambda streams: fork(words, variables, self.pid, streams, version=self.version),
                )
                self._running.append(running)
            return running
        enter = _entering(self.pid, mount="mnt", net="net", uts="uts", ipc="ipc")
        # A shell's background jobs ignore SIGINT, and hand that on.
        settings = [
            "/usr/bin/env",
            "--default-signal=INT",
            "-i",
            *(f"{key}={value}" for key, value in variables.items()),
        ]
        with _interrupted_later(), _next_child_in(self._pids):
            running = Running([*enter, "--wdns=/root", "--", *settings, *words], input=input)
            self._running.append(running)
        return running

    def write(self, path: str | Path, text: str, mode: int = 0o644) -> None:
        """Write a file of the machine, with its directories; `mode` holds from the first byte."""
        there = self.path(path)
        there.parent.mkdir(parents=True, exist_ok=True)
        there.unlink(missing_ok=True)
        with os.fdopen(
            os.open(there, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0), "w", encoding="utf-8"
        ) as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)

    def read(self, path: str | Path) -> str:
        """The text of a file of the machine; OSError when it has none."""
        if Path(path).is_relative_to("/proc"):  # much of it is about whoever reads it
            return self.run(["cat", path]).stdout
        return self.path(path).read_text(encoding="utf-8")

    def processes(self, pattern: str = "") -> dict[int, str]:
        """Its processes whose description matches a regular expression, by the machine's numbers.

        A description is `[NAME] ARGUMENTS`; NAME is what the kernel calls it. The first process is not
        among them, and none that has ended.
        """
        found = {}
        for process in self.path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                arguments = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                described = f"[{(process / 'comm').read_text().strip()}] {arguments}"
                if process.name != "1" and arguments and re.search(pattern, described):
                    found[int(process.name)] = described
        return found

    def kill(self, pattern: str = "", number: int = signal.SIGKILL) -> int:
        """Send a signal to its processes that match, and wait until none is left; how many there were.

        What is being started meanwhile gets it too. Without a pattern that is all but the first process.
        """
        count = 0
        while found := self.processes(pattern):
            with contextlib.ExitStack() as stack:
                ends = [stack.enter_context(end) for end in map(_End.of, self._on_host(found)) if end]
                count += len(ends)
                for end in ends:
                    end.signal(number)
                for end in ends:
                    wait_until(end.has_come, _END_SECONDS)
        return count

    def freeze(self, pattern: str) -> None:
        """Stop those of its processes that match, of which there must be one at least: they hang."""
        found = self._on_host(self.processes(pattern))
        assert found, f"no {pattern!r} runs"
        for process in found:
            os.kill(process, signal.SIGSTOP)

    def thaw(self, pattern: str) -> None:
        """Let those that match go on."""
        for process in self._on_host(self.processes(pattern)):
            os.kill(process, signal.SIGCONT)

    def _on_host(self, numbers: Collection[int]) -> list[int]:
        """The host's numbers of some of its processes."""
        namespace = os.fstat(self._pids).st_ino
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (process / "ns/pid").stat().st_ino == namespace:
                    status = (process / "status").read_text()
                    if int(status.partition("\nNSpid:")[2].partition("\n")[0].split()[-1]) in numbers:
                        found.append(int(process.name))
        return found

    def path(self, path: str | Path) -> Path:
        """A path of the machine, as it is reached from here; no link on it may be absolute.

        As for commands, it begins at /root unless it begins with a slash.
        """
        return Path(f"/proc/{self.pid}/root{Path('/root', path)}")

    def enter(self, first: int) -> None:
        """Have what is run from here on see what a process of the machine sees.

        first: the host's number of the first process of PID and mount namespaces within the machine's.
        """
        inner = os.open(f"/proc/{first}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        os.close(self._pids)
        self.pid, self._pids = first, inner

    def close(self) -> None:
        """End every process of the machine, and wait until they and the namespaces are gone."""
        self._first.kill()
        for running in self._running:
            running.wait()
            running.forget()
        self._running.clear()
        _close_first(self._first)
        with contextlib.suppress(OSError):
            os.close(self._pids)


class Lab:
    """Machines on one LAN. Use as a context manager; see the module's docstring."""

    def __init__(self) -> None:
        self._undo = contextlib.ExitStack()
        self._machines: list[Machine] = []
        self._lan: Machine | None = None

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            with _interrupted_later():
                self._lan = Machine("lan")
                undo.callback(self._lan.close)
            bridge = "link add lan type bridge forward_delay 0 mcast_snooping 0\nlink set lan up\n"
            _ip(self._lan.pid, bridge)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def machine(self, name: str, ipv4: str, ipv6: str | None = None) -> Machine:
        """A machine on the LAN, ready for use.

        Args:
            name: host name.
            ipv4: its address on eth0, in a /24.
            ipv6: its global address on eth0, in a /64; it has a link-local one in any case.
        """
        if self._lan is None:
            raise RuntimeError("a lab is used with `with`")
        with _interrupted_later():
            machine = Machine(name, ipv4=ipv4, ipv6=ipv6)
            self._undo.callback(machine.close)
        self._machines.append(machine)
        machine.lan = self._lan
        plug_in(machine, "eth0")
        _ip(machine.pid, _addresses(machine))
        return machine

    def close(self) -> None:
        """End all machines, the last made first. May be called twice."""
        self._undo.close()
        self._machines.clear()
        self._lan = None


def plug_in(machine: Machine, interface: str) -> None:
    """Give a machine an interface on the LAN, down and without an address."""
    port = f"port{next(_ports)}"
    made = f"link add {port} type veth peer name {interface} netns {machine.pid}"
    _ip(machine.lan.pid, f"{made}\nlink set {port} master lan up\n")


class _End(contextlib.AbstractContextManager["_End"]):
    """The end of a process, whoever its parent is; no other process is taken for it, whatever its number."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def of(cls, process: int) -> Self | None:
        """None where it has come already."""
        try:
            return cls(os.pidfd_open(process))
        except ProcessLookupError:
            return None

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, number)

    def has_come(self) -> bool:
        """Whether the last of its threads has ended."""
        return bool(select.select([self._descriptor], [], [], 0)[0])

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def _boot(name: str) -> subprocess.Popen[bytes] | First:
    """Have a machine's first process in new namespaces; return it once the machine is ready."""
    keep = sorted({str(CHECKOUT), sys.prefix, sys.base_prefix})
    wanted = json.dumps({"name": name, "keep": keep})
    first = boot(wanted) or _start_first(wanted)
    assert first.stdin is not None
    assert first.stdout is not None
    said = first.stdout.readline()
    if said != b"ready\n":
        first.stdin.close()
        said += first.stdout.read()
        _close_first(first)
        raise OSError(f"machine {name} did not come up: {said.decode().strip()}")
    return first


def _start_first(wanted: str) -> subprocess.Popen[bytes]:
    with _next_child_in(None):
        return subprocess.Popen(
            ["/usr/bin/unshare", "--mount", "--net", "--uts", "--ipc", "--",
             sys.executable, "-I", "-S", FIRST, wanted],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip


def _close_first(first: subprocess.Popen[bytes] | First) -> None:
    """Let go of a machine's first process and wait for its end."""
    for pipe in (first.stdin, first.stdout):
        if pipe is not None:
            pipe.close()
    first.wait(patience(_END_SECONDS))


def _entering(pid: int, **namespaces: str) -> list[str]:
    """nsenter with namespaces of a process: option=name in /proc/PID/ns.

    By their files and not by `--target`: a command has a number of the machine's already, and among those
    the host's number may be another process's, even its own.
    """
    return ["/usr/bin/nsenter", *(f"--{option}=/proc/{pid}/ns/{name}" for option, name in namespaces.items())]


@contextlib.contextmanager
def _next_child_in(namespace: int | None) -> Iterator[None]:
    """What this thread forks in here begins in that PID namespace; None is a new one.

    That way a command is our own child, and signals and exit codes need no middleman. It does
    not concern other threads, see pid_namespaces(7).
    """
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if namespace is None:
            _succeed(_libc.unshare(_NEW_PID_NAMESPACE))
        else:
            _succeed(_libc.setns(namespace, _NEW_PID_NAMESPACE))
        yield
    finally:
        _succeed(_libc.setns(own, _NEW_PID_NAMESPACE))
        os.close(own)


@contextlib.contextmanager
def _interrupted_later() -> Iterator[None]:
    """Handle SIGINT and SIGTERM at the end of this only, so that each child made here is known.

    A child that nobody knows is waited for by nobody, and as a zombie keeps its machine from ending.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # no handler runs in another thread
        return
    came: list[int] = []
    handlers = {int(number): signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in handlers.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in came[:1]:
            signal.raise_signal(number)


def _succeed(result: int) -> None:
    if result:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _clean_environment(version: Path) -> dict[str, str]:
    places = dict.fromkeys((f"{version}/bin", f"{sys.prefix}/bin"))  # for `qmesh`, and for `python`
    return {
        "HOME": "/root",
        "PATH": ":".join((*places, _SYSTEM_PATH)),
        "TERM": os.environ.get("TERM", "dumb"),
        "LANG": "C.UTF-8",
    }


def _addresses(machine: Machine) -> str:
    """Commands for `ip -batch` that bring up a machine's loopback and its port on the LAN."""
    lines = [
        "link set lo up",
        "link set eth0 up",
        f"addr add {machine.ipv4}/24 dev eth0",
        f"addr add {machine.link_local}/64 dev eth0 nodad",
    ]
    if machine.ipv6:
        lines.append(f"addr add {machine.ipv6}/64 dev eth0 nodad")
    return "".join(f"{line}\n" for line in lines)


def _ip(pid: int, commands: str) -> None:
    """Run iproute2 commands in the network namespace of a process."""
    words = [*_entering(pid, net="net"), "--", "ip", "-batch", "-"]
    subprocess.run(words, input=commands, text=True, check=True, stdout=subprocess.DEVNULL)


def _text(file: IO[Any]) -> str:
    """All of an output file; the offset is the writer's as well, so it stays where it is."""
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), size, 0).decode(errors="replace")


def host_state() -> dict[str, list[str]]:
    """What a lab could leave behind in the host: interfaces, mounts, names, rules."""
    asked = (
        ["ip", "-o", "link"],
        ["ip", "netns"],
        ["nft", "list", "ruleset"],
        ["cat", "/proc/self/mountinfo"],
    )
    answers = [subprocess.run(words, capture_output=True, text=True, check=True).stdout for words in asked]
    return {" ".join(words): sorted(said.splitlines()) for words, said in zip(asked, answers, strict=True)}
