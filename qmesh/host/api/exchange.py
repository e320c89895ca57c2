"""A request and its answer, and the peer whose they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Final, NamedTuple

from qmesh.errors import QmeshError
from qmesh.mesh.decode import SAME_VERSION

MAX_JOBS_A_PEER: Final = 2
"""Threads that work for one tunnel address at once; further requests wait."""


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
