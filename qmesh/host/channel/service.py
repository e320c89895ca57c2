"""The control node's end. It listens on its tunnel address and on the tunnel interface alone."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import threading
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from qmesh.errors import EnrolmentRefused, KernelRefused, MachineRefused, QmeshError
from qmesh.host import pulse, telling
from qmesh.host.channel.messages import (
    HEALTH,
    KEYS,
    MAX_BODY,
    MEMBERSHIP,
    REDEMPTIONS,
    SUCCESSION,
    Refusal,
    Unanswered,
    words_of,
)
from qmesh.host.pulse import Pulse

T = TypeVar("T")

REQUEST_S: Final = 20.0
"""Seconds from the connection until the request has arrived whole."""
MAX_CONNECTIONS_A_PEER: Final = 8
"""Connections that one tunnel address may have at once: what it wants beyond that is hung up on."""
_MESSAGEPACK: Final = "application/vnd.msgpack"
LONGEST_WAIT_S: Final = 60.0
"""Seconds that a member is kept waiting for a newer membership, at most."""
BETWEEN_NEWS_S: Final = 0.2
"""Seconds between two times that all who wait are told, at least: a hundred changes are told as a few."""
_STOP_S: Final = 10.0
_MOST_SAID: Final = 4096
_FAREWELL_S: Final = 1.0
"""Seconds that a machine has to take the news that it is no member any more."""


class Answers(Protocol):
    """What the service asks of the agent. Memberships are the MessagePack of an Update."""

    def redeem(self, body: bytes, *, sender: str) -> bytes:
        """Admit a machine; the whole membership. Raises EnrolmentRefused."""

    def redeemed(self) -> None:
        """Called once the answer to a redemption is on its way: the throwaway peer may go."""

    def offer_key(self, body: bytes, *, sender: str) -> None:
        """Know the key to which a member changes, and have WireGuard know it. Raises EnrolmentRefused."""

    def succeed(self, body: bytes, *, sender: str) -> bytes | None:
        """Note how far the successor is; the estate, where it lacks that. Raises EnrolmentRefused."""

    def membership(self, *, newer_than: int, whole: bool, sender: str) -> bytes | None:
        """What makes the newest of the one of that revision, or all of it; None when none is newer.

        Doesn't block. Raises EnrolmentRefused for a stranger.
        """

    def refresh(self) -> None:
        """See whether there is a newer one. Raises QmeshError where that can't be seen."""

    def departed(self) -> frozenset[str]:
        """The addresses of machines that were members, and are none in the newest membership."""


class News:
    """Those who wait for a newer membership, and how they are woken. Of one event loop."""

    def __init__(self) -> None:
        self.is_over = False
        self._told = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        """Until there is news, or that time is over."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._told.wait(), seconds)

    def tell(self) -> None:
        """Wake all who wait now."""
        self._told.set()
        self._told = asyncio.Event()

    def end(self) -> None:
        """Wake all who wait, for ever."""
        self.is_over = True
        self.tell()


def application(answers: Answers, news: News) -> Starlette:
    """The service as an ASGI application."""

    async def told(request: Request, do: Callable[..., T]) -> T:
        body = await _bounded_body(request)
        return await run_in_threadpool(do, body, sender=_sender(request))

    async def redeem(request: Request) -> Response:
        answer = await told(request, answers.redeem)
        task = BackgroundTask(answers.redeemed)
        return Response(answer, media_type=_MESSAGEPACK, background=task)

    async def offer_key(request: Request) -> Response:
        await told(request, answers.offer_key)
        return Response(status_code=204)

    async def succeed(request: Request) -> Response:
        return _found(await told(request, answers.succeed))

    async def health(request: Request) -> Response:
        if request.scope["server"][0] != _sender(request):  # nobody else's business, and no work for others
            return Response(status_code=404)
        await run_in_threadpool(answers.refresh)
        return Response(status_code=204)

    async def membership(request: Request) -> Response:
        return _found(await _membership(request, answers, news))

    return Starlette(
        routes=[
            Route(REDEMPTIONS, redeem, methods=["POST"]),
            Route(KEYS, offer_key, methods=["POST"]),
            Route(SUCCESSION, succeed, methods=["POST"]),
            Route(MEMBERSHIP, membership, methods=["GET"]),
            Route(HEALTH, health, methods=["GET"]),
        ],
        exception_handlers={QmeshError: _refusing},
    )


def _found(octets: bytes | None) -> Response:
    if octets is None:
        return Response(status_code=204)
    return Response(octets, media_type=_MESSAGEPACK)


async def _membership(request: Request, answers: Answers, news: News) -> bytes | None:
    """Now, or once there is one that is newer, or None when the time is over."""
    asked = request.query_params
    wait_s = min(_number(asked.get("wait", "")), LONGEST_WAIT_S)

    def answer() -> bytes | None:
        return answers.membership(
            newer_than=_number(asked.get("newer_than", "")),
            whole=asked.get("whole") == "1",
            sender=_sender(request),
        )

    if not wait_s:  # a command of somebody's, who wants to know how it is now
        await run_in_threadpool(answers.refresh)
    loop = asyncio.get_running_loop()
    until = loop.time() + wait_s
    found = answer()
    while found is None and loop.time() < until and not news.is_over:
        await news.wait(until - loop.time())
        found = answer()
    return found


async def _bounded_body(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise _TooLarge
    return body


class _TooLarge(QmeshError):
    """A request that is none of qmesh's."""

    def __init__(self) -> None:
        super().__init__("the request is too large", hint="use qmesh")


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else 0


def _sender(request: Request) -> str:
    return request.client.host if request.client else ""


async def _refusing(_: Request, error: Exception) -> Response:
    assert isinstance(error, QmeshError)
    body = msgspec.json.encode(Refusal(error.message, error.hint))
    status = 413 if isinstance(error, _TooLarge) else 403 if isinstance(error, EnrolmentRefused) else 503
    return Response(body, status_code=status, media_type="application/json")


class _FewAPeer(H11Protocol):
    """No peer has so many connections that others go without."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._of_same_peer() > MAX_CONNECTIONS_A_PEER:
            transport.abort()

    def _of_same_peer(self) -> int:
        """How many connections who is at the other end has, this one included."""
        clients = [getattr(other, "client", None) or ("",) for other in self.connections]
        return [address for address, *_ in clients].count(self.client[0] if self.client else "")


class _OneRequest(_FewAPeer):
    """A connection serves one request, and is hung up on when that has not arrived in time."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(REQUEST_S, self._hang_up)

    def _hang_up(self) -> None:
        # Before the head of a request has arrived there is no cycle, whatever its type says.
        if getattr(self.cycle, "more_body", True):
            self.transport.abort()


_MOST_FILES: Final = 65536


class _Server(uvicorn.Server):
    """With what else runs in its event loop: who waits for news, and the socket by which it is told.

    failure: what ended one of the tasks by which it tells news, and so all of it.
    """

    def __init__(self, config: uvicorn.Config, answers: Answers, news: News, told: socket.socket) -> None:
        super().__init__(config)
        self._answers = answers
        self._news = news
        self._told = told
        self._telling: asyncio.Task[None] | None = None
        self._next = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self.failure: BaseException | None = None

    def announce(self) -> None:
        """Spread the news. From any thread; nothing before it has begun, when nobody can wait."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended
                asyncio.run_coroutine_threadsafe(self._announced(), self._loop)

    async def main_loop(self) -> None:
        """At rest it looks at the clock twice a second; uvicorn's own does ten times, which is felt."""
        self._loop = asyncio.get_running_loop()
        try:
            # As any stream: what knows of Unix sockets would look for the file that the socket's name says.
            async with await asyncio.start_server(self._hear, sock=self._told):
                while not await self.on_tick(0):  # another thread, in `stop`, asks it to end
                    pulse.beat()
                    await asyncio.sleep(0.5)
        finally:
            self._loop = None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Who waits for news is answered first."""
        self._news.end()
        await super().shutdown(sockets)

    async def _hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        try:
            await self.spread()
            await self._see_off()
            writer.write(telling.PASSED_ON)
            await writer.drain()
        except OSError:
            pass  # who told it did not wait
        except Exception as error:  # noqa: BLE001 - nobody awaits this task
            self._fail(error)
        finally:
            writer.close()

    async def _announced(self) -> None:
        try:
            await self.spread()
        except Exception as error:  # noqa: BLE001 - nobody awaits this task
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.failure = error
        self.should_exit = True

    async def spread(self) -> None:
        """Look for a newer membership, and have all know who wait; many at once are one look."""
        if self._telling is None:
            self._telling = asyncio.create_task(self._spread())
        await asyncio.shield(self._telling)

    async def _spread(self) -> None:
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(max(0.0, self._next - now))
        self._next = asyncio.get_running_loop().time() + BETWEEN_NEWS_S
        self._telling = None  # what changes from here on, another look sees
        with contextlib.suppress(QmeshError):  # the agent says what is wrong with its registry
            await run_in_threadpool(self._answers.refresh)
        self._news.tell()

    async def _see_off(self) -> None:
        """Wait until those who were members have taken the news, and hung up."""
        departed = self._answers.departed()
        until = asyncio.get_running_loop().time() + _FAREWELL_S
        while asyncio.get_running_loop().time() < until:
            if departed.isdisjoint(map(_peer_of, self.server_state.connections)):
                return
            await asyncio.sleep(0.01)


def _peer_of(connection: object) -> str:
    client: tuple[str, int] | None = getattr(connection, "client", None)
    return "" if client is None else client[0]


def _nobody() -> None:
    pass


def _said(body: bytes) -> MachineRefused:
    """Why it does not serve, in the words of whoever answers there."""
    words = words_of(body)
    return MachineRefused("it fails" if words is None else f"it answers: {words}", hint="see the agent's log")


class Service:
    """The running service: a thread of its own, from `start` to `stop`.

    told: a listening socket, from here on the service's; whoever connects to it says that the
        membership may be another.
    ended: called from its thread when that ends.
    """

    def __init__(
        self,
        answers: Answers,
        *,
        address: str,
        port: int,
        interface: str,
        told: socket.socket,
        ended: Callable[[], None] = _nobody,
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
            raise
        news = News()
        self._server = _Server(
            uvicorn.Config(
                application(answers, news),
                access_log=False,
                log_config=None,
                lifespan="off",
                ws="none",
                http=_OneRequest,
                headers=[("connection", "close")],
                proxy_headers=False,
                limit_concurrency=16384,
                timeout_keep_alive=5,
                timeout_graceful_shutdown=2,
                h11_max_incomplete_event_size=MAX_BODY,
                server_header=False,
                date_header=False,
            ),
            answers,
            news,
            told,
        )
        self._told = told
        self._thread = threading.Thread(target=self._run, name="membership service", daemon=True)

    def start(self) -> None:
        """Begin to answer. Of a large mesh each member has a connection that waits."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, _MOST_FILES)), hard))
        self._thread.start()

    def _run(self) -> None:
        self.pulse.adopt()
        try:
            self._server.run(sockets=[self._socket])
        except BaseException as error:  # noqa: BLE001 - who keeps it asks what ended it
            self.failure = error
        finally:
            self.failure = self.failure or self._server.failure
            self.pulse.rest()
            self._ended()

    def probe(self, *, wait_s: float) -> None:
        """Ask it as a member does, through the kernel and all of its rules, whether it serves.

        wait_s: seconds to wait for the connection, and for the answer.
        Raises KernelRefused where it is not reached, Unanswered where it takes a question and says nothing,
        MachineRefused with its own words where it answers that it can't serve.
        """
        place = self._socket.getsockname()[:2]
        with pulse.allowed(2 * wait_s), socket.socket(self._socket.family, socket.SOCK_STREAM) as asking:
            asking.settimeout(wait_s)
            asking.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self._interface.encode())
            try:
                asking.connect(place)
            except OSError as error:
                raise KernelRefused(
                    f"it is not reached from this machine: {error.strerror or error}",
                    hint="does a rule drop what this machine sends to itself? see `nft list ruleset`",
                ) from None
            try:
                asking.sendall(f"GET {HEALTH} HTTP/1.1\r\nHost: qmesh\r\n\r\n".encode())
                with asking.makefile("rb") as said:
                    head, _, body = said.read(_MOST_SAID).partition(b"\r\n\r\n")
            except OSError as error:
                raise Unanswered(error.strerror or str(error)) from None
        if not head.startswith(b"HTTP/1.1 "):
            raise Unanswered("it hung up")
        if not head.startswith(b"HTTP/1.1 204 "):
            raise _said(body)

    def announce(self) -> None:
        """Have all who wait know that the membership may be another. From any thread."""
        self._server.announce()

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended by itself."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """End it, and wait until it has ended. One that hangs is left to the end of this process."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            with pulse.allowed(_STOP_S):
                self._thread.join(_STOP_S)
        self._socket.close()
        self._told.close()


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
            hint=f"see who does with `ss -ltnp sport = :{port}`",
        ) from None
    return listening
