"""Answers and values of which one may be unknown.

A question has three answers: True, False, and None where it could not be understood.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

Value: TypeAlias = int | str | tuple[str, ...]
"""A number, a name, or several names of which each counts."""

Truth: TypeAlias = bool | None


def all_of(truths: Iterable[Truth]) -> Truth:
    """Whether all hold: no where one does not, else None where one is unclear."""
    found = set(truths)
    return False if False in found else None if None in found else True


def negate(truth: Truth, wanted: object = 1) -> Truth:
    """The contrary, where it is wanted. What is unclear stays so."""
    return None if truth is None else truth is not bool(wanted)
