"""Look by look, what lasts: told once when it has begun, and once when it has ended.

What a look cannot tell changes nothing: a machine that was silent is not back because an agent has just
started. What comes and goes has to last twice as long each time, so that it is told ever more rarely.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec

from qmesh.mesh.notifications.change import ChangeKind, Condition, Key, Phase, ToldChange
from qmesh.mesh.ports.port_ranges import list_port_ranges
from qmesh.mesh.values import UnixTime

GATHER_S: Final = 30.0
"""Seconds that a change waits for others of its kind that are about to be told: they are one message then."""
MOST_GAP_S: Final = 10.0
"""Seconds between two looks that count, at most: beyond them this machine itself was stopped."""
OFTEN_S: Final = 3600.0
"""Seconds after which a change counts as the first again."""
CALM_FLIPS: Final = 2
"""Changes of one condition within that time that are told as usual: it began, and ended."""
MOST_DOUBLINGS: Final = 6

DIPS: Final = 5
"""What began so often within that time, and lasted half as long as it has to, is told all the same."""

Absence: TypeAlias = Literal["ended", "unknown", "gone"]
"""Of a condition that is not seen: it has ended; it can't be seen now; or there is no such thing any more."""


class Told(msgspec.Struct, frozen=True, array_like=True):
    """What was told of a condition last. is_on: that it began; flips: how many times in a row, lately.

    changed_at: when. code: of a finding, to name it when it ends.
    """

    kind: ChangeKind
    machine: str
    subject: str
    is_on: bool
    changed_at: UnixTime
    flips: int
    code: str = ""

    @property
    def key(self) -> Key:
        """Of the condition."""
        return self.kind, self.machine, self.subject


class _Pending(msgspec.Struct):
    """A condition that is not as it was told. condition: None where it has ended.

    since, seen: on the tracker's clock, from when and until when that was seen; patience_s: how long it has
    to last; is_flapping: whether it did not, again and again.
    """

    condition: Condition | None
    since: float
    seen: float
    patience_s: float
    is_flapping: bool = False

    @property
    def lasted_s(self) -> float:
        return self.seen - self.since


class _Dips(NamedTuple):
    """How often a condition did not last. since: of the first one, on the tracker's clock."""

    times: int
    since: float
    condition: Condition
    patience_s: float


class ConditionTracker:
    """Over the looks of one agent. told: what an earlier one has told.

    Its clock stands still while there are no looks.
    """

    def __init__(self, told: Iterable[Told] = ()) -> None:
        self._told = {each.key: each for each in told}
        self._pending: dict[Key, _Pending] = {}
        self._dips: dict[Key, _Dips] = {}
        self._stirred: dict[Key, int] = {}
        """When each was last seen otherwise than it was told, in Unix time."""
        self._clock = 0.0
        self._looked_at: float | None = None

    def list_told(self) -> tuple[Told, ...]:
        """What was told, to be kept."""
        return tuple(self._told.values())

    def advance(self, at_s: float) -> None:
        """Say that it is a time, in seconds of a clock that does not jump."""
        if self._looked_at is not None:
            self._clock += min(max(0.0, at_s - self._looked_at), MOST_GAP_S)
        self._looked_at = at_s

    def observe(
        self,
        kind: ChangeKind,
        present: Iterable[Condition],
        *,
        patience_s: float,
        ended_s: float | None = None,
        judge: Callable[[Key], Absence] = lambda _: "ended",
    ) -> None:
        """Take what was seen now of one kind. judge: what it means that a condition was not.

        patience_s: seconds that a condition has to last; ended_s: that its end has to, else as many.
        """
        found = {each.key: each for each in present}
        for key in {key for key in (*self._told, *self._pending) if key[0] == kind}.difference(found):
            self._note_absence(key, judge(key), patience_s if ended_s is None else ended_s)
        for key, condition in found.items():
            if self._is_told(key):
                self._pending.pop(key, None)
            else:
                self._await(key, condition, max(patience_s, condition.least_s))

    def _note_absence(self, key: Key, absence: Absence, patience_s: float) -> None:
        if absence == "ended" and self._is_told(key):
            self._await(key, None, patience_s)
            return
        pending = self._pending.pop(key, None)
        if absence == "gone":
            for each in (self._told, self._dips, self._stirred):
                each.pop(key, None)
        elif (
            pending is not None
            and pending.condition is not None
            and 2 * pending.lasted_s >= pending.patience_s
        ):
            self._note_dip(key, pending.condition, pending.patience_s)

    def _note_dip(self, key: Key, condition: Condition, patience_s: float) -> None:
        before = self._dips.get(key)
        if before is None or self._clock - before.since > OFTEN_S:
            before = _Dips(0, self._clock, condition, patience_s)
        self._dips[key] = before._replace(times=before.times + 1, condition=condition)

    def _is_told(self, key: Key) -> bool:
        return key in self._told and self._told[key].is_on

    def _await(self, key: Key, condition: Condition | None, patience_s: float) -> None:
        before = self._pending.get(key)
        since = self._clock if before is None else before.since
        self._pending[key] = _Pending(condition, since, self._clock, patience_s)

    def take_due(self, now: int) -> tuple[ToldChange, ...]:
        """What is to be told now, as told from now on. now: Unix time in seconds."""
        self._forget_calm(now)
        for key in self._pending:
            self._stirred[key] = now
        rests = {
            key: self._find_hold(key, each.patience_s, now) - each.lasted_s
            for key, each in self._pending.items()
        }
        due = [key for key, rest_s in rests.items() if rest_s <= 0]
        kinds = {key[0] for key in due}
        is_more_near = any(0 < rest_s <= GATHER_S and key[0] in kinds for key, rest_s in rests.items())
        if is_more_near and min(rests.values()) > -GATHER_S:
            due = []
        return tuple(self._tell([*self._take_flapping(), *due], now))

    def _take_flapping(self) -> list[Key]:
        """What never lasts, and begins again and again, as if it had lasted."""
        found = [key for key, dips in self._dips.items() if dips.times >= DIPS and key not in self._pending]
        for key in found:
            dips = self._dips[key]
            self._pending[key] = _Pending(
                dips.condition, self._clock, self._clock, dips.patience_s, is_flapping=True
            )
        return found

    def _find_hold(self, key: Key, patience_s: float, now: int) -> float:
        """Seconds that it has to last: the more often it has changed lately, the longer."""
        before = self._told.get(key)
        return patience_s * _find_factor(
            before.flips if before is not None and self._is_lately(before, now) else 0
        )

    def _is_lately(self, told: Told, now: int) -> bool:
        """Whether it changed lately, or was seen to do so for a while. The clock may have gone back since."""
        return abs(now - max(told.changed_at, self._stirred.get(told.key, 0))) <= OFTEN_S

    def _forget_calm(self, now: int) -> None:
        """Forget what has ended long ago."""
        for key, each in list(self._told.items()):
            if not each.is_on and not self._is_lately(each, now):
                del self._told[key]
        self._stirred = {key: at for key, at in self._stirred.items() if key in self._told}
        self._dips = {key: each for key, each in self._dips.items() if self._clock - each.since <= OFTEN_S}

    def _tell(self, due: list[Key], now: int) -> Iterable[ToldChange]:
        groups: dict[tuple[object, ...], list[tuple[Key, _Pending, Told]]] = {}
        for key in due:
            pending, before = self._pending.pop(key), self._told.get(key)
            self._dips.pop(key, None)
            flips = before.flips if before is not None and self._is_lately(before, now) else 0
            condition = pending.condition
            told = Told(
                *key,
                is_on=condition is not None,
                changed_at=now,
                flips=max(flips + 1, CALM_FLIPS + 1 if pending.is_flapping else 0),
                code=(before.code if before is not None else "") if condition is None else condition.code,
            )
            self._told[key] = told
            # The workers of one machine are one change.
            group = (key[0], key[1], told.is_on) if key[0] == "worker-silent" else (key,)
            groups.setdefault(group, []).append((key, pending, told))
        return (_build_change(members, now) for members in groups.values())


def _find_factor(flips: int) -> int:
    return 1 << min(max(0, flips + 1 - CALM_FLIPS), MOST_DOUBLINGS)


def _build_change(members: list[tuple[Key, _Pending, Told]], now: int) -> ToldChange:
    (kind, machine, subject), pending, told = members[0]
    condition = pending.condition
    phase: Phase = "ended" if condition is None else "begun"
    flips = max(each.flips for _, _, each in members)
    hold_s = round(pending.patience_s * _find_factor(flips)) if flips > CALM_FLIPS else 0
    if kind == "worker-silent":
        cores = sorted(int(key[2]) for key, _, _ in members)
        details = {each.condition.detail for _, each, _ in members if each.condition is not None}
        return ToldChange(
            at=now,
            kind=kind,
            phase=phase,
            machine=machine,
            cores=list_port_ranges(cores),
            detail=details.pop() if len(details) == 1 else "",
            hold_s=hold_s,
        )
    return ToldChange(
        at=now,
        kind=kind,
        phase=phase,
        machine=machine,
        subject=subject.removeprefix(f"{told.code} "),
        code=told.code,
        severity="error" if condition is None else condition.severity,
        detail="" if condition is None else condition.detail,
        fix="" if condition is None else condition.fix,
        hold_s=hold_s,
    )
