"""What may block is done in threads, some of it for many at a time."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from qmesh.errors import QmeshError
from qmesh.host.api.exchange import HttpRequest
from qmesh.host.api.handlers import SentRedemption

T = TypeVar("T")

MAX_JOBS: Final = 8
"""Threads that work for peers at once; fewer for one of them, see `exchange`."""
MOST_TOGETHER: Final = 64
"""Redemptions that are one write: who waits for it, such as a command that writes, does not wait for long."""


class JobPool:
    """What may block, in threads: so many at once, and of one peer so few that others have their turn."""

    def __init__(self) -> None:
        self._jobs = asyncio.Semaphore(MAX_JOBS)

    async def run_job(self, question: HttpRequest, do: Callable[[], T]) -> T:
        """The result, once it is this peer's turn. Raises what `do` does, and ClientDisconnected."""
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


class RedemptionTurns:
    """Redemptions: those that come while others are at work are done together, in the next turn.

    What takes the time, a durable write and all that grows with the mesh, is then done once for all of them.

    redeem_all: as of `MembershipHandler`.
    ended: how many turns have come to an end.
    """

    def __init__(
        self, redeem_all: Callable[[Sequence[SentRedemption]], Sequence[bytes | QmeshError]]
    ) -> None:
        self.ended = 0
        self._redeem_all = redeem_all
        self._waiting: list[tuple[HttpRequest, asyncio.Future[bytes]]] = []
        self._turns: asyncio.Task[None] | None = None

    async def redeem(self, question: HttpRequest) -> bytes:
        """The answer to one, after its turn. Raises what it is refused with, and ClientDisconnected."""
        async with question.peer.jobs:
            answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            self._waiting.append((question, answer))
            if self._turns is None:
                self._turns = asyncio.create_task(self._take_turns())
            return await answer

    async def wait_until_idle(self, seconds: float) -> None:
        """Wait until nobody waits for a turn, so long at most."""
        if self._turns is not None:
            await asyncio.wait({self._turns}, timeout=seconds)

    async def _take_turns(self) -> None:
        try:
            while self._waiting:
                await self._take_turn()
        finally:
            self._turns = None

    async def _take_turn(self) -> None:
        turn, self._waiting = self._waiting[:MOST_TOGETHER], self._waiting[MOST_TOGETHER:]
        there = [(question, answer) for question, answer in turn if not question.hung_up.done()]
        sent = [SentRedemption(question.body, question.peer.address) for question, _ in there]
        found = dict(zip((answer for _, answer in there), await self._redeem(sent), strict=True))
        self.ended += 1
        for _, answer in turn:
            _deliver(answer, found.get(answer, ClientDisconnected()))

    async def _redeem(self, sent: Sequence[SentRedemption]) -> Sequence[bytes | BaseException]:
        if not sent:
            return ()
        try:
            found = await run_in_thread(lambda: self._redeem_all(sent))
            return [answer for answer, _ in zip(found, sent, strict=True)]
        except QmeshError as error:  # such as a full disk
            return [error] * len(sent)
        except Exception as error:  # noqa: BLE001 - raised where its answer is waited for
            if len(sent) == 1:
                return [error]
            # Whatever one of them can make fail, fails for that one alone.
            return [answer for each in sent for answer in await self._redeem([each])]


def _deliver(answer: asyncio.Future[bytes], found: bytes | BaseException) -> None:
    if answer.done():
        return  # who waited for it was cancelled
    if isinstance(found, bytes):
        answer.set_result(found)
    else:
        answer.set_exception(found)
