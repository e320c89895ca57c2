"""Enrolment and membership over HTTP, inside the tunnel only.

The service listens on the control node's tunnel address and on the tunnel interface alone; who
asks is known by the tunnel address, for which WireGuard vouches. Bodies, times and each peer's
connections are bounded.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, Protocol

import httpx
import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from qmesh.errors import EnrolmentRefused, KernelRefused, QmeshError
from qmesh.mesh.enrolment import Redemption

MAX_BODY: Final = 16 * 1024
"""Octets of a request's body."""
MAX_ANSWER: Final = 32 * 1024 * 1024
"""Octets of an answer's body: a membership of thousands of machines."""
REQUEST_S: Final = 20.0
"""Seconds from the connection until the request has arrived whole."""
MAX_CONNECTIONS_A_PEER: Final = 8
"""Connections that one tunnel address may have at once: what it wants beyond that is hung up on."""

_SAME_VERSION: Final = "use the same version of qmesh on both machines"
_REDEMPTIONS: Final = "/v1/redemptions"
_MEMBERSHIP: Final = "/v1/membership"


class Answers(Protocol):
    """What the service asks of the agent. Both return the JSON of a SignedMembership."""

    def redeem(self, body: bytes, *, sender: str) -> bytes:
        """Admit a machine. Raises EnrolmentRefused."""

    def redeemed(self) -> None:
        """Called once the answer to a redemption is on its way: the throwaway peer may go."""

    def membership(self, *, newer_than: int, sender: str) -> bytes | None:
        """The membership, None when it is no newer. Raises EnrolmentRefused for a stranger."""


class Refusal(msgspec.Struct):
    """The body of an answer that says no."""

    error: str
    hint: str


def application(answers: Answers) -> Starlette:
    """The service as an ASGI application."""

    async def redeem(request: Request) -> Response:
        body = await _bounded_body(request)
        if body is None:
            return _refused(EnrolmentRefused("the request is too large", hint="use qmesh"), 413)
        try:
            answer = await run_in_threadpool(answers.redeem, body, sender=_sender(request))
        except EnrolmentRefused as error:
            return _refused(error, 403)
        except QmeshError as error:
            return _refused(error, 503)
        task = BackgroundTask(answers.redeemed)
        return Response(answer, media_type="application/json", background=task)

    async def membership(request: Request) -> Response:
        newer_than = request.query_params.get("newer_than", "0")
        try:
            revision = int(newer_than) if newer_than.isdecimal() and len(newer_than) < 19 else 0
            answer = await run_in_threadpool(answers.membership, newer_than=revision, sender=_sender(request))
        except EnrolmentRefused as error:
            return _refused(error, 403)
        except QmeshError as error:
            return _refused(error, 503)
        if answer is None:
            return Response(status_code=204)
        return Response(answer, media_type="application/json")

    return Starlette(
        routes=[
            Route(_REDEMPTIONS, redeem, methods=["POST"]),
            Route(_MEMBERSHIP, membership, methods=["GET"]),
        ]
    )


async def _bounded_body(request: Request) -> bytes | None:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            return None
    return body


def _sender(request: Request) -> str:
    return request.client.host if request.client else ""


def _refused(error: QmeshError, status: int) -> Response:
    body = msgspec.json.encode(Refusal(error.message, error.hint))
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


class _Server(uvicorn.Server):
    """At rest it looks at the clock twice a second; uvicorn's own does ten times, which is felt."""

    async def main_loop(self) -> None:
        while not await self.on_tick(0):  # noqa: ASYNC110 - another thread, in `stop`, asks it to end
            await asyncio.sleep(0.5)


class Service:
    """The running service: a thread of its own, from `start` to `stop`."""

    def __init__(self, answers: Answers, *, address: str, port: int, interface: str) -> None:
        self._socket = _listen(address, port, interface)
        self._server = _Server(
            uvicorn.Config(
                application(answers),
                access_log=False,
                log_config=None,
                lifespan="off",
                ws="none",
                http=_OneRequest,
                headers=[("connection", "close")],
                proxy_headers=False,
                limit_concurrency=512,
                timeout_keep_alive=5,
                timeout_graceful_shutdown=2,
                h11_max_incomplete_event_size=MAX_BODY,
                server_header=False,
                date_header=False,
            )
        )
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="membership service"
        )

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended by itself."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """End it, and wait until it has ended."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join()
        self._socket.close()


def _listen(address: str, port: int, interface: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # With the protocol named, asyncio sends an answer's parts at once (TCP_NODELAY) and saves 40 ms.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Linux answers for any of its addresses on any interface: the address alone binds nothing.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        listening.bind((address, port))
        listening.listen(512)
    except OSError as error:
        listening.close()
        raise KernelRefused(
            f"the membership service cannot listen on {address} port {port}: {error.strerror}",
            hint=f"see who does with `ss -ltnp sport = :{port}`",
        ) from None
    return listening


class Silent(Exception):
    """The control node did not answer in time, or is in trouble itself; its text says which."""


class Client:
    """Asks the control node's membership service. Timeouts in seconds."""

    def __init__(self, *, address: str, port: int) -> None:
        host = f"[{address}]" if ":" in address else address
        self._http = httpx.Client(base_url=f"http://{host}:{port}", trust_env=False, follow_redirects=False)

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def redeem(self, message: Redemption, *, connect_s: float, read_s: float) -> bytes:
        """Redeem an invitation. Raises Silent, or EnrolmentRefused."""
        body = msgspec.json.encode(message)
        timeout = httpx.Timeout(read_s, connect=connect_s)
        return self._answer(lambda: self._http.stream("POST", _REDEMPTIONS, content=body, timeout=timeout))

    def membership(self, *, newer_than: int, connect_s: float, read_s: float) -> bytes | None:
        """The signed membership; None when it is no newer. Raises Silent, or EnrolmentRefused."""
        timeout = httpx.Timeout(read_s, connect=connect_s)
        parameters = {"newer_than": newer_than}
        return (
            self._answer(lambda: self._http.stream("GET", _MEMBERSHIP, params=parameters, timeout=timeout))
            or None
        )

    def _answer(self, ask: Callable[[], AbstractContextManager[httpx.Response]]) -> bytes:
        try:
            with ask() as response:
                body = _bounded(response)
                status = response.status_code
        except httpx.HTTPError:
            raise Silent("nobody answers") from None
        if status in {200, 204}:
            return body
        refusal = _refusal(body)
        if status >= 500:  # its own trouble, which it may get over
            raise Silent(f"the control node has trouble of its own: {refusal.message}")
        raise refusal


def _bounded(response: httpx.Response) -> bytes:
    body = bytearray()
    for part in response.iter_bytes():
        body += part
        if len(body) > MAX_ANSWER:
            raise EnrolmentRefused(
                "the control node's answer is too large", hint="use the same qmesh on both"
            )
    return bytes(body)


def _refusal(body: bytes) -> EnrolmentRefused:
    try:
        said = msgspec.json.decode(body, type=Refusal)
    except (ValueError, RecursionError):  # also for text that is no UTF-8, and for a thousand brackets
        said = Refusal("the control node's answer is not understood", _SAME_VERSION)
    return EnrolmentRefused(_line(said.error), hint=_line(said.hint))


def _line(text: str) -> str:
    """Words from another machine, as they can be printed: one line, no control characters."""
    return "".join(character if character.isprintable() else " " for character in text[:300])
