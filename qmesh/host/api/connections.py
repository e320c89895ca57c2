"""The service's connections: how many there may be at once, and each from its beginning to its end.

Connections are counted for each peer. One counts until it is closed and the work for it has ended, so that a
peer can't pile up work by closing its connections.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Final, NamedTuple

from qmesh.errors import QmeshError
from qmesh.host.api.exchange import ConnectedPeer, HttpRequest, RequestTooLarge, Response
from qmesh.host.api.http_protocol import BadRequest, HttpProtocol
from qmesh.host.log.events import report_event

REQUEST_S: Final = 20.0
"""Seconds from the connection until the request has arrived whole."""
TAKEN_S: Final = 60.0
"""Seconds that a peer has to read its answer, and to close the connection then."""
MAX_UNDER_WAY_A_PEER: Final = 8
"""Connections that one tunnel address may have at once: further ones are closed."""
MAX_UNDER_WAY: Final = 16384
"""Connections in all: of a large mesh each member has one that waits."""
_MOST_AT_ONCE: Final = 64
_FULL_S: Final = 1.0
"""Seconds to take no connection, where this process has no room for one."""
_SPELL_S: Final = 0.1
"""Seconds over which connections are counted where they are limited; further ones wait for the next."""


class ConnectionLimits(NamedTuple):
    """What may be under way at once, and for how long; the service's own are the constants above.

    a_peer, in_all: connections. request_s: seconds as of `REQUEST_S`; taken_s: as of `TAKEN_S`.
    gives_way: whether, once there are so many, the oldest is closed for a new one, instead of that one: of
        the owner who has most, and first of those that have not asked yet. For where peers are not told
        apart by their addresses.
    a_second: connections that are taken in a second, so that this process has time for other work; None where
        they are limited before they arrive here, as the guard limits those of members.
    """

    a_peer: int
    in_all: int
    request_s: float
    taken_s: float
    gives_way: bool = False
    a_second: int | None = None


class Connections:
    """Those that are open, from `begin` to `end`. Of one event loop.

    listening: a socket that listens.
    answer: gives the answer to a question; what it raises is for `refusal` to word.
    limits: those of the membership service where it is None.
    find_owner: whose a connection is, where that counts for which one gives way.
    """

    def __init__(
        self,
        listening: socket.socket,
        answer: Callable[[HttpRequest], Awaitable[Response]],
        refusal: Callable[[QmeshError], Response],
        limits: ConnectionLimits | None = None,
        find_owner: Callable[[socket.socket], str] = lambda _: "",
    ) -> None:
        self._limits = limits or ConnectionLimits(MAX_UNDER_WAY_A_PEER, MAX_UNDER_WAY, REQUEST_S, TAKEN_S)
        self._listening = listening
        self._answer = answer
        self._refusal = refusal
        self._find_owner = find_owner
        self._peers: dict[str, ConnectedPeer] = {}
        # In the order in which they came, with their owners.
        self._arriving: dict[asyncio.Task[None], str] = {}
        self._asked: dict[asyncio.Task[None], str] = {}
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
            self._arriving[task] = self._find_owner(connection)
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
        owners = Counter((*self._arriving.values(), *self._asked.values()))
        most = max(owners, key=owners.__getitem__, default="")
        for kind in (self._arriving, self._asked):
            for task in (each for each, owner in kind.items() if owner == most):
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
        wire = HttpProtocol(peer)
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
            self._asked[task] = self._arriving.pop(task, "")
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

    async def _answer_request(self, question: HttpRequest | RequestTooLarge | BadRequest) -> Response | None:
        if isinstance(question, BadRequest):
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
