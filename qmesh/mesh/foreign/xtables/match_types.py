"""What a match is: a question to a packet, and how it is built from a revision and a structure of C."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from qmesh.mesh.foreign.rules import Evaluation
from qmesh.mesh.foreign.values import Truth

YES: Final[Truth] = True
NO: Final[Truth] = False
Match = Callable[[Evaluation], Truth]
MatchBuilder = Callable[[int, bytes], Match]
