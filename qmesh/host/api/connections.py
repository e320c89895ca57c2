"""The service's connections: HTTP/1.1 by h11 over asyncio, each with one request and its answer.

Connections are counted for each peer. One counts until it is closed and the work for it has ended, so that a
peer can't pile up work by closing its connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Final, NamedTuple, TypeVar
from urllib.parse import parse_qsl

import h11

from qmesh.errors import QmeshError
from qmesh.host.api.messages import CAN_REPORT, HOLDS, KEY_DIGESTS, MACHINE_FACTS, MAX_BODY, NOTE
from qmesh.host.log.events import report_event
from qmesh.mesh.decode import SAME_VERSION
from qmesh.mesh.protocol.member_note import MOST_CHARACTERS

T = TypeVar("T")

REQUEST_S: Final = 20.0
"""Seconds from the connection until the request has arrived whole."""
TAKEN_S: Final = 60.0
"""Seconds that a peer has to read its answer, and to close the connection then."""
MAX_UNDER_WAY_A_PEER: Final = 8
"""Connections that one tunnel address may have at once: further ones are closed."""
MAX_JOBS_A_PEER: Final = 2
"""Threads that work for one tunnel address at once; further requests wait."""
MAX_UNDER_WAY: Final = 16384
"""Connections in all: of a large mesh each member has one that waits."""
MAX_SURPLUS: Final = 256 * 1024
"""Bytes after a request that are read and thrown away."""
_MOST_AT_ONCE: Final = 64
_PIECE: Final = 64 * 1024
_FULL_S: Final = 1.0
"""Seconds to take no connection, where this process has no room for one."""
_SPELL_S: Final = 0.1
"""Seconds over which connections are counted where they are limited; further ones wait for the next."""


class ConnectionLimits(NamedTuple):
    """What may be under way at once, and for how long; the service's own are the constants above.

    a_peer, in_all: connections. request_s: seconds as of `REQUEST_S`; taken_s: as of `TAKEN_S`.
    gives_way: whether, once there are so many, the oldest is closed for a new one, instead of that one: first
        of those that have not asked yet. For where peers are not told apart by their addresses.
    a_second: connections that are taken in a second, so that this process has time for other work; None where
        they are limited before they arrive here, as the guard limits those of members.
    """

    a_peer: int
    in_all: int
    request_s: float
    taken_s: float
    gives_way: bool = False
    a_second: int | None = None


class RequestTooLarge(QmeshError):
    """A request that is larger than any of qmesh's."""

    def __init__(self) -> None:
        super().__init__("the request is too large", hint=SAME_VERSION)


class ConnectedPeer:
    """A tunnel address, and what is under way for it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.under_way = 0
        self.jobs = asyncio.Semaphore(MAX_JOBS_A_PEER)


class HttpRequest(NamedTuple):
    """A request, whole.

    query: the path's. acknowledgement: the sender's report of the revision that it holds, key_report: of its
        node's keys, facts: of its machine, all encrypted, in base64.
    can_report: whether it would report its findings.
    note: what it notes of itself. host: the header of that name. headers: all, by name in lower case.
    hung_up: done once the client has closed the connection.
    """

    peer: ConnectedPeer
    method: str
    path: str
    query: dict[str, str]
    acknowledgement: bytes
    key_report: bytes
    facts: bytes
    can_report: bool
    note: bytes
    host: bytes
    headers: Mapping[bytes, bytes]
    body: bytes
    hung_up: asyncio.Future[None]


class Response(NamedTuple):
    """What a question is answered with. then: called once it has been taken, or can't be. headers: more.

    pieces: a body that comes piece by piece, in place of `body`, for as long as the client takes it. Such
        connections are not counted with the others, and none gives way: who answers has to keep them few.
    """

    status: int
    body: bytes = b""
    media: str = ""
    then: Callable[[], None] | None = None
    headers: tuple[tuple[str, str], ...] = ()
    pieces: AsyncGenerator[bytes, None] | None = None


class _BadRequest(NamedTuple):
    """What arrived is no question, and is answered with this status; not at all where it is 0."""

    status: int = 0


class _HttpProtocol(asyncio.Protocol):
    """One connection. Its request arrives in `question`.

    hung_up: done once the other end has.
    """

    def __init__(self, peer: ConnectedPeer) -> None:
        loop = asyncio.get_running_loop()
        self.hung_up: asyncio.Future[None] = loop.create_future()
        self.question: asyncio.Future[HttpRequest | RequestTooLarge | _BadRequest] = loop.create_future()
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
            self._parse_data(data)
            return
        self._surplus += len(data)
        if self._surplus > MAX_SURPLUS:
            self.abort()

    def eof_received(self) -> None:
        self.connection_lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc  # who breaks off is no error
        _resolve_future(self.hung_up, None)
        _resolve_future(self.question, _BadRequest())
        self.resume_writing()

    def pause_writing(self) -> None:
        self._resumed = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._resumed is not None:
            _resolve_future(self._resumed, None)

    def abort(self) -> None:
        """Close it, whatever is under way."""
        self._transport.abort()

    def _parse_data(self, data: bytes) -> None:
        try:
            self._http.receive_data(data)
            while not self.question.done():
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    return
                self._handle_event(event)
        except h11.RemoteProtocolError as error:
            _resolve_future(self.question, _BadRequest(error.error_status_hint))

    def _handle_event(self, event: object) -> None:
        if isinstance(event, h11.Request):
            self._request = event
        elif isinstance(event, h11.Data):
            self._body += event.data
            if len(self._body) > MAX_BODY:
                _resolve_future(self.question, RequestTooLarge())
        elif isinstance(event, h11.EndOfMessage) and self._request is not None:
            _resolve_future(self.question, self._build_request(self._request))
        else:
            _resolve_future(self.question, _BadRequest())

    def _build_request(self, request: h11.Request) -> HttpRequest:
        path, _, query = request.target.decode("ascii", "replace").partition("?")
        headers = dict(request.headers)
        return HttpRequest(
            peer=self._peer,
            method=request.method.decode("ascii", "replace"),
            path=path,
            query=dict(parse_qsl(query)),
            acknowledgement=headers.get(HOLDS.encode(), b""),
            key_report=headers.get(KEY_DIGESTS.encode(), b""),
            facts=headers.get(MACHINE_FACTS.encode(), b""),
            can_report=bool(headers.get(CAN_REPORT.encode(), b"")),
            note=headers.get(NOTE.encode(), b"")[:MOST_CHARACTERS],
            host=headers.get(b"host", b""),
            headers=headers,
            body=bytes(self._body),
            hung_up=self.hung_up,
        )

    async def send_response(self, answer: Response, *, taken_s: float) -> None:
        """Send it, and wait until it has been taken, for so many seconds at most."""
        with contextlib.suppress(OSError, h11.LocalProtocolError):  # TimeoutError among them
            async with asyncio.timeout(taken_s):
                await self._write_response(answer)
                if not self.hung_up.done():
                    self._transport.write_eof()
                    await self.hung_up

    async def send_pieces(
        self, answer: Response, pieces: AsyncGenerator[bytes, None], *, taken_s: float
    ) -> None:
        """Send one piece after the other, to their end or the client's. It has so many seconds for each."""
        async with contextlib.aclosing(pieces):
            with contextlib.suppress(OSError, h11.LocalProtocolError):  # TimeoutError among them
                self._write_head(answer)
                while piece := await self._wait_for_piece(pieces):
                    self._write_event(h11.Data(data=piece))
                    async with asyncio.timeout(taken_s):
                        await self._wait_until_writable()
                self._write_event(h11.EndOfMessage())

    async def _wait_for_piece(self, pieces: AsyncGenerator[bytes, None]) -> bytes:
        """The next one; none once there is none, or the client is gone."""
        coming = asyncio.ensure_future(anext(pieces, b""))
        try:
            await asyncio.wait((coming, self.hung_up), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not coming.done():
                coming.cancel()
                await asyncio.wait((coming,))
        return b"" if coming.cancelled() or self.hung_up.done() else coming.result()

    async def _write_response(self, answer: Response) -> None:
        length = () if answer.status == 204 else (("content-length", str(len(answer.body))),)
        self._write_head(answer, *length)
        is_asked = self._request is None or self._request.method != b"HEAD"
        for begin in range(0, len(answer.body) if is_asked else 0, _PIECE):
            await self._wait_until_writable()
            if self.hung_up.done():
                return
            self._write_event(h11.Data(data=answer.body[begin : begin + _PIECE]))
        self._write_event(h11.EndOfMessage())

    def _write_head(self, answer: Response, *more: tuple[str, str]) -> None:
        headers = [("connection", "close"), ("date", email.utils.formatdate(usegmt=True)), *answer.headers]
        headers += more
        if answer.media:
            headers.append(("content-type", answer.media))
        self._write_event(h11.Response(status_code=answer.status, headers=headers))

    async def _wait_until_writable(self) -> None:
        if self._resumed is not None:
            await self._resumed
            self._resumed = None

    def _write_event(self, event: h11.Event) -> None:
        octets = self._http.send(event)
        if octets and not self.hung_up.done():
            self._transport.write(octets)


def _resolve_future(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


class Connections:
    """Those that are open, from `begin` to `end`. Of one event loop.

    listening: a socket that listens.
    answer: gives the answer to a question; what it raises is for `refusal` to word.
    limits: those of the membership service where it is None.
    """

    def __init__(
        self,
        listening: socket.socket,
        answer: Callable[[HttpRequest], Awaitable[Response]],
        refusal: Callable[[QmeshError], Response],
        limits: ConnectionLimits | None = None,
    ) -> None:
        self._limits = limits or ConnectionLimits(MAX_UNDER_WAY_A_PEER, MAX_UNDER_WAY, REQUEST_S, TAKEN_S)
        self._listening = listening
        self._answer = answer
        self._refusal = refusal
        self._peers: dict[str, ConnectedPeer] = {}
        # In the order in which they came.
        self._arriving: dict[asyncio.Task[None], None] = {}
        self._asked: dict[asyncio.Task[None], None] = {}
        self._lasting: dict[asyncio.Task[None], None] = {}
        """Those that are answered piece by piece. None of them gives way."""
        self._is_over = False
        self._spell_end = 0.0
        self._taken = 0

    def start_accepting(self) -> None:
        """Take connections."""
        self._listening.settimeout(0)
        asyncio.get_running_loop().add_reader(self._listening, self._accept_connections)

    async def shut_down(self, *, grace_s: float) -> None:
        """Take none any more, and have those end that are: what is being answered has so many seconds."""
        self._is_over = True
        asyncio.get_running_loop().remove_reader(self._listening)
        for task in self._arriving:
            task.cancel()
        if self._asked:
            await asyncio.wait(self._asked, timeout=grace_s)
        left = {**self._asked, **self._arriving, **self._lasting}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)

    def has_connection_from(self, addresses: Iterable[str]) -> bool:
        """Whether something is under way for one of these peers."""
        return any(address in self._peers for address in addresses)

    def _accept_connections(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(_MOST_AT_ONCE):
            if self._has_taken_enough():
                loop.remove_reader(self._listening)
                loop.call_at(self._spell_end, self._resume_accepting)
                return
            try:
                connection, name = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                report_event("connections-refused", "no connection can be accepted: %s", error.strerror)
                loop.remove_reader(self._listening)
                loop.call_later(_FULL_S, self._resume_accepting)
                return
            address = name[0] if name else ""  # a Unix socket's client has no name
            peer = self._peers.get(address) or ConnectedPeer(address)
            if peer.under_way >= self._limits.a_peer or self._connection_count >= self._limits.in_all:
                if not self._limits.gives_way:
                    connection.close()
                    continue
                self._close_oldest()
            self._peers[address] = peer
            peer.under_way += 1
            task = loop.create_task(self._serve_connection(connection, peer))
            self._arriving[task] = None
            task.add_done_callback(partial(self._handle_task_done, peer=peer, connection=connection))

    def _has_taken_enough(self) -> bool:
        """Whether no more connections are to be taken before `_spell_end`; else there will be one more."""
        now = asyncio.get_running_loop().time()
        if now >= self._spell_end:
            self._spell_end, self._taken = now + _SPELL_S, 0
        if self._limits.a_second is not None and self._taken >= self._limits.a_second * _SPELL_S:
            return True
        self._taken += 1
        return False

    def _resume_accepting(self) -> None:
        if not self._is_over:
            self.start_accepting()

    def _close_oldest(self) -> None:
        for kind in (self._arriving, self._asked):
            for task in kind:
                del kind[task]
                task.cancel()
                return

    @property
    def _connection_count(self) -> int:
        return len(self._arriving) + len(self._asked)

    def _handle_task_done(
        self, task: asyncio.Task[None], *, peer: ConnectedPeer, connection: socket.socket
    ) -> None:
        if task.cancelled():
            connection.close()  # it may not have begun
        self._arriving.pop(task, None)
        self._asked.pop(task, None)
        self._lasting.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            report_event("connection-failed", "a connection failed", error=error)
        peer.under_way -= 1
        if not peer.under_way:
            self._peers.pop(peer.address, None)

    async def _serve_connection(self, connection: socket.socket, peer: ConnectedPeer) -> None:
        """All of a connection, to its end."""
        connection.settimeout(0)
        wire = _HttpProtocol(peer)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: wire, connection)
        except BaseException:
            connection.close()
            raise
        try:
            async with asyncio.timeout(self._limits.request_s):
                question = await wire.question
            task = asyncio.current_task()
            assert task is not None
            self._arriving.pop(task, None)
            self._asked[task] = None
            answer = await self._answer_request(question)
            if answer is not None and answer.pieces is not None:
                self._asked.pop(task, None)
                self._lasting[task] = None
                await wire.send_pieces(answer, answer.pieces, taken_s=self._limits.taken_s)
            elif answer is not None:
                await wire.send_response(answer, taken_s=self._limits.taken_s)
                if answer.then is not None:
                    answer.then()
        except TimeoutError:
            pass  # it did not ask in time
        finally:
            wire.abort()

    async def _answer_request(self, question: HttpRequest | RequestTooLarge | _BadRequest) -> Response | None:
        if isinstance(question, _BadRequest):
            return Response(question.status) if question.status else None
        if isinstance(question, RequestTooLarge):
            return self._refusal(question)
        try:
            return await self._answer(question)
        except QmeshError as error:
            return self._refusal(error)
        except Exception as error:  # noqa: BLE001 - logged
            what = f"{question.method} {question.path[:100]}"
            report_event("request-failed", "a request could not be answered: %s", what, error=error)
            return Response(500)
