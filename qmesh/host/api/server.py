"""The control node's end. It listens on its tunnel address and on the tunnel interface alone."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import threading
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from qmesh.errors import KernelRefused, MachineRefused, QmeshError
from qmesh.host.api.client import send_request
from qmesh.host.api.collection import AWAY_S, WAIT_S, CollectedReport, encode_line
from qmesh.host.api.connections import Connections
from qmesh.host.api.dispatch import NewsWaiters, Routes, build_error_response
from qmesh.host.api.handlers import FindingsCollector, MembershipHandler
from qmesh.host.api.jobs import run_in_thread
from qmesh.host.api.messages import (
    HEALTH,
    ControlNodeUnavailable,
    ServiceUnresponsive,
    quote_refusal,
)
from qmesh.host.pulse import Pulse
from qmesh.host.system import agent_notify, heartbeat
from qmesh.host.system.systemd import is_systemd_running
from qmesh.mesh.audit.members import Silence
from qmesh.mesh.protocol.findings_report import FindingsReport
from qmesh.mesh.systemd.instructions import describe_agent_log

BETWEEN_NEWS_S: Final = 0.2
"""Seconds between two times that all who wait are told, at least: a hundred changes are told as a few."""
NEWS_APART: Final = 3
"""The same, in times of how long telling them took: those who join must have their turns in between."""
JOINS_FIRST_S: Final = 0.5
"""Seconds that news waits for those who join just now, at most: they are the next news."""
BETWEEN_LOOKS_S: Final = 0.02
"""Seconds between two looks at the registry, at least, where questions come faster."""
_STOP_S: Final = 10.0
_GRACE_S: Final = 2.0
_TICK_S: Final = 0.5
_FAREWELL_S: Final = 1.0
"""Seconds that a removed machine has to read that it is no longer a member."""
_MOST_FILES: Final = 65536


def _is_collection_over(silent: Iterable[Silence], waited_s: float) -> bool:
    """Whether nothing more is worth waiting for, after so many seconds."""
    return waited_s >= WAIT_S or not any(
        each == "silent" or (each == "away" and waited_s < AWAY_S) for each in silent
    )


class Collection(NamedTuple):
    """How members are asked for their findings. asked: listens; a connection to it is a request."""

    asked: socket.socket
    collector: FindingsCollector


class _Server:
    """All that runs in one event loop: connections, who waits for news, and the socket by which it is told.

    should_exit: set from another thread, has it end.
    failure: what ended one of the tasks by which it tells news, and so all of it.
    """

    def __init__(
        self,
        answers: MembershipHandler,
        listening: socket.socket,
        told: socket.socket,
        collection: Collection | None,
    ) -> None:
        self._answers = answers
        self._listening = listening
        self._told = told
        self._collection = collection
        self._news = NewsWaiters()
        self._routes: Routes | None = None
        self._looks = 0
        self._looking: asyncio.Task[None] | None = None
        self._next_look: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[None] | None = None
        self._publishing = asyncio.Lock()
        self._next = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self.should_exit = False
        self.failure: BaseException | None = None

    @property
    def work_done(self) -> int:
        """How many looks at the registry and turns of redemptions have come to an end."""
        return self._looks + (0 if self._routes is None else self._routes.redemptions.ended)

    def announce_change(self) -> None:
        """Wake all clients that wait. From any thread; before the start there are none."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended
                asyncio.run_coroutine_threadsafe(self._publish_or_fail(), self._loop)

    async def run(self) -> None:
        """Until it is to end. At rest it looks at the clock twice a second."""
        self._loop = asyncio.get_running_loop()
        address = self._listening.getsockname()[0]
        collector = None if self._collection is None else self._collection.collector
        routes = self._routes = Routes(
            self._answers, self._news, address=address, look=self.refresh_membership, collector=collector
        )
        self._connections = Connections(self._listening, routes.dispatch_request, build_error_response)
        self._connections.start_accepting()
        try:
            # As any stream: what knows of Unix sockets would look for the file that the socket's name says.
            async with contextlib.AsyncExitStack() as serving:
                await serving.enter_async_context(
                    await asyncio.start_server(self._handle_notification, sock=self._told)
                )
                if self._collection is not None:
                    await serving.enter_async_context(
                        await asyncio.start_server(self._handle_collection, sock=self._collection.asked)
                    )
                while not self.should_exit:
                    self.tick()
                    await asyncio.sleep(_TICK_S)
        finally:
            self._loop = None
            self._news.close()
            await self._connections.shut_down(grace_s=_GRACE_S)

    def tick(self) -> None:
        """Show that it goes on."""
        heartbeat.beat()

    async def _handle_notification(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        try:
            await self.publish_membership()
            await self._wait_for_departed()
            writer.write(agent_notify.PASSED_ON)
            await writer.drain()
        except OSError:
            pass  # who told it did not wait
        except Exception as error:  # noqa: BLE001 - nobody awaits this task
            self._record_failure(error)
        finally:
            writer.close()

    async def _handle_collection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Collect the findings of all members for a command of this machine, and send them as they come."""
        assert self._collection is not None
        collector = self._collection.collector
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[CollectedReport] = asyncio.Queue()

        def deliver(machine: str, report: FindingsReport) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(arrived.put_nowait, CollectedReport(machine=machine, report=report))

        try:
            if await run_in_thread(lambda: collector.begin(deliver)):
                try:
                    await self._send_reports(collector, arrived, reader, writer)
                finally:
                    collector.end()
            else:
                writer.write(encode_line(CollectedReport(is_busy=True)))
                await writer.drain()
        except (OSError, QmeshError):  # it has gone, or the registry fails, which the agent says
            pass
        except Exception as error:  # noqa: BLE001 - nobody awaits this task
            self._record_failure(error)
        finally:
            writer.close()

    async def _send_reports(
        self,
        collector: FindingsCollector,
        arrived: asyncio.Queue[CollectedReport],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        loop = asyncio.get_running_loop()
        began, woken_at = loop.time(), -1.0
        while not (self.should_exit or reader.at_eof()):  # whoever asked may have gone
            waited_s = loop.time() - began
            if waited_s - woken_at >= 1.0:  # who waits for news is asked; who comes later, as it comes
                self._news.wake_waiters()
                woken_at = waited_s
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK_S):
                    writer.write(encode_line(await arrived.get()))
                    await writer.drain()
                continue
            silent = collector.list_silent()
            await asyncio.sleep(0)  # what was delivered before that look is in the queue
            if arrived.empty() and _is_collection_over(silent.values(), loop.time() - began):
                for machine, why in silent.items():
                    writer.write(encode_line(CollectedReport(machine=machine, silence=why)))
                writer.write(encode_line(CollectedReport()))
                await writer.drain()
                return

    async def _publish_or_fail(self) -> None:
        try:
            await self.publish_membership()
        except Exception as error:  # noqa: BLE001 - nobody awaits this task
            self._record_failure(error)

    def _record_failure(self, error: Exception) -> None:
        self.failure = error
        self.should_exit = True

    async def refresh_membership(self) -> None:
        """Look for a newer membership, from now on; many at once are one look. Raises what that does."""
        if self._next_look is None:
            self._next_look = asyncio.create_task(self._refresh_after(self._looking))
        await asyncio.shield(self._next_look)

    async def _refresh_after(self, before: asyncio.Task[None] | None) -> None:
        if before is not None and not before.done():
            await asyncio.wait({before})
            await asyncio.sleep(BETWEEN_LOOKS_S)
        self._looking, self._next_look = self._next_look, None  # what changes from here on, another look sees
        await run_in_thread(self._answers.refresh_membership)
        self._looks += 1

    async def publish_membership(self) -> None:
        """Look for a newer membership, and have all know who wait; many at once are one look."""
        if self._telling is None:
            self._telling = asyncio.create_task(self._publish_membership())
        await asyncio.shield(self._telling)

    async def _publish_membership(self) -> None:
        loop = asyncio.get_running_loop()
        async with self._publishing:
            await asyncio.sleep(max(0.0, self._next - loop.time()))
            if self._routes is not None:
                await self._routes.redemptions.wait_until_idle(JOINS_FIRST_S)
            self._telling = None  # what changes from here on, another look sees
            with contextlib.suppress(QmeshError):  # the agent says what is wrong with its registry
                await self.refresh_membership()
            began = loop.time()
            self._news.wake_waiters()
            await asyncio.sleep(0)  # by then each has its answer, or as much of it as it takes at once
            self._next = began + max(BETWEEN_NEWS_S, NEWS_APART * (loop.time() - began))

    async def _wait_for_departed(self) -> None:
        """Wait until those who were members have taken the news, and hung up."""
        departed = self._answers.list_departed()
        until = asyncio.get_running_loop().time() + _FAREWELL_S
        while asyncio.get_running_loop().time() < until:
            if not self._connections.has_connection_from(departed):
                return
            await asyncio.sleep(0.01)


def _do_nothing() -> None:
    pass


def _build_probe_error(body: bytes) -> MachineRefused:
    """Why it does not serve, as its answer says."""
    words = quote_refusal(body)
    return MachineRefused(
        "it fails" if words is None else f"it answers: {words}",
        hint=f"see the agent's log: {describe_agent_log(has_systemd=is_systemd_running())}",
    )


class Service:
    """The running service: a thread of its own, from `start` to `stop`.

    told: a listening socket, from here on the service's; a connection to it means that the membership may
        have changed.
    collection: where `check --all` asks for the findings of all members; its socket is the service's as well.
    ended: called from its thread when that ends.
    """

    def __init__(
        self,
        answers: MembershipHandler,
        *,
        address: str,
        port: int,
        interface: str,
        told: socket.socket,
        collection: Collection | None = None,
        ended: Callable[[], None] = _do_nothing,
    ) -> None:
        self.pulse = Pulse()
        self.failure: BaseException | None = None
        """What ended it, where it was not `stop` and not without an error."""
        self._ended = ended
        self._interface = interface
        try:
            self._socket = _listen(address, port, interface)
        except KernelRefused:
            told.close()
            if collection is not None:
                collection.asked.close()
            raise
        self._server = _Server(answers, self._socket, told, collection)
        self._told = told
        self._collection = collection
        self._thread = threading.Thread(target=self._run, name="membership service", daemon=True)

    def start(self) -> None:
        """Begin to answer. Of a large mesh each member has a connection that waits."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, _MOST_FILES)), hard))
        self._thread.start()

    def _run(self) -> None:
        self.pulse.attach_thread()
        try:
            asyncio.run(self._server.run())
        except BaseException as error:  # noqa: BLE001 - who keeps it asks what ended it
            self.failure = error
        finally:
            self.failure = self.failure or self._server.failure
            self.pulse.detach_thread()
            self._ended()

    def probe(self, *, wait_s: float) -> None:
        """Ask it as a member does, through the kernel and all of its rules, whether it serves.

        wait_s: seconds to wait for the connection, and for the answer.
        Raises KernelRefused where it is unreachable, ServiceUnresponsive where it accepts a request and
        does not answer, MachineRefused with its own text where it answers that it fails.
        """
        place = self._socket.getsockname()[:2]
        with (
            heartbeat.allow_wait(2 * wait_s),
            socket.socket(self._socket.family, socket.SOCK_STREAM) as asking,
        ):
            asking.settimeout(wait_s)
            asking.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self._interface.encode())
            try:
                asking.connect(place)
            except OSError as error:
                raise KernelRefused(
                    f"it is unreachable from this machine itself: {error.strerror or error}",
                    hint="look in `nft list ruleset` for a rule that drops packets of this machine to itself",
                ) from None
            try:
                answer = send_request(asking, "GET", HEALTH, host="qmesh", read_s=wait_s)
            except ControlNodeUnavailable as error:
                raise ServiceUnresponsive(str(error)) from None
        if answer.status != 204:
            raise _build_probe_error(answer.body)

    def announce_change(self) -> None:
        """Have all who wait know that the membership may be another. From any thread."""
        self._server.announce_change()

    @property
    def work_done(self) -> int:
        """A number that grows for as long as it works for peers. From any thread."""
        return self._server.work_done

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended by itself."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """End it, and wait until it has ended. One that hangs is left to the end of this process."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            with heartbeat.allow_wait(_STOP_S):
                self._thread.join(_STOP_S)
        self._socket.close()
        self._told.close()
        if self._collection is not None:
            self._collection.asked.close()


def _listen(address: str, port: int, interface: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # With the protocol named, asyncio sends an answer's parts at once (TCP_NODELAY) and saves 40 ms.
    try:
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise _build_listen_error(address, port, error) from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Linux answers for any of its addresses on any interface: the address alone binds nothing.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        listening.bind((address, port))
        listening.listen(4096)
    except OSError as error:
        listening.close()
        raise _build_listen_error(address, port, error) from None
    return listening


def _build_listen_error(address: str, port: int, error: OSError) -> KernelRefused:
    return KernelRefused(
        f"the membership service cannot listen on {address} port {port}: {error.strerror}",
        hint=f"`ss -ltnp sport = :{port}` shows which program has the port: stop that program",
    )
