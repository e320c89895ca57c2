"""The service's connections: HTTP/1.1 by h11 over asyncio, each one question and its answer.

What is under way is counted for each peer. A connection counts until it is closed and what was begun for it
has ended, so that nobody leaves work behind by hanging up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, NamedTuple, TypeVar
from urllib.parse import parse_qsl

import h11

from qmesh.errors import QmeshError
from qmesh.host.api.messages import HOLDS, MAX_BODY

log = logging.getLogger("qmesh")

T = TypeVar("T")

REQUEST_S: Final = 20.0
"""Seconds from the connection until the request has arrived whole."""
TAKEN_S: Final = 60.0
"""Seconds that a peer has to take its answer, and to hang up then."""
MAX_UNDER_WAY_A_PEER: Final = 8
"""Connections that one tunnel address may have under way: what it wants beyond that is hung up on."""
MAX_JOBS_A_PEER: Final = 2
"""Threads that work for one tunnel address at once; what it wants beyond that waits for them."""
MAX_UNDER_WAY: Final = 16384
"""Connections in all: of a large mesh each member has one that waits."""
MAX_SURPLUS: Final = 256 * 1024
"""Octets that are let pass, and thrown away, behind a request."""
_MOST_AT_ONCE: Final = 64
_PIECE: Final = 64 * 1024
_FULL_S: Final = 1.0
"""Seconds to take no connection, where this process has no room for one."""


class TooLarge(QmeshError):
    """A request that is none of qmesh's."""

    def __init__(self) -> None:
        super().__init__("the request is too large", hint="use qmesh")


class Peer:
    """A tunnel address, and what is under way for it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.under_way = 0
        self.jobs = asyncio.Semaphore(MAX_JOBS_A_PEER)


class Question(NamedTuple):
    """A request, whole.

    asked: the path's query. sealed: what the sender says that it holds. too_large: whether its body is;
        then there is none. hung_up: done once nobody is there any more to be answered.
    """

    peer: Peer
    method: str
    path: str
    asked: dict[str, str]
    sealed: bytes
    body: bytes
    hung_up: asyncio.Future[None]


class Answer(NamedTuple):
    """What a question is answered with. then: called once it has been taken, or can't be."""

    status: int
    body: bytes = b""
    media: str = ""
    then: Callable[[], None] | None = None


class _Broken(NamedTuple):
    """What arrived is no question, and is answered with this status; not at all where it is 0."""

    status: int = 0


class _Wire(asyncio.Protocol):
    """One connection. Its request arrives in `question`.

    hung_up: done once the other end has.
    """

    def __init__(self, peer: Peer) -> None:
        loop = asyncio.get_running_loop()
        self.hung_up: asyncio.Future[None] = loop.create_future()
        self.question: asyncio.Future[Question | TooLarge | _Broken] = loop.create_future()
        self._peer = peer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_BODY)
        self._request: h11.Request | None = None
        self._body = bytearray()
        self._surplus = 0
        self._resumed: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if not self.question.done():
            self._receive(data)
            return
        self._surplus += len(data)
        if self._surplus > MAX_SURPLUS:
            self.abort()

    def eof_received(self) -> None:
        self.connection_lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc  # who breaks off is no error
        _settle(self.hung_up, None)
        _settle(self.question, _Broken())
        self.resume_writing()

    def pause_writing(self) -> None:
        self._resumed = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._resumed is not None:
            _settle(self._resumed, None)

    def abort(self) -> None:
        """Close it, whatever is under way."""
        self._transport.abort()

    def _receive(self, data: bytes) -> None:
        try:
            self._http.receive_data(data)
            while not self.question.done():
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    return
                self._take(event)
        except h11.RemoteProtocolError as error:
            _settle(self.question, _Broken(error.error_status_hint))

    def _take(self, event: object) -> None:
        if isinstance(event, h11.Request):
            self._request = event
        elif isinstance(event, h11.Data):
            self._body += event.data
            if len(self._body) > MAX_BODY:
                _settle(self.question, TooLarge())
        elif isinstance(event, h11.EndOfMessage) and self._request is not None:
            _settle(self.question, self._asked(self._request))
        else:
            _settle(self.question, _Broken())

    def _asked(self, request: h11.Request) -> Question:
        path, _, query = request.target.decode("ascii", "replace").partition("?")
        return Question(
            peer=self._peer,
            method=request.method.decode("ascii", "replace"),
            path=path,
            asked=dict(parse_qsl(query)),
            sealed=dict(request.headers).get(HOLDS.encode(), b""),
            body=bytes(self._body),
            hung_up=self.hung_up,
        )

    async def say(self, answer: Answer) -> None:
        """Send it, and wait until it has been taken, for `TAKEN_S` at most."""
        with contextlib.suppress(OSError, h11.LocalProtocolError):  # TimeoutError among them
            async with asyncio.timeout(TAKEN_S):
                await self._send(answer)
                if not self.hung_up.done():
                    self._transport.write_eof()
                    await self.hung_up

    async def _send(self, answer: Answer) -> None:
        headers = [("connection", "close")]
        if answer.status != 204:
            headers.append(("content-length", str(len(answer.body))))
        if answer.media:
            headers.append(("content-type", answer.media))
        self._write(h11.Response(status_code=answer.status, headers=headers))
        for begin in range(0, len(answer.body), _PIECE):
            if self._resumed is not None:
                await self._resumed
                self._resumed = None
            if self.hung_up.done():
                return
            self._write(h11.Data(data=answer.body[begin : begin + _PIECE]))
        self._write(h11.EndOfMessage())

    def _write(self, event: h11.Event) -> None:
        octets = self._http.send(event)
        if octets and not self.hung_up.done():
            self._transport.write(octets)


def _settle(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


class Connections:
    """Those that are open, from `begin` to `end`. Of one event loop.

    listening: a socket that listens.
    answer: gives the answer to a question; what it raises is for `refusal` to word.
    """

    def __init__(
        self,
        listening: socket.socket,
        answer: Callable[[Question], Awaitable[Answer]],
        refusal: Callable[[QmeshError], Answer],
    ) -> None:
        self._listening = listening
        self._answer = answer
        self._refusal = refusal
        self._peers: dict[str, Peer] = {}
        self._arriving: set[asyncio.Task[None]] = set()
        self._asked: set[asyncio.Task[None]] = set()
        self._is_over = False

    def begin(self) -> None:
        """Take connections."""
        self._listening.settimeout(0)
        asyncio.get_running_loop().add_reader(self._listening, self._take)

    async def end(self, *, grace_s: float) -> None:
        """Take none any more, and have those end that are: what is being answered has so many seconds."""
        self._is_over = True
        asyncio.get_running_loop().remove_reader(self._listening)
        for task in self._arriving:
            task.cancel()
        if self._asked:
            await asyncio.wait(self._asked, timeout=grace_s)
        left = self._asked | self._arriving
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)

    def has_any_of(self, addresses: Iterable[str]) -> bool:
        """Whether something is under way for one of these peers."""
        return any(address in self._peers for address in addresses)

    def _take(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(_MOST_AT_ONCE):
            try:
                connection, (address, *_) = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                log.error("no connection can be taken: %s", error.strerror)  # noqa: TRY400 - no bug
                loop.remove_reader(self._listening)
                loop.call_later(_FULL_S, self._take_again)
                return
            peer = self._peers.get(address) or Peer(address)
            if peer.under_way >= MAX_UNDER_WAY_A_PEER or self._count >= MAX_UNDER_WAY:
                connection.close()
                continue
            self._peers[address] = peer
            peer.under_way += 1
            task = loop.create_task(self._serve(connection, peer))
            self._arriving.add(task)
            task.add_done_callback(lambda task, peer=peer: self._ended(task, peer))  # type: ignore[misc]

    def _take_again(self) -> None:
        if not self._is_over:
            self.begin()

    @property
    def _count(self) -> int:
        return len(self._arriving) + len(self._asked)

    def _ended(self, task: asyncio.Task[None], peer: Peer) -> None:
        self._arriving.discard(task)
        self._asked.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a connection has failed", exc_info=error)
        peer.under_way -= 1
        if not peer.under_way:
            self._peers.pop(peer.address, None)

    async def _serve(self, connection: socket.socket, peer: Peer) -> None:
        """All of a connection, to its end."""
        connection.settimeout(0)
        wire = _Wire(peer)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: wire, connection)
        except BaseException:
            connection.close()
            raise
        try:
            async with asyncio.timeout(REQUEST_S):
                question = await wire.question
            task = asyncio.current_task()
            assert task is not None
            self._arriving.discard(task)
            self._asked.add(task)
            answer = await self._answered(question)
            if answer is not None:
                await wire.say(answer)
                if answer.then is not None:
                    answer.then()
        except TimeoutError:
            pass  # it did not ask in time
        finally:
            wire.abort()

    async def _answered(self, question: Question | TooLarge | _Broken) -> Answer | None:
        if isinstance(question, _Broken):
            return Answer(question.status) if question.status else None
        if isinstance(question, TooLarge):
            return self._refusal(question)
        try:
            return await self._answer(question)
        except QmeshError as error:
            return self._refusal(error)
        except Exception:
            log.exception("a question could not be answered: %s %s", question.method, question.path[:100])
            return Answer(500)
