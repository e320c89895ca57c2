"""Rules of other programs, as values."""

from __future__ import annotations

import msgspec

from qmesh.mesh.foreign.rules import Ending, Evaluation, Outcome
from qmesh.mesh.foreign.values import Truth


class PlainRule(msgspec.Struct, frozen=True):
    """A rule that does one thing with every packet."""

    text: str
    verdict: Ending = "continue"
    target: str = ""
    handle: int | None = None
    truth: Truth = True
    is_limit: bool = False

    def judge(self, _: Evaluation) -> Outcome:
        """That."""
        return Outcome(self.truth, self.verdict, self.target, self.is_limit)
