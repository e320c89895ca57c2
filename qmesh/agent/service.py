"""The agent: observe, plan, apply, for ever; and, on the control node, serve those who join."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import select
import signal
import time
from collections.abc import Sequence
from socket import socket
from typing import TYPE_CHECKING, Final

from qmesh.agent import succeeding
from qmesh.agent.asking import Asking
from qmesh.agent.following import Follower
from qmesh.agent.here import Here, require_root
from qmesh.agent.reaching import Reach
from qmesh.agent.serving import ControlNode, Turns
from qmesh.agent.undoing import put_back_when_due
from qmesh.agent.watching import Watch
from qmesh.errors import MachineRefused, QmeshError, StateUnreadable
from qmesh.host import links, processes, telling
from qmesh.host.linux import close_as_at_boot
from qmesh.host.state import State
from qmesh.mesh.plan import LoadGuard, Step

if TYPE_CHECKING:
    from qmesh.host.channel.service import Service

log = logging.getLogger("qmesh")

LOOK_S: Final = 5.0
"""Seconds between two looks at the machine, at most."""
CHANGING_S: Final = 0.1
"""The same, while a machine changes its key: what it sends before that is seen is lost; and while another
machine is about to be heard as the control node."""
BREATH_S: Final = 0.02
"""Seconds between two looks, at least: another program may change the rules without end."""
MOST_STEPS_TOLD: Final = 20
"""Of one look; a first apply has one for each peer."""


def run(state: State) -> None:
    """Be this machine's agent until SIGTERM or SIGINT; tunnel and guard stay as they are then.

    Raises MachineRefused when there is one already, BadInput when the machine is in no mesh.
    """
    require_root("qmesh agent")
    with contextlib.suppress(StateUnreadable):  # then it keeps the ports closed at least
        state.settings()
    with processes.only(state.agent_lock_file) as alone:
        if not alone:
            raise MachineRefused(
                "this machine's agent runs already", hint="stop that one first, or leave it to its work"
            )
        Agent(state).run()


class Calls:
    """What the loop waits for: that it is time, a word from elsewhere in this process, or a notice.

    notices: readable when the kernel has something to tell.
    """

    def __init__(self, notices: Sequence[socket]) -> None:
        self._woken, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._notices = notices
        self._stopped = False
        self._next = 0.0
        self.look()

    def close(self) -> None:
        """Wait no more."""
        os.close(self._woken)
        os.close(self._wake)

    def look(self) -> None:
        """Have a look come at once. From any thread, and from a signal handler."""
        with contextlib.suppress(BlockingIOError):  # then many are waiting to be read
            os.write(self._wake, b"\n")

    def stop(self) -> None:
        """Have no look come any more. As `look`."""
        self._stopped = True
        self.look()

    def wait(self, seconds: float = LOOK_S) -> bool:
        """Wait for the next look, so long at most; False when there is to be none."""
        time.sleep(max(0.0, self._next - time.monotonic()))
        select.select([self._woken, *(each.fileno() for each in self._notices)], [], [], seconds)
        self._next = time.monotonic() + BREATH_S
        with contextlib.suppress(BlockingIOError):
            os.read(self._woken, 1 << 16)
        return not self._stopped


class Agent:
    """The loop. All that it does to the machine, it does from the thread that calls `run`."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._watch = Watch(state)
        self._follower = Follower(state)
        self._reach = Reach(state)
        self._calls = Calls(self._watch.notices.sockets)
        self._service: tuple[object, Service] | None = None
        self._control_node: ControlNode | None = None
        self._announced: int | None = None
        self._turns = Turns(self._calls.look)
        self._asking = Asking(state, arrived=self._calls.look)
        self._ready = False
        self._said = ""
        self._told: tuple[tuple[bool, list[str]], float] = ((False, []), 0.0)

    def run(self) -> None:
        """Go on until a signal says stop."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._calls.stop())
        with contextlib.suppress(QmeshError), self._state.lock():
            self._state.remove_half_written()
        # What is loaded by now lives as long as this process: no collection need look at it again.
        gc.freeze()
        log.info("the agent has begun")
        with contextlib.closing(self._calls), self._watch:
            try:
                while self._calls.wait(
                    CHANGING_S if self._watch.is_changing or self._is_succeeded else LOOK_S
                ):
                    self._turn()
            finally:
                processes.notify("STOPPING=1")
                self._asking.stop()
                self._stop_service()
        log.info("the agent has ended; tunnel and guard stay as they are")

    def _turn(self) -> None:
        """One look; what goes wrong is said once, and tried again at the next."""
        try:
            with self._turns.one():
                here = self._look()
            self._say_ready()
            self._follower.turn(here)
            if not here.settings.control:
                self._asking.start()
                if here.settings.up and self._reach.turn(here):
                    self._calls.look()
        except QmeshError as error:
            self._fail(f"{error.message} (hint: {error.hint})")
        except OSError as error:
            self._fail(f"this look failed: {error}")
        else:
            self._say(self._asking.trouble or "all is as desired")

    def _fail(self, text: str) -> None:
        self._say(text)
        with contextlib.suppress(QmeshError):
            if close_as_at_boot(self._state):
                log.warning("the guard was gone: it was loaded as at boot")
        self._watch.notices.take()  # a look that failed early has not; the next is at everything

    def _look(self) -> Here:
        with self._state.lock():
            put_back_when_due(self._state)  # whoever else should have is gone
            succeeding.go_on(self._state)
            here, steps = self._watch.look()
        self._tell(steps)
        if here.settings.control:
            self._keep_service(here)
            if self._service is not None and self._control_node is not None:
                self._control_node.write_acknowledged()
                if self._watch.event != self._announced or self._control_node.is_due_to_all:
                    self._announced = self._watch.event
                    self._service[1].announce()
            if self._is_succeeded and succeeding.retire_when_answered(self._state, here):
                self._stop_service()  # before the tunnels to the members go: it tells them
                self._calls.look()
        return here

    @property
    def _is_succeeded(self) -> bool:
        return self._control_node is not None and self._control_node.is_succeeded

    def _tell(self, steps: tuple[Step, ...]) -> None:
        """Log what was done, and who made it necessary; the same again and again but every few seconds."""
        noticed = self._watch.noticed
        lines = [f"{step.kind} {step.subject}: {step.detail}" for step in steps[:MOST_STEPS_TOLD]]
        by = (
            noticed.by if noticed is not None and any(isinstance(step, LoadGuard) for step in steps) else None
        )
        if by:
            lines.insert(0, f"the guard's table was changed by {by}")
        if len(steps) > MOST_STEPS_TOLD:
            lines.append(f"and {len(steps) - MOST_STEPS_TOLD} steps more")
        what = bool(by), [step.kind for step in steps]  # who it was may be known of the next one only
        if not lines or (self._told[0] == what and time.monotonic() < self._told[1]):
            return
        self._told = what, time.monotonic() + LOOK_S
        for line in lines:
            log.info("%s", line)

    def _keep_service(self, here: Here) -> None:
        """The service is bound to the interface as it is: one that was made anew wants a new one."""
        link = links.read(here.settings.interface) if here.settings.up else None
        wanted = None if link is None else (link.index, here.machine.address, here.inventory.service_port)
        if self._service is not None and (self._service[0] != wanted or not self._service[1].is_alive):
            self._stop_service()
        if self._service is None and wanted is not None:
            from qmesh.host.channel.service import Service  # noqa: PLC0415 - no worker machine has a use for it

            self._control_node = ControlNode(self._state, changed=self._calls.look, turns=self._turns)
            service = Service(
                self._control_node,
                address=here.machine.address,
                port=here.inventory.service_port,
                interface=here.settings.interface,
                told=telling.listen(self._state.directory),
            )
            service.start()
            self._service = wanted, service
            log.info("members are served at %s port %d", here.machine.address, here.inventory.service_port)

    def _stop_service(self) -> None:
        if self._service is not None:
            if self._control_node is not None:
                self._control_node.tell_all()
            self._service[1].stop()
            self._service = self._control_node = None

    def _say_ready(self) -> None:
        if not self._ready:
            self._ready = True
            processes.notify("READY=1")

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            log.info("%s", text)
