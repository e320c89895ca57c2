"""Runs commands of qmesh that die, or whose disk fails, at a point that is chosen: `faulty.py SOCKET`.

A point is where state is about to be written or a message about to be sent. A process that has qmesh
loaded waits at the socket; each request is a JSON object on a line, and runs in a child of its own:

    words: of the command line
    kill: the number of the point, from 1 on, before which the child is killed; 0 for none
    fail: {"at": N, "errno": E, "kinds": [..]}: from the N-th point of these kinds on, they fail so
    clock: seconds by which this command's clock is ahead
    arm, log: for a command that runs on: the file from whose being there on points count, and the file
        that lists them; the answer comes at once

The answer: {"code": as subprocess has it, "out", "err", "points": [label, ..], "pid", "times": [seconds
from its start on, of each point and of its end]}.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import os
import pathlib
import pkgutil
import re
import signal
import socket
import sqlite3
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

RANDOM_PART = re.compile(r"^\.(.+)\.[a-z0-9_]{8}$")
NAME_OF_AGENT = "faulty-agent"


class Points:
    """The points that a process has come to, and what is to happen at them."""

    def __init__(self, asked: Mapping[str, Any], log: int) -> None:
        self._number = itertools.count(1)
        self._failing = itertools.count(1)
        self._kill = asked.get("kill", 0)
        self._fail = asked.get("fail")
        self._arm = asked.get("arm")
        self._log = log
        self._write = os.write
        self._exists = os.path.exists

    def cross(self, kind: str, what: str) -> None:
        """Be at a point. Raises OSError where the disk is to fail."""
        if self._arm and not self._exists(self._arm):
            return
        self._write(self._log, f"{time.monotonic():.4f} {kind} {what}\n".encode())
        if next(self._number) == self._kill:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._fail and kind in self._fail["kinds"] and next(self._failing) >= self._fail["at"]:
            raise OSError(self._fail["errno"], os.strerror(self._fail["errno"]))


def name_of(path: Any) -> str:
    """A file as it is called in a label: temporary ones by what they become."""
    name = pathlib.Path(os.fsdecode(path)).name
    found = RANDOM_PART.match(name)
    return found[1] if found else re.sub(r"^qmesh-[a-z0-9_]{8}$", "folder of the ready socket", name)


def behind(descriptor: int) -> str:
    return name_of(pathlib.Path(f"/proc/self/fd/{descriptor}").readlink())


def watch_files(points: Points) -> None:
    """Points at what Python does to files."""

    def by_path(name: str, which: int = 0) -> None:
        real = getattr(os, name)

        def crossing(*arguments: Any, **rest: Any) -> Any:
            if os.path.lexists(arguments[0]) != (name == "mkdir"):  # else it does nothing
                points.cross(name, name_of(arguments[which]))
            return real(*arguments, **rest)

        setattr(os, name, crossing)

    for name in ("mkdir", "unlink", "rmdir", "chmod"):
        by_path(name)
    for name in ("replace", "rename"):
        by_path(name, 1)
    watch_descriptors(points)


def watch_descriptors(points: Points) -> None:
    """Points at files that are made, written and synced."""
    real_open, real_write, real_sync = os.open, os.write, os.fsync

    def opened(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & os.O_CREAT:
            points.cross("create", name_of(path))
        return real_open(path, flags, *rest, **named)

    def written(descriptor: int, octets: Any) -> int:
        # What is said, on standard error, is said at times of its own.
        if descriptor > 2 and stat.S_ISREG(os.fstat(descriptor).st_mode):
            points.cross("write", behind(descriptor))
        return real_write(descriptor, octets)

    def synced(descriptor: int) -> None:
        points.cross("fsync", behind(descriptor))
        real_sync(descriptor)

    os.open, os.write = opened, written
    os.fsync = synced  # type: ignore[assignment]
    real_text = pathlib.Path.write_text

    def text_written(path: pathlib.Path, *arguments: Any, **rest: Any) -> int:
        points.cross("write", path.name)
        return real_text(path, *arguments, **rest)

    pathlib.Path.write_text = text_written  # type: ignore[method-assign, assignment]


def watch_database(points: Points) -> None:
    """Points at the statements that change a database."""
    real: Any = sqlite3.connect

    def connect(*arguments: Any, **rest: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = real(*arguments, **rest)
        before = 0

        def stated(statement: str) -> None:
            nonlocal before
            words = statement.split()
            if words[0] == "BEGIN":
                before = connection.total_changes
            elif words[0] == "COMMIT" and connection.total_changes == before:
                return  # nothing was written
            elif words[0] not in {"SELECT", "PRAGMA", "--"}:
                points.cross("sql", " ".join(words[:3]))

        connection.set_trace_callback(stated)
        return connection

    sqlite3.connect = connect  # type: ignore[assignment]


def watch_programs(points: Points) -> None:
    """Points at programs that are started, and at changes of the ruleset."""
    start = subprocess.Popen.__init__

    def started(self: Any, words: Any, *arguments: Any, **rest: Any) -> None:
        points.cross("start", name_start([str(each) for each in words]))
        start(self, words, *arguments, **rest)

    subprocess.Popen.__init__ = started  # type: ignore[method-assign, assignment]
    nftables = importlib.import_module("qmesh.host.firewall.nft_library").NftContext
    command = nftables.run

    def ruled(self: Any, script: bytes) -> Any:
        if not script.startswith(b"list "):
            points.cross("nft", "worker ports" if re.search(rb"40\d\d\d", script) else "no worker ports")
        return command(self, script)

    nftables.run = ruled


def name_start(words: list[str]) -> str:
    """What is started, by its words."""
    if any(each.endswith("/hold.py") for each in words):
        return "qmesh hold"
    return f"qmesh {words[words.index('qmesh') + 1]}" if "qmesh" in words else name_of(words[0])


def watch_sockets(points: Points) -> None:
    """Points at messages to other machines, to WireGuard and to the kernel, unless they only ask."""
    for name in ("send", "sendall", "sendto", "sendmsg"):
        real = getattr(socket.socket, name)

        def sent(self: socket.socket, octets: Any, *rest: Any, _real: Callable[..., Any] = real) -> Any:
            what = said(self, octets)
            if what is not None:
                points.cross("send", what)
            return _real(self, octets, *rest)

        setattr(socket.socket, name, sent)


def said(connection: socket.socket, octets: Any) -> str | None:
    """What a message is; None for one that changes nothing."""
    first = bytes(octets[0] if isinstance(octets, list) else octets)
    if connection.family == socket.AF_NETLINK:
        (kind,) = struct.unpack_from("=H", first, 4)
        return f"netlink {kind}" if len(first) >= 16 and 16 <= kind < 100 and kind & 3 != 2 else None
    if connection.family == socket.AF_UNIX:
        begun = first[:8].decode("ascii", "replace").strip()
        return None if begun.startswith(("get=", "\0", "{")) or len(begun) < 2 else f"unix {begun.split()[0]}"
    head = first.partition(b" HTTP/")[0].partition(b"?")[0]
    return f"http {head.decode('ascii') if head[:4] in {b'GET ', b'POST', b'HTTP'} else 'body'}"


def shift_clock(seconds: float) -> None:
    """Have the time of day be another one."""
    real, real_ns = time.time, time.time_ns
    time.time = lambda: real() + seconds
    time.time_ns = lambda: real_ns() + int(seconds * 10**9)


def be(asked: Mapping[str, Any], log: int) -> int:
    """Run the command, in this process; returns its exit code."""
    points = Points(asked, log)
    for watch in (watch_files, watch_database, watch_programs, watch_sockets):
        watch(points)
    if asked.get("clock"):
        shift_clock(asked["clock"])
    # It only asks, and at times of its own: no two runs would have the same points.
    importlib.import_module("qmesh.agent.daemon.monitor").Monitor.run = lambda _, stopped: stopped.wait()
    sys.argv = ["qmesh", *asked["words"]]
    main = importlib.import_module("qmesh.cli").main
    try:
        main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0
    return 0


def text_of(descriptor: int) -> str:
    return os.pread(descriptor, 1 << 24, 0).decode(errors="replace")


def answer(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Run a request in a child, and tell how it ended."""
    if "log" in asked:
        return {"code": None, "out": "", "err": "", "points": [], "times": [], "pid": leave_running(asked)}
    out, err, log = (os.memfd_create(name) for name in ("out", "err", "log"))
    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        run_in_child(asked, out, err, log)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    found = {"code": code, "out": text_of(out), "err": text_of(err), "pid": child}
    lines = [line.split(" ", 1) for line in text_of(log).splitlines()]
    found["points"] = [label for _, label in lines]
    found["times"] = [float(at) - begun for at, _ in lines] + [time.monotonic() - begun]
    for descriptor in (out, err, log):
        os.close(descriptor)
    return found


def leave_running(asked: Mapping[str, Any]) -> int:
    """Start what runs on, as an orphan that the machine's first process reaps; its number."""
    reading, writing = os.pipe()
    parent = os.fork()
    if parent == 0:
        child = os.fork()
        if child == 0:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            pathlib.Path("/proc/self/comm").write_text(NAME_OF_AGENT, encoding="ascii")
            out = os.open("/var/lib/qmesh/agent.log", flags, 0o600)
            log = os.open(asked["log"], flags, 0o600)
            os.closerange(3, out)  # who asked waits until nobody has the connection any more
            run_in_child(asked, out, out, log)
        os.write(writing, str(child).encode())
        os._exit(0)
    os.waitpid(parent, 0)
    os.close(writing)
    with os.fdopen(reading) as told:
        return int(told.read())


def run_in_child(asked: Mapping[str, Any], out: int, err: int, log: int) -> NoReturn:
    """Run the command in this process, and end."""
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    code = 70
    with contextlib.suppress(KeyboardInterrupt):
        code = be(asked, log)
    sys.stdout.flush()
    os._exit(code)


def load() -> None:
    """Load all of qmesh, so that no command has to."""
    import qmesh  # noqa: PLC0415 - not when this file is imported

    for module in pkgutil.walk_packages(qmesh.__path__, "qmesh."):
        if module.name != "qmesh.__main__":
            importlib.import_module(module.name)


def serve(path: str) -> None:
    """Answer requests, one a connection."""
    tempfile.gettempdir()
    load()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        print("ready", flush=True)  # noqa: T201 - a program of the lab, it prints its answer
        while True:
            with listening.accept()[0] as connection, connection.makefile("rw") as spoken:
                json.dump(answer(json.loads(spoken.readline())), spoken)


if __name__ == "__main__":
    serve(sys.argv[1])
