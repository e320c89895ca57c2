"""A SAT solver, asked about gates. It is no library of ours: CaDiCaL, by the package python-sat."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

from pysat.solvers import Cadical195

from qmesh.mesh.prover.gates import TRUE, Gates


class Solver:
    """What must hold of some gates, and questions about it; to be closed."""

    def __init__(self, gates: Gates) -> None:
        self._gates = gates
        self._solver: Any = Cadical195(bootstrap_with=[[TRUE]])
        self._known: set[int] = {TRUE}
        self._model: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give its memory back."""
        self._solver.delete()

    def require(self, *wires: int) -> None:
        """Have one of these hold, in all questions from here on."""
        self._describe(wires)
        self._solver.add_clause(list(wires))

    def is_possible(self, wires: Iterable[int]) -> bool:
        """Whether all of these can hold at once. Raises KeyboardInterrupt."""
        asked = list(dict.fromkeys(wires))
        self._describe(asked)
        try:
            is_found = bool(self._solver.solve(assumptions=asked))
        except Exception as error:  # the solver's own, also for Ctrl-C
            if "keyboard interrupt" in str(error):
                raise KeyboardInterrupt from None
            raise
        self._model = {each for each in self._solver.get_model() if each > 0} if is_found else set()
        return is_found

    def is_set(self, variable: int) -> bool:
        """Whether a variable is set in the example that the last question found."""
        return variable in self._model

    def list_reasons(self) -> set[int]:
        """Some of the wires that were asked, which can't hold at once, by the last question."""
        return set(self._solver.get_core() or ())

    def _describe(self, wires: Iterable[int]) -> None:
        """Tell the solver what gates are, each once."""
        clauses = []
        for node in self._gates.list_cone(wires, self._known):
            inputs = self._gates.inputs[node]
            if inputs is not None:
                one, other = inputs
                clauses += [[-node, one], [-node, other], [node, -one, -other]]
        self._solver.append_formula(clauses)
