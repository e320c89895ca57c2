"""A SAT solver, asked about gates. It is no library of ours: clasp, by the package clingo."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Final, Self

from clingo.backend import Backend
from clingo.control import Control
from clingo.solving import Model

from qmesh.mesh.prover.gates import TRUE, Gates

_SLICE_S: Final = 0.1
"""Seconds after which a question that is thought about lets Python see a signal."""


class Solver:
    """What must hold of some gates, and questions about it; to be closed.

    Gates are rules of a logic program: an `and` holds where its inputs do, and a variable may be chosen.
    What is added to a program must have greater numbers than all that was there: so atoms have their own.
    """

    def __init__(self, gates: Gates) -> None:
        self._gates = gates
        self._control = Control()
        self._open = ExitStack()
        self._model: Model | None = None
        self._reasons: set[int] = set()
        self._known: set[int] = {TRUE}
        self._atoms: dict[int, int] = {}
        self._wires: dict[int, int] = {}
        with self._control.backend() as backend:
            backend.add_rule([self._make_atom(backend, TRUE)])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Be asked nothing more."""
        self._forget_answer()

    def require(self, *wires: int) -> None:
        """Have one of these hold, in all questions from here on."""
        self._forget_answer()
        self._describe(wires)
        with self._control.backend() as backend:
            backend.add_rule([], [-self._find_literal(wire) for wire in wires])

    def is_possible(self, wires: Iterable[int]) -> bool:
        """Whether all of these can hold at once. Raises KeyboardInterrupt."""
        self._forget_answer()
        asked = list(dict.fromkeys(wires))
        self._describe(asked)
        literals = [self._find_literal(wire) for wire in asked]
        # In a thread of its own, for which this one waits in slices, so that it sees Ctrl-C.
        handle = self._open.enter_context(self._control.solve(assumptions=literals, yield_=True, async_=True))
        any(iter(lambda: handle.wait(_SLICE_S), None))
        self._model = handle.model()
        if self._model is None:
            self._reasons = {
                self._wires[literal] if literal > 0 else -self._wires[-literal] for literal in handle.core()
            }
        return self._model is not None

    def is_set(self, wire: int) -> bool:
        """Whether a variable or gate is on in the example that the last question found."""
        return self._model is not None and wire in self._atoms and self._model.is_true(self._atoms[wire])

    def list_reasons(self) -> set[int]:
        """Some of the wires that were asked, which can't hold at once, by the last question."""
        return self._reasons

    def _forget_answer(self) -> None:
        self._open.close()
        self._model, self._reasons = None, set()

    def _describe(self, wires: Iterable[int]) -> None:
        """Tell the solver what gates are, each once."""
        found = self._gates.list_cone(wires, self._known)
        if not found:
            return
        with self._control.backend() as backend:
            for node in found:
                atom, inputs = self._make_atom(backend, node), self._gates.inputs[node]
                if inputs is None:
                    backend.add_rule([atom], choice=True)
                else:
                    backend.add_rule([atom], [self._find_literal(wire) for wire in inputs])

    def _make_atom(self, backend: Backend, wire: int) -> int:
        atom = self._atoms[wire] = backend.add_atom()
        self._wires[atom] = wire
        return atom

    def _find_literal(self, wire: int) -> int:
        return self._atoms[wire] if wire > 0 else -self._atoms[-wire]
