"""The page over HTTP, until a signal ends it. Its connections are the membership service's.

Whoever reaches the port may connect: what that takes is bounded, and none without the token displaces one
who follows the page.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import CancelledError
from functools import partial
from typing import Final

from qmesh.errors import QmeshError, describe_unexpected_error
from qmesh.host.api.connections import ConnectionLimits, Connections
from qmesh.host.api.exchange import HttpRequest, Response
from qmesh.host.page.news import PageNews
from qmesh.host.page.page_files import PageFile
from qmesh.mesh.page.access import METHODS, find_file_name, refuse_request
from qmesh.mesh.view.cluster_view import ClusterView

EVENTS: Final = "events"
MOST_CONNECTIONS: Final = 32
MOST_FOLLOWERS: Final = 8
"""Browsers' windows that follow the page at once."""
LIMITS: Final = ConnectionLimits(
    a_peer=MOST_CONNECTIONS + MOST_FOLLOWERS,
    in_all=MOST_CONNECTIONS,
    request_s=5.0,
    taken_s=20.0,
    gives_way=True,
)
POLL_S: Final = 2.0
"""Seconds between two questions to the agent, while a browser follows."""
IDLE_S: Final = 15.0
"""The same while none does: the plots of one that comes later have something to show then."""
_GRACE_S: Final = 0.5
_END: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script';"
    " trusted-types 'none'"
)
HEADERS: Final = (
    ("content-security-policy", POLICY),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-store"),
)
_REFUSALS: Final = {
    403: "Another web page asked for this one. Open its address yourself.\n",
    404: "There is nothing here. Use the whole address that `qmesh page` has printed.\n",
    405: "This page can only be read.\n",
    421: "Open this page as http://localhost:PORT/ or http://127.0.0.1:PORT/.\n",
    503: "As many windows as there can be have this page open: close one.\n",
}


class PageServer:
    """Answers at a socket that listens.

    token: as of `find_file_name`. ask: what the agent says now; may block.
    """

    def __init__(
        self, listening: socket.socket, files: dict[str, PageFile], token: str, ask: Callable[[], ClusterView]
    ) -> None:
        self._listening = listening
        self._files = files
        self._token = token
        self._ask = ask
        self._runner = asyncio.Runner()
        self.loop = self._runner.get_loop()
        self.news = PageNews()
        self._ended = asyncio.Event()
        self._followers = 0
        self._is_followed = threading.Event()
        self._is_over = threading.Event()

    def run(self) -> None:
        """Serve until this process is told to end, or `stop` is called."""
        with self._runner:
            self._runner.run(self._serve())

    def stop(self) -> None:
        """End it. From any thread."""
        self.loop.call_soon_threadsafe(self._ended.set)

    async def _serve(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in _END:
                if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
                    self.loop.add_signal_handler(number, self._ended.set)
        connections = Connections(self._listening, self._answer, _answer_error, LIMITS)
        connections.start_accepting()
        # Not a thread that the loop waits for in the end: the agent may take its time.
        threading.Thread(target=self._poll, name="questions to the agent", daemon=True).start()
        try:
            await self._ended.wait()
        finally:
            self._is_over.set()
            self._is_followed.set()
            await connections.shut_down(grace_s=_GRACE_S)

    def _poll(self) -> None:
        while not self._is_over.is_set():
            try:
                tell = partial(self.news.note_view, self._ask())
            except QmeshError as error:
                tell = partial(self.news.note_trouble, error)
            except Exception as error:  # noqa: BLE001 - said on the page: nobody looks at a thread
                tell = partial(self.news.note_trouble, _build_bug_error(error))
            with contextlib.suppress(RuntimeError, CancelledError):  # the loop has ended
                # Waited for, or questions would pile up in a loop that is slower.
                asyncio.run_coroutine_threadsafe(tell(), self.loop).result()
            if self._followers:
                self._is_over.wait(POLL_S)
            elif self._is_followed.wait(IDLE_S):
                self._is_followed.clear()

    async def _answer(self, question: HttpRequest) -> Response:
        if status := refuse_request(question.peer.address, question.method, question.headers):
            return _build_refusal(status)
        name = find_file_name(question.path, self._token)
        if name == EVENTS:
            return self._answer_events(question)
        found = None if name is None else self._files.get(name)
        if found is None:
            return _build_refusal(404)
        return Response(200, found.octets, found.media, headers=HEADERS)

    def _answer_events(self, question: HttpRequest) -> Response:
        if self._followers >= MOST_FOLLOWERS:
            return _build_refusal(503)
        pieces = self._follow() if question.method == "GET" else None
        return Response(200, media="text/event-stream", headers=HEADERS, pieces=pieces)

    async def _follow(self) -> AsyncGenerator[bytes, None]:
        if self._followers >= MOST_FOLLOWERS:  # one that came at the same moment was quicker
            return
        self._followers += 1
        self._is_followed.set()
        try:
            async with contextlib.aclosing(self.news.follow()) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            self._followers -= 1


def _build_bug_error(error: Exception) -> QmeshError:
    return QmeshError(
        f"qmesh itself failed: {describe_unexpected_error(error)}",
        hint="`qmesh check` shows this machine's state",
    )


def _build_refusal(status: int) -> Response:
    allow = (("allow", ", ".join(METHODS)),) if status == 405 else ()
    text = _REFUSALS[status].encode()
    return Response(status, text, "text/plain; charset=utf-8", headers=(*HEADERS, *allow))


def _answer_error(_: QmeshError) -> Response:
    return Response(400, headers=HEADERS)
