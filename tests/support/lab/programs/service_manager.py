"""A stand-in for systemd on a lab machine: as many of its ways as qmesh's units and commands need.

    PROGRAM                         manages services; says `ready`, ends with the machine
    .../systemctl WORDS             asks it, and prints and ends as systemctl(1) does
    .../journalctl -u UNIT [-n N]   what a unit's processes said

It reads the unit files of /etc/systemd/system, their drop-ins and templates, runs what they say in that
order, and starts again what ends. It confines nothing, has no boot, and knows services and targets alone: the
emulated machine of `scripts/test-kernel` has the real one. Each directive is as in systemd.service(5).
"""

# ruff: noqa: T201  # a program of the lab: it prints

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import json
import os
import re
import shlex
import signal
import socket
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

UNITS: Final = Path("/etc/systemd/system")
LOGS: Final = Path("/run/services")
SOCKET: Final = "/run/services/manager"
CLEAN: Final = {0, -signal.SIGHUP, -signal.SIGINT, -signal.SIGTERM, -signal.SIGPIPE}
MINE: Final = ("qmesh*",)
"""Of other units of the machine that the tests run on, nothing is known."""


class JobFailed(Exception):
    """A unit did not start, or is not there."""


def read_unit(name: str) -> dict[str, list[str]] | None:
    """A unit's settings by key, sections aside, with its instance filled in; None where there is none."""
    prefix, at, rest = name.partition("@")
    instance, _, kind = rest.partition(".")
    template = f"{prefix}@.{kind}" if at else name
    file = next((UNITS / each for each in (name, template) if (UNITS / each).is_file()), None)
    if file is None or not any(fnmatch.fnmatch(name, mine) for mine in MINE):
        return None
    drop_ins = sorted(path for each in {name, template} for path in UNITS.glob(f"{each}.d/*.conf"))
    found: dict[str, list[str]] = {}
    for path in (file, *drop_ins):
        for line in path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
            key, equals, value = line.strip().partition("=")
            if not equals or line.startswith(("#", ";", "[")):
                continue
            filled = re.sub("%[%i]", lambda match: "%" if match[0] == "%%" else instance, value)
            found[key] = [*found.get(key, []), filled] if value else []
    return found


class Unit:
    """One unit: what its file says, and how it is."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.settings = read_unit(name)
        self.state, self.sub = "inactive", "dead"
        self.result = "success"
        self.status = self.restarts = 0
        self.process: asyncio.subprocess.Process | None = None
        self.starting: asyncio.Task[None] | None = None
        self.watching: asyncio.Task[None] | None = None
        self.begun = 0

    def get(self, key: str, default: str = "") -> str:
        return ((self.settings or {}).get(key) or [default])[-1]

    def words(self, key: str) -> list[str]:
        return " ".join((self.settings or {}).get(key, ())).split()

    def seconds(self, key: str, default: float) -> float:
        found = re.fullmatch(r"([0-9.]+)(ms|s|min)?", self.get(key))
        return float(found[1]) * {"ms": 0.001, "min": 60}.get(found[2], 1) if found else default

    async def start(self) -> None:
        """Start it, unless it is started; wait for a start that goes on. Raises JobFailed."""
        if self.starting is None or self.starting.done():
            if self.state == "active":
                return
            self._stop_watching()
            self.restarts = 0
            self.starting = asyncio.create_task(self._start())
        await asyncio.shield(self.starting)

    async def _start(self) -> None:
        self.settings = read_unit(self.name)
        if self.settings is None:
            raise JobFailed(f"Unit {self.name} not found.")
        for key in ("ConditionPathExists", "AssertPathExists"):
            if not all(map(os.path.exists, self.settings.get(key, ()))):
                if key.startswith("Condition"):
                    return
                raise JobFailed(f"Assertion failed on job for {self.name}.")
        if self.name.endswith(".target"):
            self.state, self.sub = "active", "active"
            return
        self.state, self.sub, self.begun = "activating", "start-pre", time.monotonic_ns() // 1000
        try:
            async with asyncio.timeout(self.seconds("TimeoutStartSec", 90)):
                await self._run_commands("ExecStartPre")
                self.sub = "start"
                await self._start_main()
                self.sub = "start-post"
                await self._run_commands("ExecStartPost")
        except (JobFailed, TimeoutError, OSError) as error:
            self.result = "timeout" if isinstance(error, TimeoutError) else "exit-code"
            await self._end_main()
            self.watching = asyncio.create_task(self._restart_later(clean=False))
            raise JobFailed(
                f"Job for {self.name} failed because the control process exited with error code.\n"
                f'See "systemctl status {self.name}" and "journalctl -xeu {self.name}" for details.'
            ) from error
        self.result = "success"
        if self.process is None and self.get("RemainAfterExit") != "yes":
            self.state, self.sub = "inactive", "dead"
        else:
            self.state, self.sub = "active", "running" if self.process else "exited"
        if self.process is not None:
            self.watching = asyncio.create_task(self._watch(self.process))

    async def _run_commands(self, key: str) -> None:
        for line in (self.settings or {}).get(key, ()):
            process = await self._spawn(line)
            watched = [asyncio.create_task(process.wait())]
            if key == "ExecStartPost" and self.process is not None:
                watched.append(asyncio.create_task(self.process.wait()))
            try:
                await asyncio.wait(watched[:1])
            finally:
                for each in watched:
                    each.cancel()
                if process.returncode is None:
                    process.kill()
            if process.returncode and not line.startswith("-"):
                self.status = process.returncode
                raise JobFailed(line)

    async def _start_main(self) -> None:
        if self.get("Type") == "oneshot":
            await self._run_commands("ExecStart")
            return
        with contextlib.ExitStack() as stack:
            address, notified = str(LOGS / f"{self.name}.notify"), None
            if self.get("Type") == "notify":
                notified = stack.enter_context(listen_for_notices(address))
            self.process = process = await self._spawn(self.get("ExecStart"), NOTIFY_SOCKET=address)
            if notified is None:
                return
            ends = asyncio.create_task(process.wait())
            try:
                while True:
                    said = asyncio.create_task(asyncio.get_running_loop().sock_recv(notified, 4096))
                    await asyncio.wait((said, ends), return_when=asyncio.FIRST_COMPLETED)
                    if said.done() and b"READY=1" in said.result():
                        return
                    if ends.done():
                        said.cancel()
                        raise JobFailed("ended before it was ready")
            finally:
                ends.cancel()

    async def _spawn(self, line: str, **variables: str) -> asyncio.subprocess.Process:
        words = [word.replace("$$", "$") for word in shlex.split(line.lstrip("-+!:@"))]
        environment = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": "/root",
            "INVOCATION_ID": "0",
            **({"MAINPID": str(self.process.pid)} if self.process else {}),
            **variables,
        }
        with (LOGS / f"{self.name}.log").open("ab") as log:
            try:
                return await asyncio.create_subprocess_exec(
                    *words,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.get("WorkingDirectory", "/"),
                    env=environment,
                    start_new_session=True,
                )
            except OSError as error:
                self.status = 203
                log.write(f"{self.name}: Failed to execute {words[0]}: {error.strerror}\n".encode())
                raise

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Start it again where it ends by itself."""
        status = await process.wait()
        self.process, self.status = None, status
        await self._restart_later(clean=self._is_clean(status))

    async def _restart_later(self, *, clean: bool) -> None:
        wanted = self.get("Restart", "no")
        if not clean:
            self.result = "exit-code"
        if wanted == "no" or (wanted == "on-failure" and clean):
            self.state, self.sub = ("inactive", "dead") if clean else ("failed", "failed")
            return
        self.state, self.sub = "activating", "auto-restart"
        await asyncio.sleep(self.seconds("RestartSec", 0.1))
        self.restarts += 1
        self.state, self.watching = "inactive", None
        self.starting = asyncio.create_task(self._start())
        with contextlib.suppress(JobFailed):
            await asyncio.shield(self.starting)

    def _is_clean(self, status: int) -> bool:
        return status in CLEAN or str(status) in self.words("SuccessExitStatus")

    def _stop_watching(self) -> None:
        if self.watching is not None:
            self.watching.cancel()
            self.watching = None

    async def stop(self) -> None:
        """Stop it, whatever it does at the moment."""
        self._stop_watching()
        if self.starting is not None and not self.starting.done():
            self.starting.cancel()
            await asyncio.wait([self.starting])
        if self.process is None:
            self.state, self.sub = "inactive", "dead"
            return
        self.state, self.sub = "deactivating", "stop-sigterm"
        status = await self._end_main()
        clean = status is None or self._is_clean(status)
        self.result = "success" if clean else "exit-code"
        self.state, self.sub = ("inactive", "dead") if clean else ("failed", "failed")

    async def _end_main(self) -> int | None:
        process, self.process = self.process, None
        if process is None:
            return None
        self._signal(process, getattr(signal, self.get("KillSignal", "SIGTERM")))
        try:
            async with asyncio.timeout(self.seconds("TimeoutStopSec", 90)):
                self.status = await process.wait()
        except TimeoutError:
            self._signal(process, signal.SIGKILL)
            self.status = await process.wait()
        return self.status

    def _signal(self, process: asyncio.subprocess.Process, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self.get("KillMode") == "process":
                process.send_signal(number)
            else:
                os.killpg(process.pid, number)

    def show(self) -> dict[str, str]:
        """Its properties, of which a few are asked for."""
        there = read_unit(self.name) is not None
        return {
            "Id": self.name,
            "LoadState": "loaded" if there else "not-found",
            "ActiveState": self.state,
            "SubState": self.sub,
            "UnitFileState": ("enabled" if list(find_links(self.name)) else "disabled") if there else "",
            "Result": self.result,
            "MainPID": str(self.process.pid if self.process else 0),
            "NRestarts": str(self.restarts),
            "ExecMainCode": "2" if self.status < 0 else "1",
            "ExecMainStatus": str(abs(self.status)),
            "ExecMainStartTimestampMonotonic": str(self.begun),
        }


def listen_for_notices(address: str) -> socket.socket:
    """Where a service tells that it is ready, see sd_notify(3)."""
    with contextlib.suppress(FileNotFoundError):
        Path(address).unlink()
    notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notified.bind(address)
    notified.setblocking(False)
    return notified


def find_links(name: str) -> Iterable[Path]:
    """The links that enable a unit."""
    return UNITS.glob(f"*.wants/{name}")


class Manager:
    """All units, and what systemctl asks of them."""

    def __init__(self) -> None:
        self.units: dict[str, Unit] = {}

    def unit(self, name: str) -> Unit:
        full = name if re.search(r"\.(service|target)$", name) else f"{name}.service"
        return self.units.setdefault(full, Unit(full))

    async def start(self, names: Iterable[str]) -> None:
        """Start units and what they want, in order. Raises JobFailed."""
        asked = [self.unit(name) for name in names]
        for unit in asked:
            if read_unit(unit.name) is None:
                raise JobFailed(f"Failed to start {unit.name}: Unit {unit.name} not found.")
        jobs: dict[str, asyncio.Task[None]] = {}

        async def begin(unit: Unit) -> None:
            if before := [jobs[name] for name in unit.words("After") if name in jobs]:
                await asyncio.wait(before)
            await unit.start()

        for unit in self._with_wanted(asked):
            jobs[unit.name] = asyncio.create_task(begin(unit))
        done = await asyncio.gather(*jobs.values(), return_exceptions=True)
        failed = {name: error for name, error in zip(jobs, done, strict=True) if error is not None}
        for unit in asked:
            if unit.name in failed:
                raise JobFailed(str(failed[unit.name]))

    def _with_wanted(self, asked: Iterable[Unit]) -> list[Unit]:
        """These units, and those that they want and that are there."""
        found, left = [], list(asked)
        while left:
            unit = left.pop()
            unit.settings = read_unit(unit.name)
            if unit.settings is not None and unit not in found:
                found.append(unit)
                left += map(self.unit, unit.words("Wants"))
        return found

    async def stop(self, names: Iterable[str]) -> list[str]:
        """Stop units and what is part of them; those that ran."""
        found = {self.unit(name).name for name in names}
        found |= {unit.name for unit in self.units.values() if found.intersection(unit.words("PartOf"))}
        ran = [name for name in found if self.units[name].state in {"active", "activating"}]
        await asyncio.gather(*(self.units[name].stop() for name in found))
        return ran

    async def answer(self, words: list[str]) -> tuple[int, str, str]:
        """Exit status, output and error output of `systemctl WORDS`."""
        flags = [word for word in words if word.startswith("-")]
        verb, *names = [word for word in words if not word.startswith("-")]
        properties = [each for flag in flags if "property=" in flag for each in flag.split("=")[1].split(",")]
        try:
            if verb in {"start", "stop", "restart", "try-restart"}:
                await self._change_known(verb, names, waits="--no-block" not in flags)
            elif verb in {"enable", "disable"}:
                self._set_links(names, enable=verb == "enable")
                if "--now" in flags:
                    await self._change("start" if verb == "enable" else "stop", names)
            elif verb == "show":
                return 0, self._show(names, properties, values="--value" in flags), ""
            elif verb == "list-units":
                wanted = "".join(flag.split("=")[1] for flag in flags if flag.startswith("--state="))
                return 0, self._list(names, wanted.split(",") if wanted else []), ""
            elif verb in {"is-active", "status"}:
                states = [self.unit(name).state for name in names]
                return 0 if "active" in states else 3, "".join(f"{state}\n" for state in states), ""
            elif verb not in {"daemon-reload", "reset-failed"}:
                return 1, "", f"Unknown command verb {verb}.\n"
        except JobFailed as error:
            return 1, "", f"{error}\n"
        return 0, "", ""

    async def _change_known(self, verb: str, names: list[str], *, waits: bool) -> None:
        """Change the units that there are. Raises JobFailed where one is not, also where nothing waits."""
        running = {"active", "activating"}
        known = [
            name for name in names if read_unit(self.unit(name).name) or self.unit(name).state in running
        ]
        change = asyncio.create_task(self._change(verb, known))
        if waits:
            await change
        else:
            change.add_done_callback(lambda task: task.exception())
        for name in names:
            if name not in known:
                raise JobFailed(f"Failed to {verb} {name}: Unit {name} not found.")

    async def _change(self, verb: str, names: list[str]) -> None:
        if verb == "stop":
            await self.stop(names)
        elif verb == "start":
            await self.start(names)
        else:
            ran = await self.stop(names)
            await self.start(ran if verb == "try-restart" else {*names, *ran})

    def _set_links(self, names: list[str], *, enable: bool) -> None:
        for name in (self.unit(each).name for each in names):
            if read_unit(name) is None:
                raise JobFailed(f"Failed to enable unit: Unit file {name} does not exist.")
            for link in list(find_links(name)):
                link.unlink()
            for target in (read_unit(name) or {}).get("WantedBy", ()) if enable else ():
                (UNITS / f"{target}.wants").mkdir(exist_ok=True)
                (UNITS / f"{target}.wants" / name).symlink_to(UNITS / name)

    def _show(self, names: list[str], properties: list[str], *, values: bool) -> str:
        parts = []
        for name in names:
            shown = self.unit(name).show()
            wanted = {key: shown.get(key, "") for key in properties or shown}
            parts.append("".join(f"{'' if values else f'{key}='}{value}\n" for key, value in wanted.items()))
        return "\n".join(parts)

    def _list(self, patterns: list[str], states: list[str]) -> str:
        lines = (
            f"{unit.name} loaded {unit.state} {unit.sub} {unit.get('Description')}\n"
            for unit in self.units.values()
            if any(fnmatch.fnmatch(unit.name, pattern) for pattern in patterns or ["*"])
            and unit.state in (states or ["active", "activating", "failed"])
        )
        return "".join(sorted(lines))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one run of systemctl."""
        with contextlib.suppress(OSError):
            words: list[str] = json.loads(await reader.readline())
            writer.write(json.dumps(await self.answer(words)).encode())
            await writer.drain()
        writer.close()


async def manage() -> None:
    """Be the manager."""
    async with await asyncio.start_unix_server(Manager().serve, SOCKET) as server:
        print("ready", flush=True)
        await server.serve_forever()


def ask(words: list[str]) -> int:
    """Be systemctl."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(SOCKET)
        asking.sendall(f"{json.dumps(words)}\n".encode())
        said = b"".join(iter(lambda: asking.recv(65536), b""))
    code, output, errors = json.loads(said)
    sys.stdout.write(output)
    sys.stderr.write(errors)
    return int(code)


def print_log(words: list[str]) -> int:
    """Be journalctl, of one unit; without any the log of all."""
    joined = " ".join(words)
    unit = re.search(r"(?:--unit=|-u ?|_SYSTEMD_UNIT=)(\S+)", joined)
    last = re.search(r"(?:--lines=|-n ?)([0-9]+)", joined)
    name = "*" if unit is None else unit[1] if "." in unit[1] else f"{unit[1]}.service"
    lines: list[Any] = []
    for file in sorted(LOGS.glob(f"{name}.log")):
        lines += file.read_text(encoding="utf-8", errors="replace").splitlines()
    for line in lines[-int(last[1]) :] if last else lines:
        print(line)
    return 0


if __name__ == "__main__":
    match Path(sys.argv[0]).name:
        case "systemctl":
            sys.exit(ask(sys.argv[1:]))
        case "journalctl":
            sys.exit(print_log(sys.argv[1:]))
        case _:
            asyncio.run(manage())
