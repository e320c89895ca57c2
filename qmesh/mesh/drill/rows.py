"""Shots that are meant to have one fate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias

import msgspec

from qmesh.mesh.drill.shots import Shot

Wanted: TypeAlias = Literal["blocked", "through", "answered", "as without"]
"""What should become of a row's shots: `answered` is a TCP connection that is accepted; `as without` is what
becomes of them without qmesh's tables."""


class DrillRow(msgspec.Struct, frozen=True, kw_only=True):
    """What one side tries, or needs, in one way. side: who fires. what: at what.

    before: shots that come before these, without qmesh's tables, so that the connections are older than they.
    openers: shots that come directly before these, with the same tables.
    in_held: whether the second table alone does it too.
    """

    side: str
    what: str
    wanted: Wanted
    shots: tuple[Shot, ...]
    before: tuple[Shot, ...] = ()
    openers: tuple[Shot, ...] = ()
    in_held: bool = True


def make_row(
    side: str,
    what: str,
    wanted: Wanted,
    shots: Iterable[Shot],
    *,
    openers: Iterable[Shot] = (),
    in_held: bool = True,
) -> DrillRow:
    """A row of shots that are made only now."""
    return DrillRow(
        side=side, what=what, wanted=wanted, shots=tuple(shots), openers=tuple(openers), in_held=in_held
    )
