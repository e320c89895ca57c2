"""The agent's parts: started again when they end, found when they hang, and what is wrong with them said.

A part is a thread, or a process of its own, that the agent cannot do without. None ends unnoticed.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from qmesh.errors import MachineRefused, QmeshError
from qmesh.host.lean import service_notice
from qmesh.host.log.events import report_event
from qmesh.host.pulse import Pulse
from qmesh.host.system import processes
from qmesh.host.system.agent_health import Restart, Trouble
from qmesh.mesh.audit import surroundings
from qmesh.mesh.decode import Malformed, decode_json

LOOK: Final = surroundings.LOOK
NOTICES: Final = "notices of the kernel"
ASKING: Final = "questions for the membership"
FOLLOWING: Final = "config.yml and way to the control node"
DISK: Final = "disk of the state directory"
GUARD: Final = "guard's first table"
RETIRING: Final = "questions to the next control node"
HOLDER: Final = surroundings.HOLDER
MONITOR: Final = "monitor"
ANSWERING: Final = "answers to `qmesh check`"
METRICS: Final = "metrics"
METRICS_FILE: Final = "metrics for node_exporter"
METRICS_PORT: Final = "metrics for Prometheus"
READERS: Final = "answers to `qmesh metrics`, `qmesh page` and readers"
READERS_PLACE: Final = "socket for readers"
NOTIFYING: Final = "notifications"
DELIVERY: Final = "delivery of notifications"
PROVING: Final = "proof of the claims"
"""What the parts are called in the log and by `check`."""

AGAIN_S: Final = (0.5, 1.0, 2.0, 5.0, 15.0, 60.0)
"""Seconds until what ended is started again, after so many times in a row."""
SETTLED_S: Final = 120.0
"""Seconds after which what was started again counts as one that never ended."""
LATELY_S: Final = 3600.0
"""Seconds for which a part that was begun anew is worth a word."""
WELL: Final = "all is as desired"
_RESTARTS: Final = "QMESH_AGENT_RESTARTS"
"""In the environment of an agent that has begun anew: what the one before it knew of that."""


def describe_error(error: BaseException) -> str:
    """An error in one line."""
    if isinstance(error, QmeshError):
        return error.message
    if isinstance(error, OSError) and error.strerror:
        return str(error)
    return f"{type(error).__name__}: {error}"


class Troubles:
    """What is wrong with the agent now, a trouble for each part. From any thread.

    changed: told all of it in a line, whenever that is another.
    """

    def __init__(self, changed: Callable[[str], None]) -> None:
        self._changed = changed
        self._found: dict[str, Trouble] = {}
        self._restarts = {each.part: each for each in parse_restarts(os.environ.pop(_RESTARTS, "[]"))}
        self._lock = threading.Lock()
        self._told = ""

    def note(self, part: str, reason: str, *, hint: str = "", error: BaseException | None = None) -> None:
        """Say what is wrong with a part: in the log once, and for an unforeseen error where that was."""
        with self._lock:
            before = self._found.get(part)
            since = time.time() if before is None else before.since
            self._found[part] = Trouble(part=part, reason=reason, hint=hint, since=since)
        if before is None or before.reason != reason:
            foreseen = error is None or isinstance(error, QmeshError | OSError)
            more = f" (hint: {hint})" if hint else ""
            report_event("agent-failing", "%s: %s%s", part, reason, more, error=None if foreseen else error)

    def note_error(self, part: str, error: BaseException) -> None:
        """The same for an error, in its own words."""
        self.note(part, describe_error(error), hint=getattr(error, "hint", ""), error=error)

    def clear(self, part: str) -> None:
        """Say that a part does what it should."""
        with self._lock:
            was = self._found.pop(part, None)
        if was is not None:
            report_event("agent-recovered", "%s: works again", part)

    def note_restart(self, part: str, reason: str) -> None:
        """Remember that a part is begun anew, and why."""
        now = time.time()
        with self._lock:
            before = self._restarts.get(part)
            times = before.times + 1 if before is not None and abs(now - before.last) < LATELY_S else 1
            self._restarts[part] = Restart(part=part, reason=reason, times=times, last=now)

    def recent_restarts(self) -> tuple[Restart, ...]:
        """What was begun anew lately."""
        now = time.time()
        with self._lock:
            return tuple(each for each in self._restarts.values() if abs(now - each.last) < LATELY_S)

    def list_troubles(self) -> tuple[Trouble, ...]:
        """What is wrong now, oldest first."""
        with self._lock:
            return tuple(sorted(self._found.values(), key=lambda trouble: trouble.since))

    def report_status(self) -> None:
        """Say how it stands as a whole, where that is new."""
        text = "; ".join(f"{each.part}: {each.reason}" for each in self.list_troubles()) or WELL
        if text != self._told:
            self._told = text
            self._changed(text)


class Retries:
    """When what has failed is due to be tried again."""

    def __init__(self) -> None:
        self._failed = 0
        self._due = self._begun = 0.0

    def note_start(self) -> None:
        """It was started now."""
        self._begun = time.monotonic()

    def note_failure(self) -> None:
        """It has ended, or did not start."""
        now = time.monotonic()
        if self._begun and now - self._begun > SETTLED_S:
            self._failed = 0
        self._due = now + AGAIN_S[min(self._failed, len(AGAIN_S) - 1)]
        self._begun = 0.0
        self._failed += 1

    @property
    def wait_s(self) -> float:
        """Seconds until it is due; 0 where it is."""
        return max(0.0, self._due - time.monotonic())


class AgentPart:
    """A thread that goes on until `stop`, and is begun again within itself where it fails.

    run: what it does, until `stopped` is set. Raises whatever it wants.
    """

    def __init__(self, name: str, run: Callable[[], object], troubles: Troubles) -> None:
        self.name = name
        self.pulse = Pulse()
        self.stopped = threading.Event()
        self._run = run
        self._troubles = troubles
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, where it does not run."""
        if self.stopped.is_set() or (self._thread is not None and self._thread.is_alive()):
            return
        # It may wait for an answer when the agent ends: that is nothing to wait for.
        self._thread = threading.Thread(target=self._run_with_restarts, name=self.name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Have it end at its next step; nobody waits for it."""
        self.stopped.set()

    def _run_with_restarts(self) -> None:
        retries = Retries()
        self.pulse.attach_thread()
        try:
            while not self.stopped.is_set():
                retries.note_start()
                error: BaseException | None = None
                self._troubles.clear(self.name)
                try:
                    self._run()
                except BaseException as raised:  # noqa: BLE001 - a thread that has ended is missed by nobody
                    error = raised
                if not self.stopped.is_set():
                    self._report_failure(error)
                    retries.note_failure()
                    self.pulse.beat(allowed_s=retries.wait_s)
                    self.stopped.wait(retries.wait_s)
        finally:
            self.pulse.detach_thread()

    def _report_failure(self, error: BaseException | None) -> None:
        error = error or MachineRefused("it ended by itself", hint="")
        self._troubles.note_error(self.name, error)
        self._troubles.note_restart(self.name, describe_error(error))
        self._troubles.report_status()


def restart_agent_process(part: str, pulse: Pulse, troubles: Troubles, directory: Path) -> None:
    """Be another agent in this very process: a thread that hangs cannot be ended otherwise.

    directory: the state directory.
    """
    reason = f"it hung for {pulse.silent_s:.0f} s"
    report_event("agent-hung", "%s: %s, so the agent restarts", part, reason, trace=pulse.format_stack())
    service_notice.notify(f"STATUS=restarts: {part}: {reason}")
    troubles.note_restart(part, reason)
    exec_agent(troubles, directory)


def exec_agent(troubles: Troubles, directory: Path) -> None:
    """Be another agent in this very process, which knows what this one has begun anew."""
    os.environ[_RESTARTS] = msgspec.json.encode(troubles.recent_restarts()).decode()
    words = processes.build_own_command("agent", directory)
    os.execv(words[0], words)  # noqa: S606 - no shell is wanted


def parse_restarts(text: str) -> tuple[Restart, ...]:
    """What the agent that began anew as this one knew. What is not understood is nothing."""
    with contextlib.suppress(Malformed):
        return decode_json(text, tuple[Restart, ...])
    return ()


class Watchdog:
    """Sees whether threads hang. Of the thread that calls `look`, once in `EVERY_S` or so.

    hang: called with the name of one that does. What hangs again and again, it bears for longer each time.
    """

    EVERY_S: Final = 1.0

    def __init__(
        self,
        pulses: Callable[[], Mapping[str, Pulse]],
        troubles: Troubles,
        hang: Callable[[str, Pulse], None],
    ) -> None:
        self._pulses = pulses
        self._troubles = troubles
        self._hang = hang
        self._looked = time.monotonic()

    def check_pulses(self) -> None:
        """See how they are."""
        now = time.monotonic()
        # Where this thread did not come to its turn, the others did not either: the process was stopped.
        has_stopped = now - self._looked > 3 * self.EVERY_S
        self._looked = now
        for name, pulse in self._pulses().items():
            if has_stopped:
                pulse.reset_timer()
            elif pulse.is_stuck and pulse.silent_s > self._allowed_silence_s(name):
                self._hang(name, pulse)

    def _allowed_silence_s(self, name: str) -> float:
        times = next((each.times for each in self._troubles.recent_restarts() if each.part == name), 0)
        return min(2.0**times, 64.0)
