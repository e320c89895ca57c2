"""Conditions on a packet as gates: `and` and `not` over variables of one bit.

A wire is a number, and its negative is the contrary. What is known folds at once, and equal gates are one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TypeAlias

Wires: TypeAlias = tuple[int, ...]
"""Bits of octets, in the order of the octets, of each the highest bit first."""
TRUE: Final = 1
FALSE: Final = -1


class Gates:
    """All gates of one question."""

    def __init__(self) -> None:
        self.inputs: list[tuple[int, int] | None] = [None, None]  # there is no wire 0, and TRUE is 1
        self._known: dict[tuple[int, int], int] = {}

    def make_variable(self) -> int:
        """A bit of which nothing is known."""
        self.inputs.append(None)
        return len(self.inputs) - 1

    def make_variables(self, count: int) -> Wires:
        """So many of them."""
        return tuple(self.make_variable() for _ in range(count))

    def both(self, one: int, other: int) -> int:
        """Whether both hold."""
        if FALSE in {one, other} or one == -other:
            return FALSE
        if one in {TRUE, other}:
            return other
        if other == TRUE:
            return one
        key = (one, other) if one < other else (other, one)
        wire = self._known.get(key)
        if wire is None:
            self.inputs.append(key)
            wire = self._known[key] = len(self.inputs) - 1
        return wire

    def either(self, one: int, other: int) -> int:
        """Whether one of them holds, or both."""
        return -self.both(-one, -other)

    def choose(self, condition: int, one: int, other: int) -> int:
        """The one where the condition holds, else the other."""
        if one == other:
            return one
        return self.either(self.both(condition, one), self.both(-condition, other))

    def all_of(self, wires: Iterable[int]) -> int:
        """Whether all hold."""
        found = TRUE
        for wire in wires:
            found = self.both(found, wire)
        return found

    def any_of(self, wires: Iterable[int]) -> int:
        """Whether one of them holds at least."""
        return -self.all_of(-wire for wire in wires)

    def same(self, one: int, other: int) -> int:
        """Whether they are equal."""
        return self.choose(one, other, -other)

    def choose_each(self, condition: int, ones: Wires, others: Wires) -> Wires:
        """`choose` for each bit."""
        return tuple(self.choose(condition, *pair) for pair in zip(ones, others, strict=True))

    def equal(self, bits: Wires, wanted: bytes) -> int:
        """Whether bits are these octets."""
        return self.all_of(
            bit if known == TRUE else -bit for bit, known in zip(bits, make_constant(wanted), strict=True)
        )

    def less(self, bits: Wires, limit: bytes) -> int:
        """Whether bits, as one number, are less than that."""
        found = FALSE
        for bit, known in reversed(list(zip(bits, make_constant(limit), strict=True))):
            found = self.either(-bit, found) if known == TRUE else self.both(-bit, found)
        return found

    def is_within(self, bits: Wires, ranges: Sequence[tuple[int, int]]) -> int:
        """Whether bits, as one number, are in one of these: first and last of each, ascending, apart."""
        return self._split(bits, 0, 0, ranges, 0, len(ranges))

    def _split(
        self, bits: Wires, place: int, start: int, ranges: Sequence[tuple[int, int]], begin: int, end: int
    ) -> int:
        """The same for numbers that begin with the bits before `place`, and ranges from `begin` to `end`."""
        if begin == end:
            return FALSE
        size = 1 << (len(bits) - place)
        if ranges[begin][0] <= start and ranges[begin][1] >= start + size - 1:
            return TRUE
        middle = start + size // 2
        # The ranges are apart: where they pass the middle is found by halving.
        low, high = begin, end
        while low < high:
            probe = (low + high) // 2
            low, high = (probe + 1, high) if ranges[probe][0] < middle else (low, probe)
        upper = low - 1 if low > begin and ranges[low - 1][1] >= middle else low
        return self.choose(
            bits[place],
            self._split(bits, place + 1, middle, ranges, upper, end),
            self._split(bits, place + 1, start, ranges, begin, low),
        )

    def list_cone(self, wires: Iterable[int], seen: set[int] | None = None) -> list[int]:
        """Every gate and variable that these depend on, each after its inputs, but for those seen before."""
        found: list[int] = []
        seen = {TRUE} if seen is None else seen
        stack = [abs(wire) for wire in wires]
        while stack:
            node = stack.pop()
            if node not in seen:
                seen.add(node)
                found.append(node)
                stack += map(abs, self.inputs[node] or ())
        found.sort()  # a gate is made after its inputs
        return found

    def evaluate(self, wires: Sequence[int], is_set: Callable[[int], bool]) -> list[bool]:
        """Whether each holds. is_set: of a variable."""
        found = {TRUE: True}
        for node in self.list_cone(wires):
            inputs = self.inputs[node]
            found[node] = (
                is_set(node) if inputs is None else all(found[abs(each)] is (each > 0) for each in inputs)
            )
        return [found[abs(wire)] is (wire > 0) for wire in wires]

    def substitute(self, wire: int, values: Mapping[int, int]) -> int:
        """The same with other wires in the place of some variables."""
        found = {TRUE: TRUE}
        for node in self.list_cone([wire]):
            inputs = self.inputs[node]
            if inputs is None:
                found[node] = values.get(node, node)
            else:
                one, other = (found[abs(each)] if each > 0 else -found[abs(each)] for each in inputs)
                found[node] = self.both(one, other)
        return found[abs(wire)] if wire > 0 else -found[abs(wire)]


def make_constant(octets: bytes) -> Wires:
    """Octets that are known."""
    return tuple(TRUE if octet >> bit & 1 else FALSE for octet in octets for bit in range(7, -1, -1))
