"""The control node's end. It listens on its tunnel address and on the tunnel interface alone."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import resource
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, NamedTuple, Protocol, TypeVar

import msgspec

from qmesh.errors import EnrolmentRefused, KernelRefused, MachineRefused, QmeshError
from qmesh.host.api.client import send_request
from qmesh.host.api.collection import AWAY_S, WAIT_S, CollectedReport, encode_line
from qmesh.host.api.connections import Connections, HttpRequest, RequestTooLarge, Response
from qmesh.host.api.messages import (
    ASKED_FINDINGS,
    CONFLICTS,
    FINDINGS,
    HEALTH,
    KEYS,
    MAX_PADDING,
    MEMBERSHIP,
    NODE_FILES,
    NODE_KEYS,
    PACKETS,
    REDEMPTIONS,
    SUCCESSION,
    ControlNodeUnavailable,
    Refusal,
    ServiceUnresponsive,
    quote_refusal,
)
from qmesh.host.system import agent_notify, heartbeat
from qmesh.host.system.heartbeat import Pulse
from qmesh.host.system.systemd import is_systemd_running
from qmesh.mesh.audit.members import Silence
from qmesh.mesh.protocol.findings_report import FindingsReport
from qmesh.mesh.systemd.instructions import describe_agent_log

T = TypeVar("T")

MAX_JOBS: Final = 8
"""Threads that work for peers at once; fewer for one of them, see `connections`."""
_MESSAGEPACK: Final = "application/vnd.msgpack"
_JSON: Final = "application/json"
_PADDING: Final = "application/octet-stream"
LONGEST_WAIT_S: Final = 60.0
"""Seconds that a member is kept waiting for a newer membership, at most."""
BETWEEN_NEWS_S: Final = 0.2
"""Seconds between two times that all who wait are told, at least: a hundred changes are told as a few."""
BETWEEN_LOOKS_S: Final = 0.02
"""Seconds between two looks at the registry, at least, where questions come faster."""
_STOP_S: Final = 10.0
_GRACE_S: Final = 2.0
_TICK_S: Final = 0.5
_FAREWELL_S: Final = 1.0
"""Seconds that a removed machine has to read that it is no longer a member."""
_MOST_FILES: Final = 65536


class MembershipHandler(Protocol):
    """What the service asks of the agent. Memberships are the MessagePack of an Update."""

    def redeem(self, body: bytes, *, sender: str) -> bytes:
        """Admit a machine; the whole membership. Raises EnrolmentRefused."""

    def finish_redemption(self) -> None:
        """Called once the answer to a redemption is on its way: the throwaway peer may go."""

    def offer_key(self, body: bytes, *, sender: str) -> None:
        """Know the key to which a member changes, and have WireGuard know it. Raises EnrolmentRefused."""

    def report_handover(self, body: bytes, *, sender: str) -> bytes | None:
        """Note how far the successor is; the handover data, where it lacks that. Raises EnrolmentRefused."""

    def fetch_node_files(self, body: bytes, *, sender: str) -> bytes:
        """The node's files for a member that may have them, encrypted. Raises EnrolmentRefused."""

    def report_keys(self, body: bytes, *, sender: str) -> None:
        """Note that the keys of a member's node are others now. Raises EnrolmentRefused."""

    def record_key_report(self, sealed: bytes, *, sender: str) -> None:
        """Note a member's report of its node's keys, encrypted. Doesn't block."""

    def record_note(self, line: str, *, sender: str) -> None:
        """Keep what a member notes of itself; empty for nothing. Doesn't block."""

    def find_membership_update(
        self, *, newer_than: int, whole: bool, sender: str, digest: str
    ) -> bytes | None:
        """What makes the newest of the one of that revision, or all of it; None when none is newer.

        digest: of the one that the sender holds, where it says so. Where that cannot come before the newest
            here, all of it is the answer.
        Doesn't block. Raises EnrolmentRefused for a stranger.
        """

    def report_conflict(self, body: bytes, *, sender: str) -> None:
        """Note a membership that contradicts this one. Raises EnrolmentRefused for any other."""

    def record_acknowledgement(self, sealed: bytes, *, newer_than: int, sender: str) -> None:
        """Note a member's report, encrypted, that it holds that revision. Doesn't block."""

    def refresh_membership(self) -> None:
        """See whether there is a newer one. Raises QmeshError where that can't be seen."""

    def list_departed(self) -> frozenset[str]:
        """The addresses of machines that were members, and are none in the newest membership."""


class FindingsCollector(Protocol):
    """Who asks members for their findings, each with the answer to its next question for news."""

    def begin(self, deliver: Callable[[str, FindingsReport], None]) -> bool:
        """Ask all members; False where an earlier request has not ended. Raises QmeshError.

        deliver: called from any thread with a machine's name and its report, once for each.
        """

    def end(self) -> None:
        """Ask none any more."""

    def list_silent(self) -> dict[str, Silence]:
        """The machines that have not reported yet, and why."""

    def find_request(self, *, sender: str, can_report: bool) -> str | None:
        """Which request a member that asks for news is to answer; None for none. Doesn't block."""

    def accept_report(self, body: bytes, *, sender: str) -> None:
        """Read a member's report and deliver it. Raises EnrolmentRefused for what was not asked for."""


class NewsWaiters:
    """Those who wait for a newer membership, and how they are woken. Of one event loop."""

    def __init__(self) -> None:
        self.is_over = False
        self._waiting: set[asyncio.Future[None]] = set()

    async def wait_for_news(self, seconds: float, hung_up: asyncio.Future[None]) -> None:
        """Until there is news, or that time is over, or the client has closed the connection."""
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()

        def wake(_: object = None) -> None:
            if not woken.done():
                woken.set_result(None)

        timer = loop.call_later(seconds, wake)
        hung_up.add_done_callback(wake)
        self._waiting.add(woken)
        try:
            await woken
        finally:
            self._waiting.discard(woken)
            hung_up.remove_done_callback(wake)
            timer.cancel()

    def wake_waiters(self) -> None:
        """Wake all who wait now."""
        for woken in self._waiting:
            if not woken.done():
                woken.set_result(None)

    def close(self) -> None:
        """Wake all who wait, for ever."""
        self.is_over = True
        self.wake_waiters()


class JobPool:
    """What may block, in threads: so many at once, and of one peer so few that others have their turn."""

    def __init__(self) -> None:
        self._jobs = asyncio.Semaphore(MAX_JOBS)

    async def run_job(self, question: HttpRequest, do: Callable[[], T]) -> T:
        """The result, once it is this peer's turn. Raises what `do` does, and Gone."""
        async with question.peer.jobs, self._jobs:
            if question.hung_up.done():
                raise ClientDisconnected
            return await run_in_thread(do)


class ClientDisconnected(QmeshError):
    """The client closed the connection before its answer."""

    def __init__(self) -> None:
        super().__init__("the connection is closed", hint="run the same command again")


async def run_in_thread(do: Callable[[], T]) -> T:
    """The result of something that may block. Raises what it does.

    Its thread keeps no process alive; one that waits for this and is cancelled leaves it to end by itself.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[tuple[T, None] | tuple[None, BaseException]] = loop.create_future()

    def deliver_result(found: tuple[T, None] | tuple[None, BaseException]) -> None:
        if not done.done():
            done.set_result(found)

    def run() -> None:
        found: tuple[T, None] | tuple[None, BaseException]
        try:
            found = do(), None
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            found = None, error
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(deliver_result, found)

    threading.Thread(target=run, name="membership work", daemon=True).start()
    result, error = await done
    if error is not None:
        raise error
    return result  # type: ignore[return-value]  # it is the result's where there is no error


class Routes:
    """What each question is answered with.

    address: the service's own.
    look: has a look at the registry come, and waits for it.
    """

    def __init__(
        self,
        answers: MembershipHandler,
        news: NewsWaiters,
        *,
        address: str,
        look: Callable[[], Awaitable[None]],
        collector: FindingsCollector | None = None,
    ) -> None:
        self._answers = answers
        self._news = news
        self._address = address
        self._look = look
        self._collector = collector
        self._work = JobPool()
        self._routes: dict[str, tuple[str, Callable[[HttpRequest], Awaitable[Response]]]] = {
            REDEMPTIONS: ("POST", self._redeem),
            KEYS: ("POST", self._offer_key),
            SUCCESSION: ("POST", self._report_handover),
            NODE_FILES: ("POST", self._fetch_node_files),
            NODE_KEYS: ("POST", self._report_keys),
            FINDINGS: ("POST", self._report_findings),
            CONFLICTS: ("POST", self._report_conflict),
            MEMBERSHIP: ("GET", self._poll_membership),
            PACKETS: ("POST", self._answer_padding),
            HEALTH: ("GET", self._check_health),
        }

    async def dispatch_request(self, question: HttpRequest) -> Response:
        """Raises QmeshError, which `build_error_response` words."""
        method, found = self._routes.get(question.path, ("", None))
        if found is None:
            return Response(404)
        return await found(question) if question.method == method else Response(405)

    async def _redeem(self, question: HttpRequest) -> Response:
        answer = await self._run_handler(question, self._answers.redeem)
        return Response(200, answer, _MESSAGEPACK, self._answers.finish_redemption)

    async def _offer_key(self, question: HttpRequest) -> Response:
        await self._run_handler(question, self._answers.offer_key)
        return Response(204)

    async def _report_handover(self, question: HttpRequest) -> Response:
        return _build_response(await self._run_handler(question, self._answers.report_handover))

    async def _fetch_node_files(self, question: HttpRequest) -> Response:
        answer = await self._run_handler(question, self._answers.fetch_node_files)
        return Response(200, answer, _MESSAGEPACK)

    async def _report_keys(self, question: HttpRequest) -> Response:
        await self._run_handler(question, self._answers.report_keys)
        return Response(204)

    async def _report_findings(self, question: HttpRequest) -> Response:
        if self._collector is None:
            return Response(404)
        await self._run_handler(question, self._collector.accept_report)
        return Response(204)

    async def _report_conflict(self, question: HttpRequest) -> Response:
        await self._run_handler(question, self._answers.report_conflict)
        return Response(204)

    async def _run_handler(self, question: HttpRequest, do: Callable[..., T]) -> T:
        return await self._work.run_job(question, lambda: do(question.body, sender=question.peer.address))

    async def _answer_padding(self, question: HttpRequest) -> Response:
        """So many bytes, which say nothing: whether they arrive is the answer."""
        count = min(_parse_number(question.query.get("octets", "")), MAX_PADDING)
        return Response(200, bytes(count), _PADDING)

    async def _check_health(self, question: HttpRequest) -> Response:
        if question.peer.address != self._address:  # no other machine may cause that work
            return Response(404)
        await self._look()
        return Response(204)

    async def _poll_membership(self, question: HttpRequest) -> Response:
        """Answer once there is a newer membership, or when the time is over or the client is gone."""
        newer_than = _parse_number(question.query.get("newer_than", ""))
        wait_s = min(_parse_number(question.query.get("wait", "")), LONGEST_WAIT_S)
        sender = question.peer.address

        def find_update() -> bytes | None:
            is_whole = question.query.get("whole") == "1"
            return self._answers.find_membership_update(
                newer_than=newer_than,
                whole=is_whole,
                sender=sender,
                digest=question.query.get("digest", ""),
            )

        def find_request() -> str | None:
            if self._collector is None:
                return None
            return self._collector.find_request(sender=sender, can_report=question.can_report)

        if question.acknowledgement:
            self._answers.record_acknowledgement(
                question.acknowledgement, newer_than=newer_than, sender=sender
            )
        if question.key_report:
            with contextlib.suppress(ValueError):  # no base64: it is as if there was none
                report = base64.b64decode(question.key_report, validate=True)
                self._answers.record_key_report(report, sender=sender)
        if question.note or wait_s:  # a command says nothing, which is no news
            self._answers.record_note(question.note.decode("ascii", "replace"), sender=sender)
        if not wait_s:  # a command of somebody's, who wants to know how it is now
            await self._look()
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        found = find_update()
        asked = find_request() if wait_s else None
        while (
            found is None
            and asked is None
            and loop.time() < until
            and not (self._news.is_over or question.hung_up.done())
        ):
            await self._news.wait_for_news(until - loop.time(), question.hung_up)
            found = find_update()
            asked = find_request()
        headers = () if asked is None else ((ASKED_FINDINGS, asked),)
        return _build_response(found)._replace(headers=headers)


def _build_response(octets: bytes | None) -> Response:
    return Response(204) if octets is None else Response(200, octets, _MESSAGEPACK)


def _parse_number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else 0


def build_error_response(error: QmeshError) -> Response:
    """How an error is told."""
    status = (
        413 if isinstance(error, RequestTooLarge) else 403 if isinstance(error, EnrolmentRefused) else 503
    )
    return Response(status, msgspec.json.encode(Refusal(error.message, error.hint)), _JSON)


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
        self._looking: asyncio.Task[None] | None = None
        self._next_look: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[None] | None = None
        self._next = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self.should_exit = False
        self.failure: BaseException | None = None

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
        routes = Routes(
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

    async def publish_membership(self) -> None:
        """Look for a newer membership, and have all know who wait; many at once are one look."""
        if self._telling is None:
            self._telling = asyncio.create_task(self._publish_membership())
        await asyncio.shield(self._telling)

    async def _publish_membership(self) -> None:
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(max(0.0, self._next - now))
        self._next = asyncio.get_running_loop().time() + BETWEEN_NEWS_S
        self._telling = None  # what changes from here on, another look sees
        with contextlib.suppress(QmeshError):  # the agent says what is wrong with its registry
            await self.refresh_membership()
        self._news.wake_waiters()

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
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Linux answers for any of its addresses on any interface: the address alone binds nothing.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        listening.bind((address, port))
        listening.listen(4096)
    except OSError as error:
        listening.close()
        raise KernelRefused(
            f"the membership service cannot listen on {address} port {port}: {error.strerror}",
            hint=f"`ss -ltnp sport = :{port}` shows which program has the port: stop that program",
        ) from None
    return listening
