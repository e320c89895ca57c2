"""Values that a rule looks up in a set: what is asked of the kernel, and what it answered.

A set is never read as a whole. The evaluator, which may touch no machine, collects its questions; it is run
again with the answers.
"""

from __future__ import annotations

from typing import Final

import msgspec

MOST_QUESTIONS: Final = 50_000
"""Of one look: each costs the kernel and us some 20 microseconds."""


class Question(msgspec.Struct, frozen=True):
    """Whether a set or map has a value. key: its bytes, as the kernel's register has them."""

    family: str
    table: str
    collection: str
    key: bytes


class Element(msgspec.Struct, frozen=True):
    """What is there: of a map a value, or a verdict with the chain that it may name."""

    value: bytes | None = None
    verdict: int | None = None
    chain: str = ""


Answers = dict[Question, Element | None]
"""None where the set has no such element."""


class Lookups:
    """The answers that are there, and the questions that are open."""

    def __init__(self, answers: Answers | None = None) -> None:
        self.answers: Answers = answers or {}
        self.open: set[Question] = set()

    def find_element(self, question: Question) -> tuple[bool, Element | None]:
        """Whether it is known, and what is there. What is not known is noted, while that is not too much."""
        if question in self.answers:
            return True, self.answers[question]
        if len(self.open) + len(self.answers) < MOST_QUESTIONS:
            self.open.add(question)
        return False, None


class SetHeader(msgspec.Struct, frozen=True):
    """A set or map without its elements.

    key_length: bytes of a value. counts: whether its elements have limits of their own, so that not each
        packet of a value matches.
    """

    key_length: int
    counts: bool = False
