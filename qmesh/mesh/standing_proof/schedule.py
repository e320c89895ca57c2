"""When the next proof is due: soon after a change, and all proofs together a small part of one core."""

from __future__ import annotations

from typing import Final, NamedTuple

FIRST_S: Final = 30.0
"""Seconds after the agent's start: at a boot others have more to do, and load their rules."""
SETTLED_S: Final = 1.0
"""Seconds without another change after which rules are proved."""
UNSETTLED_S: Final = 5.0
"""Seconds after which they are proved while they go on changing."""
AGAIN_S: Final = 900.0
"""Seconds after which they are proved without a notice: of iptables-legacy the kernel tells nothing."""
RETRY_S: Final = 15.0
"""Seconds until a proof that failed is tried again, twice as many each time, up to `AGAIN_S`."""
SHARE: Final = 0.004
"""Of one core, over a long time."""
MOST_S: Final = 10.0
"""Seconds of the processor's time that are saved up at most, for changes that come together."""


class RuleChanges(NamedTuple):
    """How often something has changed since the agent listens: tables, chains and rules; elements of sets."""

    rules: int = 0
    elements: int = 0


class ProofSchedule:
    """Of one machine. Times are seconds of one clock that never goes back.

    A machine may change its rules each second, or a set of addresses. So what proofs take comes out of an
    account: a change of rules is proved while anything is on it, one of elements alone while it is half full.
    """

    def __init__(self, now: float) -> None:
        self._began = now
        self._balance = MOST_S
        self._counted = now
        self._seen = RuleChanges()
        self._changed: float | None = None
        self._last = now
        self._proved: RuleChanges | None = None
        self._proved_at = now
        self._tried, self._tried_at, self._wait_s = RuleChanges(), now, 0.0

    def is_due(self, changes: RuleChanges, now: float) -> bool:
        """Whether to prove now. changes: as they are counted by now."""
        if changes != self._seen:
            self._seen, self._last = changes, now
        if self._changed is None and self._proved not in {None, changes}:
            self._changed = now
        self._balance = min(MOST_S, self._balance + SHARE * (now - self._counted))
        self._counted = now
        wait_s = self._wait_s if changes == self._tried else min(self._wait_s, UNSETTLED_S)
        if now < max(self._began + FIRST_S, self._tried_at + wait_s):
            return False
        if self._proved is None:
            return self._balance > 0
        if self._changed is not None and now < min(self._last + SETTLED_S, self._changed + UNSETTLED_S):
            return False
        if changes.rules != self._proved.rules:
            return self._balance > 0
        is_other = changes != self._proved or now >= self._proved_at + AGAIN_S
        return is_other and self._balance > MOST_S / 2

    def note_proof(self, changes: RuleChanges, now: float, *, cost_s: float) -> None:
        """A proof has ended. changes: as they were when it began. cost_s: of the processor's time."""
        self._charge(cost_s)
        self._proved, self._proved_at, self._changed, self._wait_s = changes, now, None, 0.0

    def note_failure(self, changes: RuleChanges, now: float, *, cost_s: float) -> None:
        """The same of one that said nothing, or not all: what was to be proved still is."""
        self._charge(cost_s)
        self._tried, self._tried_at = changes, now
        self._wait_s = min(AGAIN_S, max(RETRY_S, 2 * self._wait_s))

    def forget_proof(self) -> None:
        """Nothing is proved any more, as nobody wants to know it: then what comes next is a first proof."""
        self._proved, self._changed, self._wait_s = None, None, 0.0

    def _charge(self, cost_s: float) -> None:
        self._balance = max(-MOST_S, self._balance - cost_s)

    def find_lag(self, now: float) -> float | None:
        """For how long something has been another than what was proved; None where nothing is known to be."""
        return None if self._changed is None else now - self._changed
