"""What a member tells the control node of its machine, with its question for the membership, and when."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Final

from qmesh.agent.local import Local
from qmesh.mesh.decode import Malformed
from qmesh.mesh.machine import Machine
from qmesh.mesh.machine_facts.facts import ToldFacts
from qmesh.mesh.machine_facts.schedule import Telling, is_telling_due
from qmesh.mesh.protocol.aead import NONCE_OCTETS
from qmesh.mesh.protocol.facts_report import encrypt_facts

_MOST_UNTOLD: Final = 12
"""Questions that were answered, in a minute, after which facts that are not known then are not waited for."""


class FactsTeller:
    """For the thread that asks. get_told: this machine's facts; None before they are known.

    What was in a question that failed counts as not told: the control node may have started again, and it
    keeps what it was told in memory alone.
    """

    def __init__(self, get_told: Callable[[], ToldFacts | None]) -> None:
        self._get_told = get_told
        self._asked: Telling | None = None
        self._told: Telling | None = None
        self._untold = 0

    @property
    def is_waiting(self) -> bool:
        """Whether nothing was told yet, or what was may be forgotten; not for ever, where nothing can be."""
        return self._told is None and self._untold < _MOST_UNTOLD

    def build_report(self, here: Local, hub: Machine) -> bytes:
        """What to tell that control node with the next question, encrypted; empty where nothing is due."""
        told, shared = self._get_told(), here.preshared.get(hub.public_key)
        now, own = time.monotonic(), here.machine.public_key
        self._asked = None
        if told is None or shared is None:
            return b""
        facts = told.facts
        if not is_telling_due(self._told, facts, to=hub.public_key, own=own, now_s=now):
            return b""
        try:
            sealed = encrypt_facts(facts, shared, nonce=secrets.token_bytes(NONCE_OCTETS))
        except Malformed:  # a machine of a kind that was never seen: it asks for the membership all the same
            return b""
        self._asked = Telling(facts, hub.public_key, own, now)
        return sealed

    def note_answer(self) -> None:
        """The question was answered: what it told was heard."""
        self._told = self._asked or self._told
        self._untold += 1

    def note_failure(self) -> None:
        """It was not: all is to be told again."""
        self._told = None
        self._untold = 0
