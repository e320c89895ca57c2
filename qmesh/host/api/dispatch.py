"""What each request to the membership service is answered with."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import msgspec

from qmesh.errors import EnrolmentRefused, QmeshError
from qmesh.host.api.exchange import HttpRequest, RequestTooLarge, Response
from qmesh.host.api.handlers import FindingsCollector, MembershipHandler
from qmesh.host.api.jobs import JobPool, RedemptionTurns
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
    SPEAKS,
    SUCCESSION,
    Refusal,
)
from qmesh.mesh.protocol.versions import ProtocolsApart, decode_protocol, encode_protocol, is_understood

T = TypeVar("T")

_MESSAGEPACK: Final = "application/vnd.msgpack"
_JSON: Final = "application/json"
_PADDING: Final = "application/octet-stream"
LONGEST_WAIT_S: Final = 60.0
"""Seconds that a member is kept waiting for a newer membership, at most."""


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
        self.redemptions = RedemptionTurns(answers.redeem_all)
        self._routes: dict[str, tuple[str, Callable[[HttpRequest], Awaitable[Response]]]] = {
            REDEMPTIONS: ("POST", self._redeem),
            KEYS: ("POST", self._answer_with(answers.offer_key)),
            SUCCESSION: ("POST", self._answer_with(answers.report_handover)),
            NODE_FILES: ("POST", self._answer_with(answers.fetch_node_files)),
            NODE_KEYS: ("POST", self._answer_with(answers.report_keys)),
            CONFLICTS: ("POST", self._answer_with(answers.report_conflict)),
            MEMBERSHIP: ("GET", self._poll_membership),
            PACKETS: ("POST", self._answer_padding),
            HEALTH: ("GET", self._check_health),
        }
        if collector is not None:
            self._routes[FINDINGS] = ("POST", self._answer_with(collector.accept_report))

    async def dispatch_request(self, question: HttpRequest) -> Response:
        """Raises QmeshError, which `build_error_response` words."""
        method, found = self._routes.get(question.path, ("", None))
        if found is None:
            return _say_protocol(Response(404))
        if question.method != method:
            return _say_protocol(Response(405))
        spoken = decode_protocol(question.headers.get(SPEAKS.encode(), b""))
        if not is_understood(spoken):
            self._take_facts(question)  # every version understands those: by them `check` here can say so
            if question.acknowledgement:
                self._answers.record_question(sender=question.peer.address)
            raise ProtocolsApart("the machine that asks", spoken, own_name="the control node")
        return _say_protocol(await found(question))

    async def _redeem(self, question: HttpRequest) -> Response:
        answer = await self.redemptions.redeem(question)
        sender = question.peer.address
        return Response(200, answer, _MESSAGEPACK, lambda: self._answers.finish_redemption(sender=sender))

    def _answer_with(self, do: Callable[..., bytes | None]) -> Callable[[HttpRequest], Awaitable[Response]]:
        async def answer(question: HttpRequest) -> Response:
            return _build_response(await self._run_handler(question, do))

        return answer

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
                digest=question.query.get("content", ""),
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
        self._take_facts(question)
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

    def _take_facts(self, question: HttpRequest) -> None:
        if question.facts:
            with contextlib.suppress(ValueError):  # no base64: it is as if there were none
                facts = base64.b64decode(question.facts, validate=True)
                self._answers.record_facts(facts, sender=question.peer.address)


def _say_protocol(answer: Response) -> Response:
    return answer._replace(headers=(*answer.headers, (SPEAKS, encode_protocol())))


def _build_response(octets: bytes | None) -> Response:
    return Response(204) if octets is None else Response(200, octets, _MESSAGEPACK)


def _parse_number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else 0


def build_error_response(error: QmeshError) -> Response:
    """How an error is told."""
    status = (
        413 if isinstance(error, RequestTooLarge) else 403 if isinstance(error, EnrolmentRefused) else 503
    )
    return _say_protocol(Response(status, msgspec.json.encode(Refusal(error.message, error.hint)), _JSON))
