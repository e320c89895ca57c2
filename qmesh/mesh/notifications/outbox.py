"""The changes that are still to be delivered: one bounded list, and of each receiver how far it has it.

A receiver gets what it has not had as one message, or few. One that takes nothing is tried again at growing
intervals; what is too much of its list goes, oldest first, and it is told how many those were.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from qmesh.mesh.notifications.change import ToldChange
from qmesh.mesh.values import UnixTime

MOST_CHANGES: Final = 1024
MOST_IN_MESSAGE: Final = 256
"""A receiver may refuse a message that is large, and would do so for ever."""
AGAIN_S: Final = (10, 30, 60, 120, 300, 900, 3600)
"""Seconds until a receiver is tried again, after so many failures in a row."""
BETWEEN_S: Final = 10
"""Seconds between two messages to one receiver, at least."""
MOST_IN_HOUR: Final = 12
CROWDED_S: Final = 300
"""Seconds between two of them where there were so many in an hour."""
_HOUR_S: Final = 3600


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """How far one receiver has it. receiver: its identifier.

    delivered: the number of the last change that it took. failures: how often in a row it did not.
    due_at: before that it is sent nothing, in Unix time. sent: when the last messages were delivered.
    """

    receiver: str
    delivered: int
    failures: int = 0
    due_at: UnixTime = 0
    sent: tuple[UnixTime, ...] = ()


class Batch(msgspec.Struct, frozen=True):
    """What one message tells. dropped: how many changes before these are lost."""

    changes: tuple[ToldChange, ...]
    dropped: int = 0

    @property
    def last(self) -> int:
        """The number of its last change."""
        return self.changes[-1].number


class Outbox(msgspec.Struct, frozen=True, kw_only=True):
    """next_number: of the next change. changes: those that not every receiver has, oldest first."""

    next_number: int = 1
    changes: tuple[ToldChange, ...] = ()
    deliveries: tuple[Delivery, ...] = ()


def set_receivers(outbox: Outbox, receivers: Iterable[str]) -> Outbox:
    """The same for these receivers: a new one gets what comes from now on, and of others nothing is kept."""
    known = {each.receiver: each for each in outbox.deliveries}
    last = outbox.next_number - 1
    deliveries = tuple(known.get(each) or Delivery(receiver=each, delivered=last) for each in receivers)
    return _trim(msgspec.structs.replace(outbox, deliveries=deliveries))


def add_changes(outbox: Outbox, changes: Iterable[ToldChange]) -> Outbox:
    """The same with more to tell, each with its number."""
    added = tuple(
        msgspec.structs.replace(each, number=number)
        for number, each in enumerate(changes, outbox.next_number)
    )
    return _trim(
        msgspec.structs.replace(
            outbox, next_number=outbox.next_number + len(added), changes=(*outbox.changes, *added)
        )
    )


def _trim(outbox: Outbox) -> Outbox:
    taken = min((each.delivered for each in outbox.deliveries), default=outbox.next_number)
    waiting = tuple(each for each in outbox.changes if each.number > taken)
    return msgspec.structs.replace(outbox, changes=waiting[-MOST_CHANGES:])


def find_batch(outbox: Outbox, receiver: str, now: int) -> Batch | None:
    """What that receiver is to be told now, if anything. now: Unix time in seconds."""
    delivery = _find_delivery(outbox, receiver)
    if delivery is None or _is_too_early(delivery, now):
        return None
    waiting = tuple(each for each in outbox.changes if each.number > delivery.delivered)
    if not waiting:
        return None
    return Batch(waiting[:MOST_IN_MESSAGE], dropped=waiting[0].number - delivery.delivered - 1)


def _find_delivery(outbox: Outbox, receiver: str) -> Delivery | None:
    return next((each for each in outbox.deliveries if each.receiver == receiver), None)


def _is_too_early(delivery: Delivery, now: int) -> bool:
    """Where the clock was set back, no longer than the longest interval."""
    return now < delivery.due_at <= now + AGAIN_S[-1]


def note_delivered(outbox: Outbox, receiver: str, last: int, now: int) -> Outbox:
    """The same after a receiver has taken the changes up to that number."""
    delivery = _find_delivery(outbox, receiver)
    if delivery is None:
        return outbox
    sent = tuple(each for each in (*delivery.sent, now) if 0 <= now - each < _HOUR_S)[-MOST_IN_HOUR:]
    wait_s = BETWEEN_S if len(sent) < MOST_IN_HOUR else CROWDED_S
    return _replace(
        outbox,
        Delivery(receiver=receiver, delivered=max(last, delivery.delivered), due_at=now + wait_s, sent=sent),
    )


def note_failure(outbox: Outbox, receiver: str, now: int) -> Outbox:
    """The same after a receiver has not taken what it was sent."""
    delivery = _find_delivery(outbox, receiver)
    if delivery is None:
        return outbox
    due_at = now + AGAIN_S[min(delivery.failures, len(AGAIN_S) - 1)]
    return _replace(outbox, msgspec.structs.replace(delivery, failures=delivery.failures + 1, due_at=due_at))


def _replace(outbox: Outbox, delivery: Delivery) -> Outbox:
    deliveries = tuple(delivery if each.receiver == delivery.receiver else each for each in outbox.deliveries)
    return _trim(msgspec.structs.replace(outbox, deliveries=deliveries))
