"""One connection: a request that arrives and an answer that is sent, HTTP/1.1 by h11 over asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
from collections.abc import AsyncGenerator
from typing import Final, NamedTuple, TypeVar
from urllib.parse import parse_qsl

import h11

from qmesh.host.api.exchange import ConnectedPeer, HttpRequest, RequestTooLarge, Response
from qmesh.host.api.messages import CAN_REPORT, HOLDS, KEY_DIGESTS, MACHINE_FACTS, MAX_BODY, NOTE
from qmesh.mesh.protocol.member_note import MOST_CHARACTERS

T = TypeVar("T")
MAX_SURPLUS: Final = 256 * 1024
"""Bytes after a request that are read and thrown away."""
_PIECE: Final = 64 * 1024


class BadRequest(NamedTuple):
    """What arrived is no question, and is answered with this status; not at all where it is 0."""

    status: int = 0


class HttpProtocol(asyncio.Protocol):
    """One connection. Its request arrives in `question`.

    hung_up: done once the other end has.
    """

    def __init__(self, peer: ConnectedPeer) -> None:
        loop = asyncio.get_running_loop()
        self.hung_up: asyncio.Future[None] = loop.create_future()
        self.question: asyncio.Future[HttpRequest | RequestTooLarge | BadRequest] = loop.create_future()
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
        _resolve_future(self.question, BadRequest())
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
            _resolve_future(self.question, BadRequest(error.error_status_hint))

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
            _resolve_future(self.question, BadRequest())

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
