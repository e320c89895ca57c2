"""Redemptions that come at once: which of them are done together, and what becomes of each."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

import pytest

from qmesh.errors import MachineRefused, QmeshError
from qmesh.host.api.exchange import MAX_JOBS_A_PEER, ConnectedPeer, HttpRequest
from qmesh.host.api.handlers import SentRedemption
from qmesh.host.api.jobs import MOST_TOGETHER, ClientDisconnected, RedemptionTurns
from tests.support.waiting import patience

T = TypeVar("T")


class Redeemer:
    """Answers each with its own body, once it is let go on; remembers the turns."""

    def __init__(self, *failing: tuple[bytes, Exception]) -> None:
        self.turns: list[list[bytes]] = []
        self.go_on = threading.Event()
        self._failing = dict(failing)

    def redeem_all(self, sent: Sequence[SentRedemption]) -> list[bytes | QmeshError]:
        self.turns.append([each.body for each in sent])
        self.go_on.wait(patience(20))
        for each in sent:
            if each.body in self._failing:
                raise self._failing[each.body]
        return [b"for " + each.body for each in sent]


def question(body: bytes, peer: ConnectedPeer | None = None) -> HttpRequest:
    return HttpRequest(
        peer=peer or ConnectedPeer(f"10.77.0.{body.decode()}"),
        method="POST",
        path="",
        query={},
        acknowledgement=b"",
        key_report=b"",
        facts=b"",
        can_report=False,
        note=b"",
        host=b"",
        headers={},
        body=body,
        hung_up=asyncio.get_running_loop().create_future(),
    )


async def begun(work: Iterable[Coroutine[Any, Any, T]]) -> list[asyncio.Task[T]]:
    """Each has gone as far as it goes by itself."""
    tasks = [asyncio.create_task(each) for each in work]
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks


def run(redeemer: Redeemer, test: Callable[[RedemptionTurns], Awaitable[None]]) -> None:
    async def within_a_loop() -> None:
        try:
            await test(RedemptionTurns(redeemer.redeem_all))
        finally:
            redeemer.go_on.set()

    asyncio.run(within_a_loop())


def test_those_that_come_while_one_is_done_are_done_together():
    redeemer = Redeemer()

    async def test(turns: RedemptionTurns) -> None:
        bodies = [str(number).encode() for number in range(2 * MOST_TOGETHER + 3)]
        asking = await begun([turns.redeem(question(bodies[0]))])
        asking += await begun(turns.redeem(question(body)) for body in bodies[1:])
        redeemer.go_on.set()
        assert await asyncio.gather(*asking) == [b"for " + body for body in bodies]
        assert await turns.redeem(question(b"again")) == b"for again"

    run(redeemer, test)
    assert [len(turn) for turn in redeemer.turns] == [1, MOST_TOGETHER, MOST_TOGETHER, 2, 1]


def test_what_one_makes_fail_fails_for_that_one_alone():
    """A bug that a machine finds must not keep others from joining."""
    bug = RuntimeError("5ec2e7")
    redeemer = Redeemer((b"3", bug))
    redeemer.go_on.set()

    async def test(turns: RedemptionTurns) -> None:
        asking = [turns.redeem(question(str(number).encode())) for number in range(6)]
        found = await asyncio.gather(*asking, return_exceptions=True)
        assert found == [b"for 0", b"for 1", b"for 2", bug, b"for 4", b"for 5"]

    run(redeemer, test)


def test_nobody_waits_for_ever_where_an_answer_is_missing():
    def redeem_none(sent: Sequence[SentRedemption]) -> list[bytes | QmeshError]:
        return [b"for one"] * (len(sent) - 1)

    async def ask() -> None:
        turns = RedemptionTurns(redeem_none)
        for _ in range(2):  # the second one finds that turns go on
            with pytest.raises(ValueError, match="zip"):
                await asyncio.wait_for(turns.redeem(question(b"1")), patience(5))

    asyncio.run(ask())


def test_what_stops_all_is_tried_once():
    error = MachineRefused("the disk is full", hint="make room")
    redeemer = Redeemer((b"3", error))
    redeemer.go_on.set()

    async def test(turns: RedemptionTurns) -> None:
        asking = [turns.redeem(question(str(number).encode())) for number in range(6)]
        assert await asyncio.gather(*asking, return_exceptions=True) == [error] * 6

    run(redeemer, test)
    assert len(redeemer.turns) == 1


def test_who_hangs_up_before_his_turn_has_none():
    redeemer = Redeemer()

    async def test(turns: RedemptionTurns) -> None:
        (first,) = await begun([turns.redeem(question(b"1"))])
        gone, there = question(b"2"), question(b"3")
        asking = await begun([turns.redeem(gone), turns.redeem(there)])
        gone.hung_up.set_result(None)
        redeemer.go_on.set()
        with pytest.raises(ClientDisconnected):
            await asking[0]
        assert [await first, await asking[1]] == [b"for 1", b"for 3"]

    run(redeemer, test)
    assert redeemer.turns == [[b"1"], [b"3"]]


def test_one_peer_has_as_many_in_a_turn_as_jobs_elsewhere():
    redeemer = Redeemer()

    async def test(turns: RedemptionTurns) -> None:
        peer = ConnectedPeer("10.77.0.9")
        asking = await begun(turns.redeem(question(str(number).encode(), peer)) for number in range(7))
        redeemer.go_on.set()
        await asyncio.gather(*asking)

    run(redeemer, test)
    assert max(map(len, redeemer.turns)) <= MAX_JOBS_A_PEER


def test_who_has_something_for_everybody_waits_until_nobody_is_joining_or_for_a_short_time():
    redeemer = Redeemer()

    async def test(turns: RedemptionTurns) -> None:
        await turns.wait_until_idle(patience(20))  # nobody joins
        asking = await begun([turns.redeem(question(b"1"))])
        await turns.wait_until_idle(0.01)
        assert not asking[0].done()
        (waiting,) = await begun([turns.wait_until_idle(patience(20))])
        assert not waiting.done()
        redeemer.go_on.set()
        await waiting
        assert await asking[0] == b"for 1"

    run(redeemer, test)
