"""When a member tells the control node its facts again: seldom, and soon where more than readings differ."""

from __future__ import annotations

from typing import Final

import msgspec

from qmesh.mesh.machine_facts.facts import MachineFacts

TELL_S: Final = 300.0
"""Seconds until facts are told again of which only readings, such as the load, are others."""
CHANGE_S: Final = 45.0
"""The same where anything else is: a worker that never stays up changes them every second."""


class Telling(msgspec.Struct, frozen=True):
    """What was told last, to whom and as whom, by public keys, and at which second of any clock."""

    facts: MachineFacts
    to: str
    own: str
    at_s: float


def is_telling_due(last: Telling | None, facts: MachineFacts, *, to: str, own: str, now_s: float) -> bool:
    """Whether these facts are to be told to that control node. last: None where none are known to be told."""
    if last is None or (last.to, last.own) != (to, own):
        return True
    is_changed = _drop_readings(last.facts) != _drop_readings(facts)
    return now_s - last.at_s >= (CHANGE_S if is_changed else TELL_S)


def _drop_readings(facts: MachineFacts) -> MachineFacts:
    """The facts without what is another number at each look."""
    return msgspec.structs.replace(
        facts,
        memory_available_bytes=None,
        disk_bytes=None,
        disk_free_bytes=None,
        load=None,
        workers=tuple(
            each if each.memory_bytes is None else msgspec.structs.replace(each, memory_bytes=0)
            for each in facts.workers
        ),
    )
