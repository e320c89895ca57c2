"""What a reader of a config has looked at already."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from qmesh.mesh.nodeconfig.document import (
    Mapping,
    Node,
    resolve_alias,
)
from qmesh.mesh.nodeconfig.known_keys import Form


class Visits:
    """What was looked at: each section and value once, though thousands of aliases may stand for it."""

    def __init__(self) -> None:
        self.sections: defaultdict[str, set[int]] = defaultdict(set)
        self._answers: dict[tuple[Form, int], bool] = {}

    def is_first(self, path: str, section: Mapping) -> bool:
        """Whether the section was not yet read as the one of that path."""
        if id(section) in self.sections[path]:
            return False
        self.sections[path].add(id(section))
        return True

    def ask(self, fits: Callable[[Form, Node], bool], form: Form, value: Node) -> bool:
        """Whether the value fits the form."""
        question = form, id(resolve_alias(value))
        if question not in self._answers:
            self._answers[question] = fits(form, value)
        return self._answers[question]
